/**
 * Gives entries their place in the log and makes them durable, in this order:
 *
 *     append -> WAL, fsync (a group at a time) -> durable, receipted -> publisher: tiles, checkpoint -> synced -> WAL pruned
 *
 * What was appended while one group is fsynced is the next group. A WAL or publisher that fails is reported to `onFatal`:
 * nothing is tried again after a failed fsync. A publisher that is behind holds the next group back, or, where its store
 * may be away for hours, gets the rest from the WAL later (`fromWal`).
 */
import { hash } from "node:crypto";
import { ENTRY_PREFIX_BYTES } from "../../record/wire.ts";
import { codeOf, MeshsealError } from "../errors.ts";
import type { Store } from "../store/store.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { Group } from "./group.ts";
import { hashLeaves } from "./hasher.ts";
import { HASH_BYTES } from "./merkle.ts";
import type { Publishing } from "./remote-publisher.ts";
import { parseBundle, TILE_WIDTH, tilePath } from "./tile.ts";
import { formatRecord, type Wal } from "./wal.ts";

/** Time between two tries when the disk is full, in milliseconds. */
const RETRY_MS = 500;

/** Bytes of entries hashed in one call. */
const HASH_AT_ONCE_BYTES = 1024 * 1024;

/** Bytes the publisher may be behind before the next group waits. */
const MAX_BEHIND_BYTES = 16 * 1024 * 1024;

/** Bundles that are read while one is looked at: a store may be some milliseconds away. */
const READS_AHEAD = 16;

/** Groups whose memory the publisher may have; one more is filled and one written. What comes beyond is copied for it. */
const MAX_LENT = 6;

export type SequencerOptions = {
  readonly wal: Wal;
  readonly publisher: Publishing;
  /** To read what was published. */
  readonly store: Pick<Store, "get">;
  /** Makes what others remember of the log durable, before the WAL forgets it. */
  readonly beforePrune: () => Promise<void>;
  readonly onFatal: (error: unknown) => void;
  /** A publisher that is behind is fed from the WAL, and groups go on. */
  readonly fromWal?: boolean;
};

/** Gets entries of the log in order at start: bytes without prefix, leaf hash and leaf index. */
export type EntryVisitor = (entry: Buffer, leaf: Uint8Array, index: number) => void;

type Waiting = { readonly resolve: () => void; readonly reject: (error: unknown) => void };

export class Sequencer {
  readonly #options: SequencerOptions;
  /** Next leaf index to give away, and how many leaves are in the WAL durably. */
  #next = 0;
  #durable = 0;
  #checkpoint: Checkpoint = { origin: "", size: 0, root: new Uint8Array(HASH_BYTES) };
  #signedAt = Date.now();
  /** What waits for the next write, and groups whose memory can be used again. */
  #group = new Group();
  readonly #spare: Group[] = [];
  #lent = 0;
  #waiting: Waiting[] = [];
  #flushing: Promise<void> | null = null;
  #behindBytes = 0;
  /** How many leaves the publisher was given, and what gives it the rest out of the WAL. */
  #fed = 0;
  #feeding: Promise<void> | null = null;
  #pruning: Promise<void> | null = null;
  #isDiskFull = false;
  #isDead = false;

  constructor(options: SequencerOptions) {
    this.#options = options;
  }

  /** The newest published checkpoint. */
  get checkpoint(): Checkpoint {
    return this.#checkpoint;
  }

  /** Unix time in milliseconds of the newest checkpoint, or of the start. */
  get signedAt(): number {
    return this.#signedAt;
  }

  /** Leaves that have a place. */
  get size(): number {
    return this.#next;
  }

  /** Leaves that are durable and not yet below a published checkpoint. */
  get unpublished(): number {
    return this.#durable - this.#checkpoint.size;
  }

  /** Bytes that wait for their fsync. */
  get waitingBytes(): number {
    return this.#group.bytes;
  }

  get isDiskFull(): boolean {
    return this.#isDiskFull;
  }

