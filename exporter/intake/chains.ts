/**
 * What the log holds of each chain: next seq, head, and where its entries lie. On disk it is an index (LMDB) that follows
 * from the log and can be removed: it is then made anew at the next start. What came since the last `save` is in memory
 * only, as are the chains that were asked for last.
 *
 * A chain's place in the log is kept as runs of neighbours, one a batch at most, so that the digest of any seq can be found
 * again exactly: a replay is told from a fork at any depth.
 *
 * A wrong index would let a chain begin twice. So each value carries a check sum over itself and its key, and at the start all
 * rows are checked and the chains counted. What is damaged is made anew; where opening it ends the process (LMDB maps the file, and
 * a torn tree can be a SIGBUS), the next start does.
 */
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { crc32 } from "node:zlib";
import { open, type RootDatabase } from "lmdb";
import { CHAIN_BYTES, DIGEST_BYTES } from "../../record/fields.ts";

/** One chain. `head` is the digest of entry nextSeq - 1. */
export type Chain = {
  nextSeq: number;
  readonly head: Buffer;
  /** Who may send its batches; "" where anyone may. */
  sender: string;
  /** First seq and first leaf index of the newest run. */
  runSeq: number;
  runIndex: number;
  /** The runs that are not on disk yet, oldest first: seq and leaf index in turn. Not empty: the chain has changed. */
  unsaved: number[];
};

/** A leaf index that no log reaches. */
const NOWHERE = Number.MAX_SAFE_INTEGER;

/** Chains in memory beyond those that have changed. */
const CACHED = 20_000;

// Keys: a byte for what it is, the chain's id, and for runs the first seq. Numbers are 8 bytes, big-endian.
const KEY_CHAIN = 0x63;
const KEY_RUN = 0x72;
const META = Buffer.from("m");
const NUMBER_BYTES = 8;
const CHAIN_VALUE_BYTES = DIGEST_BYTES + 3 * NUMBER_BYTES;
const SUM_BYTES = 4;

/** The index is not as it was written. */
export class IndexDamaged extends Error {
  override name = "IndexDamaged";
}

/**
 * Opens the index in `dir`. One that is damaged, or that the last start did not survive, is removed and begins empty. `started` is to
 * be called when the start is over.
 */
export async function openChains(
  dir: string,
): Promise<{ readonly chains: Chains; readonly started: () => void }> {
  const marker = `${dir}.opening`;
  if (existsSync(marker)) rmSync(dir, { recursive: true, force: true });
  writeFileSync(marker, "");
  let chains = new Chains(dir);
  if (!chains.check()) {
    await chains.close();
    rmSync(dir, { recursive: true, force: true });
    chains = new Chains(dir);
  }
  return { chains, started: () => rmSync(marker, { force: true }) };
}

/** The chains of one log, by id in hex. */
export class Chains {
  readonly #db: RootDatabase<Buffer, Buffer>;
  readonly #chains = new Map<string, Chain>();
  #changed = new Set<string>();
  #count = 0;
  #size = 0;

  /** Opens the index in `dir`, which is made if it is not there. */
  constructor(dir: string) {
    this.#db = open<Buffer, Buffer>({ path: dir, keyEncoding: "binary", encoding: "binary" });
  }

  /** Reads what the index says of itself and checks every row, which touches every page. Returns false where one is damaged. */
  check(): boolean {
    try {
      const sealed = this.#db.get(META);
      let count = 0;
      for (const { key, value } of this.#db.getRange({})) {
        const row = unseal(key, value);
        if (key[0] === KEY_CHAIN && parseChain(row) === undefined) return false;
        if (key[0] === KEY_CHAIN) count++;
      }
      if (sealed === undefined) return count === 0;
      const meta = unseal(META, sealed);
      if (meta.length !== 2 * NUMBER_BYTES) return false;
      this.#size = Number(meta.readBigUInt64BE(0));
      this.#count = Number(meta.readBigUInt64BE(NUMBER_BYTES));
      return count === this.#count;
    } catch {
      return false;
    }
  }

