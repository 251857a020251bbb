/**
 * What stands for the entries that a log has pruned (FORMAT.md section 6): a text that says of everything below the minimum index what whoever
 * reads on from there must know. It follows from these entries alone, so that who still holds them can make it again; its SHA-256
 * stands in the `retention` entry. Pure.
 *
 *     meshseal/v1/retention
 *     <origin>
 *     <minimum index>
 *     hold <from> <to or -> <name>
 *     key <statement>
 *     chain <id> <next seq> <head> <index of its close or -> <sender> <workload> <sign key>
 *
 * Any number of holds by name, key statements in their order, chains by id. Digests are hex; names, statements and what comes from the
 * network base64, "-" where there is none. Chains that were closed more than KEPT_CLOSED entries before the minimum index are left out.
 */
import { bytesOf, decodeEntry, ENTRY_MALFORMED, Scanner, uintOf } from "../../record/codec.ts";
import {
  CHAIN_BYTES,
  DIGEST_BYTES,
  F_HOLD_ACTION,
  F_HOLD_FROM,
  F_HOLD_NAME,
  F_HOLD_TO,
  F_KEY_STATEMENT,
  F_SENDER_CHAIN,
  F_SENDER_NAME,
  F_SIGN_KEY,
  F_WORKLOAD,
  HOLD_PLACED,
  KIND_CLOSE,
  KIND_HOLD,
  KIND_KEY,
  KIND_OPEN,
  KIND_SENDER,
} from "../../record/fields.ts";
import { hashBundle } from "./hasher.ts";
import { HASH_BYTES } from "./merkle.ts";
import { TILE_WIDTH } from "./tile.ts";

const HEADER = "meshseal/v1/retention";

/** A retention text at most, in bytes: a million of chains. */
export const MAX_RETENTION_BYTES: number = 256 * 1024 ** 2;

/** A log is pruned in whole entry bundles. */
export const PRUNE_STEP: number = TILE_WIDTH;

/** Entries after a close in which its signature may still come. */
const KEPT_CLOSED = 65_536;

export type PrunedChain = {
  next: number;
  head: Buffer;
  /** Index of its close, or -1. */
  closedAt: number;
  /** From `sender` and `open`; empty where there is none. */
  sender: Buffer;
  workload: Buffer;
  signKey: Buffer;
};

/** Entries from `from` to before `to` are held; null is what comes as well. */
export type HeldRange = { readonly from: number; readonly to: number | null };

export class RetentionState {
  readonly origin: string;
  /** Entries that it stands for: the minimum index. */
  index: number;
  /** By id in hex. */
  readonly chains: Map<string, PrunedChain> = new Map();
  /** By name. */
  readonly holds: Map<string, HeldRange> = new Map();
  readonly keys: Buffer[] = [];
  readonly #scanner = new Scanner();

  constructor(origin: string, index = 0) {
    this.origin = origin;
    this.index = index;
  }

  /** Takes the next entry, `bytes` from `start` to `end`, with its digest. Returns false where it does not follow. */
  take(bytes: Buffer, start: number, end: number, digest: Uint8Array): boolean {
    const scanner = this.#scanner;
    if (scanner.scan(bytes, start, end) === ENTRY_MALFORMED) return false;
    const { kind, seq, chainAt, prevAt } = scanner;
    const id = bytes.toString("hex", chainAt, chainAt + CHAIN_BYTES);
    let chain = this.chains.get(id);
    if (chain === undefined) {
      const none = Buffer.alloc(0);
      const head = Buffer.alloc(DIGEST_BYTES);
      chain = { next: seq, head, closedAt: -1, sender: none, workload: none, signKey: none };
      this.chains.set(id, chain);
    } else if (
      chain.next !== seq ||
      bytes.compare(chain.head, 0, DIGEST_BYTES, prevAt, prevAt + DIGEST_BYTES) !== 0
    ) {
      return false;
    }
    chain.next = seq + 1;
    chain.head = Buffer.from(digest);
    if (kind === KIND_CLOSE) chain.closedAt = this.index;
    if (kind === KIND_OPEN || kind >= KIND_HOLD) this.#note(bytes.subarray(start, end), chain);
    this.index++;
    return true;
  }