  /**
   * Reads log and WAL back, and lets `visit` see every entry from leaf `known` on. Throws MeshsealError where they
   * contradict each other, the key, or what is known.
   */
  async recover(known: number, visit: EntryVisitor): Promise<void> {
    const { wal, publisher } = this.#options;
    await wal.open();
    // The first multiple of 256 from which on the WAL has every entry: below it all tiles are full and synced.
    const start = wal.first === -1 ? -1 : Math.ceil(wal.first / TILE_WIDTH) * TILE_WIDTH;
    const { size } = await publisher.restore(start);
    this.#next = start === -1 ? size : start;
    await this.#visitPublished(known, size, visit);
    if (start === -1 && size % TILE_WIDTH > 0) await this.#keepPartialBundle(size);
    this.#fed = this.#next;
    let fedBytes = 0;
    for await (const { firstIndex, entries } of wal.records()) {
      const leaves = this.#leavesOf(entries, firstIndex, known, visit);
      const next = firstIndex + leaves.length / HASH_BYTES;
      if (!this.#options.fromWal || this.#next < size || fedBytes < MAX_BEHIND_BYTES) {
        await publisher.add(formatRecord(firstIndex, [entries], 0), leaves);
        this.#fed = next;
        fedBytes += entries.length;
      }
      this.#next = Math.max(this.#next, next);
    }
    if (this.#next < known) {
      throw new MeshsealError(
        `the log has ${this.#next} entries, but ${known} were durable before: a part of wal/ or log/ is missing. Restore it, or move the data directory away and keep it as evidence.`,
      );
    }
    this.#durable = this.#next;
    this.#checkpoint = await publisher.recovered();
    if (this.#fed < this.#durable) this.#feeding ??= this.#feed();
  }

  /**
   * Gives entries (as a batch has them: `uint16 length || 0x00 || bytes`) the next places. `leaves` are their leaf hashes.
   * Returns the first leaf index and a promise that resolves when they are durable. Both are copied.
   */
  append(entries: Buffer, leaves: Buffer): { firstIndex: number; durable: Promise<void> } {
    const firstIndex = this.#next;
    this.#next += leaves.length / HASH_BYTES;
    if (this.#group.isEmpty) this.#group.begin(firstIndex, this.#options.wal.seed);
    this.#group.add(entries, leaves);
    const durable = this.whenDurable();
    // Who asks whenDurable later need not look at this one.
    durable.catch(() => undefined);
    return { firstIndex, durable };
  }

  /** Resolves when everything appended so far is durable. */
  whenDurable(): Promise<void> {
    if (this.#isDead) return Promise.reject(new Error("the log cannot be written"));
    if (this.#group.isEmpty && this.#flushing === null) return Promise.resolve();
    const wait = new Promise<void>((resolve, reject) => this.#waiting.push({ resolve, reject }));
    this.#flushing ??= this.#flush();
    return wait;
  }

  /** Publishes a checkpoint over all that is durable, if it is more than the last one covers. */
  async publish(): Promise<void> {
    if (this.#isDead) return;
    try {
      const checkpoint = await this.#options.publisher.publish();
      if (checkpoint.size <= this.#checkpoint.size) return;
      this.#checkpoint = checkpoint;
      this.#signedAt = Date.now();
    } catch (error) {
      this.#die(error);
      throw error;
    }
  }

  /** Makes everything durable and published. */
  async close(): Promise<void> {
    const { publisher, wal } = this.#options;
    await this.whenDurable();
    await this.#feeding;
    await this.publish();
    await this.#pruning;
    await this.#prune();
    await publisher.close();
    await wal.close();
  }

  async #flush(): Promise<void> {
    // Lets the batches that have arrived in this turn join the group.
    await new Promise((resolve) => setImmediate(resolve));
    while (this.#waiting.length > 0) {
      const group = this.#group;
      const waiting = this.#waiting;
      this.#group = this.#spare.pop() ?? new Group();
      this.#waiting = [];
      try {
        if (!group.isEmpty) await this.#writeGroup(group);
        else this.#keep(group);
      } catch (error) {
        for (const { reject } of waiting) reject(error);
        this.#die(error);
        return;
      }
      for (const { resolve } of waiting) resolve();
      if (this.#options.wal.isPrunable) this.#pruning ??= this.#prune();
    }
    this.#flushing = null;
  }

  async #writeGroup(group: Group): Promise<void> {
    const { first } = group;
    await this.#untilRoom(() => this.#options.wal.append(first, group.record, group.sum));
    this.#durable += group.count;
    const isBehind = this.#behindBytes > MAX_BEHIND_BYTES;
    if (this.#options.fromWal && (isBehind || this.#fed < first)) {
      this.#feeding ??= this.#feed();
      this.#keep(group);
      return;
    }
    const added = this.#lend(group);
    if (this.#behindBytes > MAX_BEHIND_BYTES && !this.#options.fromWal) await added;
  }

  async #lend(group: Group): Promise<void> {
    if (this.#lent >= MAX_LENT) {
      const copy = [owned([group.record]), owned([group.leaves])] as const;
      this.#keep(group);
      return this.#give(...copy);
    }
    this.#lent++;
    await this.#give(group.record, group.leaves);
    this.#lent--;
    this.#keep(group);
  }

  /** Keeps a group's memory for one to come. */
  #keep(group: Group): void {
    if (group.clear()) this.#spare.push(group);
  }

  /** Hands a record to the publisher. Resolves when it has it. */
  async #give(record: Buffer, leaves: Buffer): Promise<void> {
    const bytes = record.length;
    this.#behindBytes += bytes;
    this.#fed += leaves.length / HASH_BYTES;
    try {
      await this.#options.publisher.add(record, leaves);
      this.#behindBytes -= bytes;
    } catch (error) {
      this.#die(error);
    }
  }

  /** Gives the publisher what stands in the WAL only, a little at a time, until it has caught up. */
  async #feed(): Promise<void> {
    try {
      while (this.#fed < this.#durable && !this.#isDead) {
        const durable = this.#durable;
        for await (const { firstIndex, entries } of this.#options.wal.records(this.#fed)) {
          if (firstIndex >= durable || this.#isDead) break;
          const leaves = this.#leavesOf(entries, firstIndex, 0, () => {});
          const added = this.#give(formatRecord(firstIndex, [entries], 0), leaves);
          if (this.#behindBytes > MAX_BEHIND_BYTES) await added;
        }
      }
      this.#feeding = null;
    } catch (error) {
      this.#die(error);
    }
  }

  async #untilRoom(write: () => Promise<void>): Promise<void> {
    for (;;) {
      try {
        await write();
        this.#isDiskFull = false;
        return;
      } catch (error) {
        if (codeOf(error) !== "ENOSPC" && codeOf(error) !== "EDQUOT") throw error;
        this.#isDiskFull = true;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }

  async #prune(): Promise<void> {
    let isIndex = false;
    try {
      const synced = await this.#options.publisher.sync();
      isIndex = true;
      await this.#options.beforePrune();
      isIndex = false;
      await this.#options.wal.prune(synced);
    } catch (error) {
      // The index may wait for room: the WAL keeps what it lacks. An fsync of tiles is never tried again.
      if (codeOf(error) !== "ENOSPC" || !isIndex) this.#die(error);
    } finally {
      this.#pruning = null;
    }
  }

  #die(error: unknown): void {
    if (this.#isDead) return;
    this.#isDead = true;
    for (const { reject } of this.#waiting.splice(0)) reject(error);
    this.#options.onFatal(error);
  }

  /** Shows `visit` the published entries from `known` on that the WAL does not have. */
  async #visitPublished(known: number, size: number, visit: EntryVisitor): Promise<void> {
    const ahead: Promise<Uint8Array[]>[] = [];
    let read = known - (known % TILE_WIDTH);
    for (let at = read; at < this.#next; at += TILE_WIDTH) {
      for (; read < this.#next && ahead.length < READS_AHEAD; read += TILE_WIDTH) {
        const bundle = this.#readBundle(read, size);
        bundle.catch(() => undefined);
        ahead.push(bundle);
      }
      for (const [i, entry] of ((await ahead.shift()) ?? []).entries()) {
        const index = at + i;
        if (index < known || index >= this.#next) continue;
        const prefixed = Buffer.concat([Buffer.of(0), entry]);
        visit(Buffer.from(entry), hash("sha256", prefixed, "buffer"), index);
      }
    }
  }

  /** A log that came without its WAL: the entries of its partial bundle are written to it, since all others are in full ones. */
  async #keepPartialBundle(size: number): Promise<void> {
    const first = size - (size % TILE_WIDTH);
    const entries = await this.#readBundle(first, size);
    const prefixed = entries.map((entry) =>
      Buffer.concat([Buffer.of(entry.length >> 8, entry.length & 0xff, 0), entry]),
    );
    await this.#options.wal.append(first, formatRecord(first, prefixed, 0));
  }

  async #readBundle(first: number, size: number): Promise<Uint8Array[]> {
    const width = Math.min(TILE_WIDTH, size - first);
    const path = tilePath({ level: "entries", index: first / TILE_WIDTH, width });
    const bytes = await this.#options.store.get(path);
    const entries = bytes === null ? null : parseBundle(bytes, width);
    if (entries === null) throw new MeshsealError(`${path} is missing or damaged: run verify.`);
    return entries;
  }

  #leavesOf(entries: Buffer, firstIndex: number, known: number, visit: EntryVisitor): Buffer {
    const all: Buffer[] = [];
    let index = firstIndex;
    for (let from = 0; from < entries.length; ) {
      const starts: number[] = [];
      let to = from;
      for (; to < entries.length && to - from < HASH_AT_ONCE_BYTES; ) {
        starts.push(to);
        to += ENTRY_PREFIX_BYTES + entries.readUInt16BE(to);
      }
      const leaves = hashLeaves(entries.subarray(from, to), starts.length);
      all.push(leaves);
      for (const [i, start] of starts.entries()) {
        if (index >= known && index >= this.#next) {
          const leaf = leaves.subarray(i * HASH_BYTES, (i + 1) * HASH_BYTES);
          const entry = entries.subarray(start + ENTRY_PREFIX_BYTES, starts[i + 1] ?? to);
          visit(entry, leaf, index);
        }
        index++;
      }
      from = to;
    }
    return owned(all);
  }
}

/** Returns the parts one behind the other in an ArrayBuffer of their own. */
function owned(parts: readonly Buffer[]): Buffer {
  const all = Buffer.allocUnsafeSlow(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) at += part.copy(all, at);
  return all;
}
