/**
 * What became of every chain in a log: `meshseal chains`. It believes the entries, so verify comes first. Kept evidence of forks and
 * refused batches is named with the chain it is of. Pure.
 */
import { parseBatchHeader } from "../../record/batch.ts";
import { bytesOf, decodeEntry, type Entry, uintOf } from "../../record/codec.ts";
import {
  ABANDONED_FORK,
  ABANDONED_HOLE,
  ABANDONED_MALFORMED,
  ABANDONED_ROLLBACK,
  ABANDONED_TOO_LARGE,
  F_ABANDONED_CAUSE,
  F_ABANDONED_CHAIN,
  F_ABANDONED_COUNT,
  F_GAP_COUNT,
  F_HEARTBEAT_MS,
  F_NODE_ID,
  F_POD,
  F_PRODUCER,
  F_TAKEN_UP,
  F_WORKLOAD,
  KIND_CLOSE,
  KIND_GAP,
  KIND_OPEN,
  KIND_PEERS,
} from "../../record/fields.ts";
import { leafHash } from "../log/merkle.ts";
import { parseNote } from "../log/note.ts";
import { parseReceipt } from "../log/receipt.ts";
import type { Seal } from "./seals.ts";

/**
 * - `closed`: it ended with a close. Nothing is missing after it.
 * - `abandoned`: its maker gave it up after a refusal, and began `by`.
 * - `silent`: no entry for twice its heartbeat bound before the log's newest: its maker died, or is cut off, or the end
 *   was held back.
 * - `sealed`: its proxy's own log says that this was its last entry. What that is worth, `verify --seals` says.
 * - `open`: it spoke within its bound.
 */
export type ChainState = "open" | "silent" | "closed" | "sealed" | "abandoned";

export type Evidence = {
  readonly file: string;
  /** fork, malformed, rollback. */
  readonly cause: string;
  readonly firstSeq: number;
  readonly count: number;
};

export type ChainItem = {
  readonly chain: string;
  readonly state: ChainState;
  readonly first: number;
  readonly last: number;
  /** Time of the last entry by the maker's clock, microseconds since 1970. */
  readonly lastTime: number;
  readonly heartbeatMs: number;
  /** Workload, pod, node or program, whichever its open names first. */
  readonly maker: string;
  /** Requests that its gap entries count. */
  readonly missing: number;
  /** Origin of the log where it began, "" if here. */
  readonly from: string;
  /** Its entries below this seq were pruned. */
  readonly pruned?: number;
  readonly abandoned?: { readonly by: string; readonly cause: string; readonly lost: number };
  readonly evidence: readonly Evidence[];
};

const CAUSES: Readonly<Record<number, string>> = {
  [ABANDONED_MALFORMED]: "malformed",
  [ABANDONED_FORK]: "fork",
  [ABANDONED_HOLE]: "hole",
  [ABANDONED_ROLLBACK]: "rollback",
  [ABANDONED_TOO_LARGE]: "too large",
};

/** A missed heartbeat may be a slow network; two are silence. */
const BOUNDS_OF_SILENCE = 2;

type Seen = {
  first: number;
  last: number;
  lastTime: number;
  heartbeatMs: number;
  maker: string;
  missing: number;
  isClosed: boolean;
  /** Its last entry. */
  bytes: Uint8Array;
};

export class ChainList {
  readonly #seen = new Map<string, Seen>();
  readonly #abandoned = new Map<string, { by: string; cause: string; lost: number }>();
  readonly #from = new Map<string, string>();
  readonly #evidence = new Map<string, Evidence[]>();
  /** Seq and head in the newest seal of each chain. */
  readonly #seals = new Map<string, Pick<Seal, "seq" | "head">>();
  readonly #pruned: ReadonlyMap<string, { readonly next: number }>;
  #newest = 0;

  /** `pruned` are chains of which the log had entries before its first one. */
  constructor(pruned: ReadonlyMap<string, { readonly next: number }> = new Map()) {
    this.#pruned = pruned;
  }