  #note(bytes: Buffer, chain: PrunedChain): void {
    const entry = decodeEntry(bytes);
    if (entry === null) return;
    const field = (number: number): Buffer => Buffer.from(bytesOf(entry, number) ?? []);
    if (entry.kind === KIND_OPEN) {
      chain.workload = field(F_WORKLOAD);
      chain.signKey = field(F_SIGN_KEY);
    } else if (entry.kind === KIND_SENDER) {
      const of = this.chains.get(field(F_SENDER_CHAIN).toString("hex"));
      if (of !== undefined) of.sender = field(F_SENDER_NAME);
    } else if (entry.kind === KIND_KEY) {
      const statement = bytesOf(entry, F_KEY_STATEMENT);
      if (statement !== undefined) this.keys.push(Buffer.from(statement));
    } else if (entry.kind === KIND_HOLD) {
      const name = field(F_HOLD_NAME).toString("latin1");
      if (uintOf(entry, F_HOLD_ACTION) !== HOLD_PLACED) this.holds.delete(name);
      else {
        const to = uintOf(entry, F_HOLD_TO) ?? null;
        this.holds.set(name, { from: uintOf(entry, F_HOLD_FROM) ?? 0, to });
      }
    }
  }
}

/** Takes all entries of a bundle. Returns false where they do not follow. */
export function takeBundle(state: RetentionState, bundle: Buffer, width: number): boolean {
  const leaves = hashBundle(bundle, width);
  let at = 0;
  for (let i = 0; i < width; i++) {
    if (at + 2 > bundle.length) return false;
    const end = at + 2 + bundle.readUInt16BE(at);
    if (end > bundle.length) return false;
    const leaf = leaves.subarray(i * HASH_BYTES, (i + 1) * HASH_BYTES);
    if (!state.take(bundle, at + 2, end, leaf)) return false;
    at = end;
  }
  return at === bundle.length;
}

/** Returns the lowest index that a hold keeps, or infinity. */
export function lowestHeld(holds: Iterable<HeldRange>): number {
  let lowest = Number.POSITIVE_INFINITY;
  for (const { from } of holds) lowest = Math.min(lowest, from);
  return lowest;
}

export function formatRetention(state: RetentionState): Buffer {
  const lines = [HEADER, state.origin, String(state.index)];
  for (const [name, { from, to }] of sorted(state.holds)) {
    lines.push(`hold ${from} ${to ?? "-"} ${base64(Buffer.from(name, "latin1"))}`);
  }
  for (const statement of state.keys) lines.push(`key ${base64(statement)}`);
  for (const [id, chain] of sorted(state.chains)) {
    const { next, head, closedAt, sender, workload, signKey } = chain;
    if (closedAt >= 0 && closedAt < state.index - KEPT_CLOSED) continue;
    const values = [sender, workload, signKey].map(base64).join(" ");
    const closed = closedAt < 0 ? "-" : closedAt;
    lines.push(`chain ${id} ${next} ${head.toString("hex")} ${closed} ${values}`);
  }
  return Buffer.from(`${lines.join("\n")}\n`);
}

/** Returns the state in `bytes`, or null unless it is exactly one text. */
export function parseRetention(bytes: Uint8Array): RetentionState | null {
  const lines = Buffer.from(bytes).toString("latin1").split("\n");
  const [header, origin, index = ""] = lines;
  if (header !== HEADER || origin === undefined || lines.pop() !== "") return null;
  const state = new RetentionState(Buffer.from(origin, "latin1").toString(), numberOf(index));
  for (const line of lines.slice(3)) {
    const [word, ...parts] = line.split(" ");
    if (word === "hold") {
      const [from = "", to = "", name = ""] = parts;
      const range = { from: numberOf(from), to: to === "-" ? null : numberOf(to) };
      state.holds.set(Buffer.from(name, "base64").toString("latin1"), range);
    } else if (word === "key") {
      state.keys.push(Buffer.from(parts[0] ?? "", "base64"));
    } else if (word === "chain") {
      const [id = "", next = "", head = "", closed = "", ...values] = parts;
      if (!/^[0-9a-f]{32}$/.test(id) || !/^[0-9a-f]{64}$/.test(head)) return null;
      const [sender, workload, signKey] = [0, 1, 2].map((i) => fromBase64(values[i] ?? ""));
      if (sender === undefined || workload === undefined || signKey === undefined) return null;
      state.chains.set(id, {
        next: numberOf(next),
        head: Buffer.from(head, "hex"),
        closedAt: closed === "-" ? -1 : numberOf(closed),
        sender,
        workload,
        signKey,
      });
    } else return null;
  }
  // What is not exactly as it would be written again is not one: NaN, spare digits, another order.
  return formatRetention(state).equals(bytes) ? state : null;
}

function sorted<T>(map: ReadonlyMap<string, T>): [string, T][] {
  return [...map].sort(([a], [b]) => (a < b ? -1 : 1));
}

function base64(bytes: Buffer): string {
  return bytes.length === 0 ? "-" : bytes.toString("base64");
}

function fromBase64(text: string): Buffer {
  return text === "-" ? Buffer.alloc(0) : Buffer.from(text, "base64");
}

/** NaN for what is no number up to 2^53 - 1 in its one form. */
function numberOf(text: string): number {
  return /^(0|[1-9][0-9]{0,15})$/.test(text) ? Number(text) : Number.NaN;
}