  /** Leaves of the log that are in the index. */
  get size(): number {
    return this.#size;
  }

  get count(): number {
    return this.#count;
  }

  get(id: string): Chain | undefined {
    const held = this.#chains.get(id);
    if (held !== undefined) return held;
    const key = chainKey(id);
    const sealed = this.#db.get(key);
    const chain = sealed === undefined ? undefined : parseChain(unseal(key, sealed));
    if (chain !== undefined) this.#keep(id, chain);
    return chain;
  }

  /** Notes `count` entries of a chain from `seq` on at leaves from `index` on; `head` is the last one's digest. */
  extend(id: string, seq: number, index: number, count: number, head: Uint8Array): void {
    let chain = this.get(id);
    if (chain === undefined) {
      const owned = Buffer.alloc(DIGEST_BYTES);
      chain = {
        nextSeq: 0,
        head: owned,
        sender: "",
        runSeq: seq,
        runIndex: index,
        unsaved: [seq, index],
      };
      this.#chains.set(id, chain);
      this.#count++;
    } else if (index - chain.runIndex !== seq - chain.runSeq) {
      // Neighbours in chain and log alike go on in the same run.
      chain.runSeq = seq;
      chain.runIndex = index;
      chain.unsaved.push(seq, index);
    }
    chain.nextSeq = seq + count;
    chain.head.set(head);
    this.#changed.add(id);
  }

  /** Notes a chain whose entries so far were pruned: nothing says where they lay. */
  restore(id: string, nextSeq: number, head: Buffer, sender: string): void {
    if (this.get(id) === undefined) this.#count++;
    // No entry can be a neighbour of that place, so that the next one begins a run.
    const run = { runSeq: nextSeq, runIndex: NOWHERE };
    this.#chains.set(id, { nextSeq, head: Buffer.from(head), sender, ...run, unsaved: [] });
    this.#changed.add(id);
  }

  /** Notes who may send batches of a chain that is held. */
  bind(id: string, sender: string): void {
    const chain = this.get(id);
    if (chain === undefined) return;
    chain.sender = sender;
    this.#changed.add(id);
  }

  /** Returns the leaf index of `seq`, or -1 for one before the first that the log holds of the chain. */
  indexOf(id: string, seq: number): number {
    const { unsaved } = this.get(id) ?? { unsaved: [] };
    for (let at = unsaved.length - 2; at >= 0; at -= 2) {
      const first = unsaved[at] ?? 0;
      if (first <= seq) return (unsaved[at + 1] ?? 0) + seq - first;
    }
    const from = { start: runKey(id, seq), end: runKey(id, 0), reverse: true, limit: 1 };
    for (const { key, value } of this.#db.getRange({ ...from, inclusiveEnd: true })) {
      const first = Number(key.readBigUInt64BE(1 + CHAIN_BYTES));
      return Number(unseal(key, value).readBigUInt64BE(0)) + seq - first;
    }
    return -1;
  }

  /** Writes what has changed since the last time, once the log has made it `durable`: then it covers `size` leaves. */
  async save(size: number, durable: Promise<void>): Promise<void> {
    const rows: [Buffer, Buffer][] = [];
    for (const id of this.#changed) {
      const chain = this.#chains.get(id);
      if (chain === undefined) continue;
      rows.push([chainKey(id), formatChain(chain)]);
      for (let at = 0; at < chain.unsaved.length; at += 2) {
        rows.push([runKey(id, chain.unsaved[at] ?? 0), formatNumbers(chain.unsaved[at + 1] ?? 0)]);
      }
    }
    const saved = [...this.#changed].map((id) => [id, this.#chains.get(id)?.unsaved.length ?? 0]);
    const meta = formatNumbers(size, this.#count);
    this.#changed = new Set();
    await durable;
    try {
      this.#db.transactionSync(() => {
        for (const [key, value] of rows) this.#db.putSync(key, seal(key, value));
        this.#db.putSync(META, seal(META, meta));
      });
      await this.#db.flushed;
    } catch (error) {
      // Nothing of it was written. It all comes again with the next save.
      for (const [id] of saved as [string, number][]) this.#changed.add(id);
      throw isNoRoom(error) ? Object.assign(new Error("the index"), { code: "ENOSPC" }) : error;
    }
    this.#size = size;
    for (const [id, length] of saved as [string, number][]) {
      this.#chains.get(id)?.unsaved.splice(0, length);
    }
    this.#evict();
  }