  /** Takes the next entry of the log. */
  visit(bytes: Uint8Array): void {
    const entry = decodeEntry(bytes);
    if (entry === null) return;
    const chain = hex(entry.chain);
    const before = this.#seen.get(chain);
    const seen = before ?? {
      first: entry.seq,
      last: entry.seq,
      lastTime: 0,
      heartbeatMs: 0,
      maker: "",
      missing: 0,
      isClosed: false,
      bytes,
    };
    seen.last = entry.seq;
    seen.bytes = bytes;
    seen.lastTime = entry.time;
    seen.isClosed = entry.kind === KIND_CLOSE;
    this.#newest = Math.max(this.#newest, entry.time);
    if (before === undefined) this.#seen.set(chain, seen);
    if (entry.kind === KIND_OPEN) this.#open(entry, chain, seen);
    if (entry.kind === KIND_GAP) seen.missing += uintOf(entry, F_GAP_COUNT) ?? 0;
    if (entry.kind === KIND_PEERS) {
      const note = parseNote(bytesOf(entry, F_TAKEN_UP) ?? new Uint8Array());
      const receipt = note === null ? null : parseReceipt(note.text);
      if (receipt !== null) this.#from.set(receipt.chain, receipt.origin);
    }
  }

  /** Takes a batch that was kept because it was refused for good: `name` is `<cause>-<digest>.batch`. */
  keep(name: string, batch: Uint8Array): void {
    const header = parseBatchHeader(batch);
    if (header === null) return;
    const chain = hex(header.chain);
    const kept = this.#evidence.get(chain) ?? [];
    const cause = name.split("-")[0] ?? "";
    kept.push({ file: name, cause, firstSeq: header.firstSeq, count: header.count });
    this.#evidence.set(chain, kept);
  }

  /** Takes a seal line of a proxy's own log. */
  seal({ chain, seq, head }: Seal): void {
    if (seq >= (this.#seals.get(chain)?.seq ?? 0)) this.#seals.set(chain, { seq, head });
  }

  /**
   * Returns every chain in the order of its first entry; those of which only evidence is held come last. Silent is who said nothing for
   * `silentAfter` seconds, or for twice its bound if absent.
   */
  list(silentAfter?: number): ChainItem[] {
    const items = [...this.#seen].map(([chain, seen]) => this.#item(chain, seen, silentAfter));
    for (const [chain, evidence] of this.#evidence) {
      if (this.#seen.has(chain)) continue;
      const none = { first: -1, last: -1, lastTime: 0, heartbeatMs: 0, maker: "", missing: 0 };
      items.push({ chain, state: "silent", ...none, from: "", evidence });
    }
    return items;
  }

  #open(entry: Entry, chain: string, seen: Seen): void {
    seen.heartbeatMs = uintOf(entry, F_HEARTBEAT_MS) ?? 0;
    for (const field of [F_PRODUCER, F_NODE_ID, F_POD, F_WORKLOAD]) {
      const name = bytesOf(entry, field);
      if (name !== undefined && name.length > 0) seen.maker = printable(name);
    }
    const old = bytesOf(entry, F_ABANDONED_CHAIN);
    if (old === undefined) return;
    const cause = CAUSES[uintOf(entry, F_ABANDONED_CAUSE) ?? 0] ?? "unknown";
    const lost = uintOf(entry, F_ABANDONED_COUNT) ?? 0;
    this.#abandoned.set(hex(old), { by: chain, cause, lost });
  }

  #item(chain: string, { isClosed, bytes, ...seen }: Seen, silentAfter?: number): ChainItem {
    const abandoned = this.#abandoned.get(chain);
    const pruned = this.#pruned.get(chain)?.next;
    const seal = this.#seals.get(chain);
    const isSealed = seal?.seq === seen.last && seal.head === hex(leafHash(bytes));
    const bound =
      silentAfter === undefined
        ? seen.heartbeatMs * 1000 * BOUNDS_OF_SILENCE
        : silentAfter * 1_000_000;
    const isSilent = bound > 0 && this.#newest - seen.lastTime > bound;
    const state = isClosed
      ? "closed"
      : abandoned !== undefined
        ? "abandoned"
        : isSealed
          ? "sealed"
          : isSilent
            ? "silent"
            : "open";
    return {
      chain,
      state,
      ...seen,
      from: seen.first > 0 && pruned === undefined ? (this.#from.get(chain) ?? "unknown") : "",
      ...(pruned === undefined ? {} : { pruned }),
      ...(abandoned === undefined ? {} : { abandoned }),
      evidence: this.#evidence.get(chain) ?? [],
    };
  }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

/** What comes from the network never reaches a terminal as it is. */
function printable(bytes: Uint8Array): string {
  return Buffer.from(bytes)
    .toString("latin1")
    .replaceAll(/[^\x20-\x7e]/g, "?");
}