  close(): Promise<void> {
    return this.#db.close();
  }

  #keep(id: string, chain: Chain): void {
    this.#chains.set(id, chain);
    if (this.#chains.size > 2 * CACHED) this.#evict();
  }

  /** Forgets the chains that came first and are as they are on disk. */
  #evict(): void {
    for (const [id, { unsaved }] of this.#chains) {
      if (this.#chains.size <= CACHED) return;
      if (unsaved.length === 0 && !this.#changed.has(id)) this.#chains.delete(id);
    }
  }
}

/** LMDB has its own errors, with errno as their code. */
function isNoRoom(error: unknown): boolean {
  const { code, message } = error as { code?: unknown; message?: unknown };
  return code === constants.errno.ENOSPC || String(message).includes("No space left");
}

/** A value with the check sum of its key and itself behind it. */
function seal(key: Buffer, value: Buffer): Buffer {
  const sum = Buffer.alloc(SUM_BYTES);
  sum.writeUInt32BE(crc32(value, crc32(key)));
  return Buffer.concat([value, sum]);
}

/** Returns the value in `sealed`. Throws IndexDamaged where the sum is another. */
function unseal(key: Buffer, sealed: Buffer): Buffer {
  const value = sealed.subarray(0, -SUM_BYTES);
  if (sealed.length < SUM_BYTES || sealed.readUInt32BE(value.length) !== crc32(value, crc32(key))) {
    throw new IndexDamaged("the index of chains is damaged: stop, remove index/, and start again");
  }
  return value;
}

function chainKey(id: string): Buffer {
  const key = Buffer.alloc(1 + CHAIN_BYTES, KEY_CHAIN);
  key.write(id, 1, "hex");
  return key;
}

function runKey(id: string, seq: number): Buffer {
  const key = Buffer.alloc(1 + CHAIN_BYTES + NUMBER_BYTES, KEY_RUN);
  key.write(id, 1, "hex");
  key.writeBigUInt64BE(BigInt(seq), 1 + CHAIN_BYTES);
  return key;
}

function formatNumbers(...numbers: readonly number[]): Buffer {
  const bytes = Buffer.alloc(numbers.length * NUMBER_BYTES);
  for (const [i, number] of numbers.entries())
    bytes.writeBigUInt64BE(BigInt(number), i * NUMBER_BYTES);
  return bytes;
}

function formatChain({ nextSeq, head, sender, runSeq, runIndex }: Chain): Buffer {
  return Buffer.concat([head, formatNumbers(nextSeq, runSeq, runIndex), Buffer.from(sender)]);
}

function parseChain(bytes: Buffer | undefined): Chain | undefined {
  if (bytes === undefined || bytes.length < CHAIN_VALUE_BYTES) return undefined;
  const number = (at: number): number =>
    Number(bytes.readBigUInt64BE(DIGEST_BYTES + at * NUMBER_BYTES));
  return {
    head: Buffer.from(bytes.subarray(0, DIGEST_BYTES)),
    nextSeq: number(0),
    sender: bytes.toString("utf8", CHAIN_VALUE_BYTES),
    runSeq: number(1),
    runIndex: number(2),
    unsaved: [],
  };
}
