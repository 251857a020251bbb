/**
 * Follows every chain through a log: each link exactly once and in order (the check that immudb missed in
 * CVE-2022-36111), kinds, gaps, and the receipts that heartbeats carry. Pure.
 */
import { bytesOf, decodeEntry, type Entry, uintOf } from "../../record/codec.ts";
import {
  F_GAP_COUNT,
  F_KEY_STATEMENT,
  F_RECEIPT,
  F_STREAM_ID,
  F_TAKEN_UP,
  KIND_CLOSE,
  KIND_GAP,
  KIND_HEARTBEAT,
  KIND_KEY,
  KIND_PEERS,
  KIND_REQUEST,
  KIND_REQUEST_START,
  KIND_SIGNATURE,
  kindName,
} from "../../record/fields.ts";
import { equalBytes } from "../log/merkle.ts";
import { parseNote } from "../log/note.ts";
import { openReceipt, parseReceipt, type Receipt } from "../log/receipt.ts";
import type { RetentionState } from "../log/retention.ts";
import { TILE_WIDTH } from "../log/tile.ts";
import { LearnedKeys } from "./learned-keys.ts";
import { OwnWords } from "./own-words.ts";
import type { ProxyWalk } from "./proxies.ts";
import { RetentionWords } from "./pruned.ts";
import type { ChainReport, Finding, Findings } from "./report.ts";
import type { Span } from "./span.ts";
import { type LogTrust, logKeysAt } from "./trust.ts";

type State = {
  first: number;
  next: number;
  head: Uint8Array;
  entries: number;
  isClosed: boolean;
  time: number;
  prev: Uint8Array;
  from: string;
  /** Entries of it that were pruned. */
  pruned: number;
};

/** A tree that a receipt inside the log speaks of. */
export type Claim = {
  readonly index: number;
  readonly treeSize: number;
  readonly root: Uint8Array;
};

/** A receipt whose key is not known yet: a later entry may tell of it. */
type Unsigned = {
  readonly chain: string;
  readonly seq: number;
  readonly index: number;
  readonly bytes: Uint8Array;
};

/** Such receipts kept at most; what is beyond is judged at once. */
const MAX_UNSIGNED = 10_000;

/** The entry of a stream's beginning. */
export type Begun = { readonly index: number; readonly chain: string; readonly seq: number };

export class ChainWalk {
  readonly #learned = new LearnedKeys();
  readonly #unsigned: Unsigned[] = [];
  readonly #states = new Map<string, State>();
  readonly #findings: Findings;
  readonly #origin: string;
  readonly #logs: readonly LogTrust[];
  readonly #proxies: ProxyWalk;
  readonly kinds: Record<string, number> = {};
  readonly words: OwnWords = new OwnWords();
  readonly retention: RetentionWords;
  readonly gaps: { count: number; entries: number } = { count: 0, entries: 0 };
  /** Trees to be recomputed, one a size. */
  readonly claims: Map<number, Claim> = new Map();
  /** Parts of chains that other logs hold. They count, unless those logs are verified together with this one. */
  readonly elsewhere: Finding[] = [];
  readonly #takenUp = new Map<string, { readonly receipt: Receipt; readonly isSigned: boolean }>();
  /** Where each stream began that has not ended so far, by its id in hex. */
  readonly #begun = new Map<string, Begun>();
  /** The latest time in each bundle, in microseconds. */
  readonly newest: number[] = [];
  clockSteps = 0;
  foreignReceipts = 0;

  /** `logs` are the keys of the log named `origin`, and of others. */
  constructor(
    findings: Findings,
    origin: string,
    logs: readonly LogTrust[],
    proxies: ProxyWalk,
    begin: RetentionState | null = null,
  ) {
    this.#findings = findings;
    this.retention = new RetentionWords(findings, begin);
    this.#proxies = proxies;
    this.#origin = origin;
    this.#logs = logs;
    for (const statement of begin?.keys ?? []) this.#learned.add(statement);
    for (const [chain, { next, head, closedAt, ...facts }] of begin?.chains ?? []) {
      this.#states.set(chain, {
        first: next,
        next,
        head,
        entries: 0,
        isClosed: closedAt >= 0,
        time: 0,
        prev: head,
        from: "",
        pruned: next,
      });
      proxies.begin(chain, next - 1, facts);
    }
  }

  /** Takes the entry at `index`, whose digest is in the tree. */
  visit(bytes: Uint8Array, digest: Uint8Array, index: number): void {
    const entry = decodeEntry(bytes);
    if (entry === null) {
      const message = `entry ${index} is not in the canonical form of FORMAT.md`;
      this.#findings.add({ severity: "tampered", cause: "malformed", index, message });
      return;
    }
    const chain = Buffer.from(entry.chain).toString("hex");
    const bundle = Math.floor(index / TILE_WIDTH);
    this.newest[bundle] = Math.max(this.newest[bundle] ?? 0, entry.time);
    this.#count(entry.kind, 1);
    this.#noteNewer(entry, chain, index);
    this.#follow(entry, chain, digest, index);
    this.#proxies.visit(entry, chain, index);
    this.#noteFacts(entry, chain, index, bytes);
  }

  /**
   * Takes a span, all of whose entries are right by themselves, as `visit` would take each of them. Returns false where a
   * chain does not go on as it was left: then nothing is taken, and `visit` says what is wrong.
   */
  join(span: Span): boolean {
    for (const { chain, first, prev } of span.stretches) {
      const state = this.#states.get(chain);
      if (state === undefined ? first !== 0 : first !== state.next || state.isClosed) return false;
      if (state !== undefined && !equalBytes(prev, state.head)) return false;
    }
    for (const { chain, first, prev, firstTime, next, head, isClosed, time } of span.stretches) {
      const state = this.#states.get(chain);
      if (state !== undefined && firstTime < state.time) this.clockSteps++;
      const entries = (state?.entries ?? 0) + next - first;
      this.#states.set(chain, {
        first: state?.first ?? first,
        next,
        head,
        entries,
        isClosed,
        time,
        prev: state?.prev ?? prev,
        from: state?.from ?? "",
        pruned: state?.pruned ?? 0,
      });
    }
    for (const [kind, count] of span.kinds) this.#count(kind, count);
    this.clockSteps += span.clockSteps;
    for (const { index, bytes } of span.noted) {
      const entry = decodeEntry(bytes);
      if (entry === null) continue;
      const chain = Buffer.from(entry.chain).toString("hex");
      this.#noteNewer(entry, chain, index);
      this.#proxies.visit(entry, chain, index);
      this.#noteFacts(entry, chain, index, bytes);
    }
    for (const { chain, next } of span.stretches) this.#proxies.reach(chain, next - 1);
    return true;
  }

  #count(kind: number, entries: number): void {
    const name = kindName(kind) || "unknown";
    this.kinds[name] = (this.kinds[name] ?? 0) + entries;
  }

  #noteNewer(entry: Entry, chain: string, index: number): void {
    if (entry.isNewer) {
      const message = `entry ${index} has a field or kind that this version does not know: use a newer meshseal`;
      this.#findings.add({
        severity: "cannot-say",
        cause: "newer",
        index,
        chain,
        seq: entry.seq,
        message,
      });
    }
  }

  #noteFacts(entry: Entry, chain: string, index: number, bytes: Uint8Array): void {
    if (entry.kind === KIND_GAP) {
      const count = uintOf(entry, F_GAP_COUNT) ?? 0;
      this.gaps.count += count;
      this.gaps.entries++;
      const message = `${count} requests were seen and not written before seq ${entry.seq} of chain ${chain}`;
      this.#findings.add({
        severity: "incomplete",
        cause: "gap",
        index,
        chain,
        seq: entry.seq,
        message,
      });
    }
    this.words.visit(entry);
    this.retention.visit(entry, index);
    if (entry.kind === KIND_KEY) this.#learned.add(bytesOf(entry, F_KEY_STATEMENT) ?? bytes);
    if (entry.kind === KIND_HEARTBEAT) this.#readReceipt(entry, chain, index);
    if (entry.kind === KIND_PEERS) this.#readTakenUp(entry);
    if (entry.kind === KIND_REQUEST_START || entry.kind === KIND_REQUEST) {
      const id = bytesOf(entry, F_STREAM_ID);
      if (id === undefined) return;
      const key = Buffer.from(id).toString("hex");
      if (entry.kind === KIND_REQUEST) this.#begun.delete(key);
      else this.#begun.set(key, { index, chain, seq: entry.seq });
    }
  }

  /** Streams that began and whose end is not in this log: they run still, or their proxy ended before them. */
  unfinished(): Begun[] {
    return [...this.#begun.values()];
  }

  chains(): ChainReport[] {
    return [...this.#states].map(
      ([chain, { first, next, head, entries, isClosed, prev, from, pruned }]) => ({
        chain,
        first,
        last: next - 1,
        head: Buffer.from(head).toString("hex"),
        entries,
        prev: Buffer.from(prev).toString("hex"),
        from,
        ...(pruned > 0 ? { pruned } : {}),
        state: isClosed ? "closed" : "open",
      }),
    );
  }

  #follow(entry: Entry, chain: string, digest: Uint8Array, index: number): void {
    const { seq } = entry;
    const state = this.#states.get(chain);
    const at = { severity: "tampered", index, chain, seq } as const;
    let from = "";
    if (state === undefined) {
      from = seq === 0 ? "" : this.#goesOn(entry, chain, index);
      if (seq !== 0 && from === "") {
        const message = `chain ${chain} begins with seq ${seq}: ${seq} entries before it are missing`;
        this.#findings.add({ ...at, cause: "missing", message });
      }
    } else if (seq !== state.next) {
      const cause = seq < state.next ? "duplicate" : "missing";
      const message = `entry ${index} has seq ${seq} of chain ${chain}, where ${state.next} comes next`;
      this.#findings.add({ ...at, cause, message });
      if (seq < state.next) return;
    } else if (!Buffer.from(entry.prev).equals(state.head)) {
      const message = `entry ${index} (seq ${seq} of chain ${chain}) does not follow the entry before it`;
      this.#findings.add({ ...at, cause: "link", message });
    }
    // A close can be signed like any other entry: by the one behind it.
    const isClosed = state?.isClosed === true;
    if (isClosed && entry.kind !== KIND_SIGNATURE) {
      const message = `entry ${index} comes after the close of chain ${chain}`;
      this.#findings.add({ ...at, cause: "after-close", message });
    }
    if (state !== undefined && entry.time < state.time) this.clockSteps++;
    this.#states.set(chain, {
      first: state?.first ?? seq,
      next: seq + 1,
      head: digest,
      entries: (state?.entries ?? 0) + 1,
      isClosed: isClosed || entry.kind === KIND_CLOSE,
      time: entry.time,
      prev: state?.prev ?? Uint8Array.from(entry.prev),
      from: state?.from ?? from,
      pruned: state?.pruned ?? 0,
    });
  }

  #readTakenUp(entry: Entry): void {
    const bytes = bytesOf(entry, F_TAKEN_UP);
    const note = bytes === undefined ? null : parseNote(bytes);
    const receipt = note === null ? null : parseReceipt(note.text);
    if (bytes === undefined || receipt === null || receipt.origin === this.#origin) return;
    const keys = logKeysAt(this.#logs, receipt.origin, receipt.treeSize);
    const isSigned = openReceipt(bytes, ...keys) !== null;
    this.#takenUp.set(receipt.chain, { receipt, isSigned });
  }

  /** Returns the origin of the log that the chain was taken up from with this entry, by a receipt in this log; "" if there is none. */
  #goesOn(entry: Entry, chain: string, index: number): string {
    const found = this.#takenUp.get(chain);
    if (found === undefined || found.receipt.nextSeq !== entry.seq) return "";
    if (found.receipt.head !== Buffer.from(entry.prev).toString("hex")) return "";
    const { origin } = found.receipt;
    const signed = found.isSigned ? "" : ", whose key was not given";
    this.elsewhere.push({
      severity: found.isSigned ? "incomplete" : "cannot-say",
      cause: "elsewhere",
      index,
      chain,
      seq: entry.seq,
      message: `seq 0 to ${entry.seq - 1} of chain ${chain} are in the log ${origin}${signed}: verify both together`,
    });
    return origin;
  }

  #readReceipt(entry: Entry, chain: string, index: number): void {
    const bytes = bytesOf(entry, F_RECEIPT);
    if (bytes === undefined || bytes.length === 0) return;
    const note = parseNote(bytes);
    const claimed = note === null ? null : parseReceipt(note.text);
    if (claimed !== null && claimed.origin !== this.#origin) {
      this.foreignReceipts++;
      return;
    }
    const keys = logKeysAt(this.#logs, this.#origin, claimed?.treeSize ?? 0);
    const receipt = openReceipt(bytes, ...keys);
    const at = { index, chain, seq: entry.seq } as const;
    if (receipt !== null) this.#takeReceipt(receipt, at);
    else if (this.#unsigned.length < MAX_UNSIGNED) {
      this.#unsigned.push({ ...at, bytes: Buffer.from(bytes) });
    } else this.#addUnsigned(at);
  }

  /** Ends the walk: receipts by keys of the log's own past are judged now that all entries were seen. */
  finish(): void {
    const trusted = this.#logs.map(({ verifier }) => verifier);
    const keys = this.#learned.from(
      trusted.filter(({ name }) => name === this.#origin),
      this.#origin,
    );
    for (const { bytes, ...at } of this.#unsigned.splice(0)) {
      const receipt = keys.length === 0 ? null : openReceipt(bytes, ...keys);
      if (receipt === null) this.#addUnsigned(at);
      else this.#takeReceipt(receipt, at);
    }
  }

  #addUnsigned(at: { index: number; chain: string; seq: number }): void {
    // A proxy without TLS or MAC may have been handed a forged one: that says nothing about the log.
    const message = `the receipt in entry ${at.index} is not signed by this log's key`;
    this.#findings.add({ ...at, severity: "cannot-say", cause: "receipt-not-signed", message });
  }

  #takeReceipt(receipt: Receipt, at: { index: number; chain: string; seq: number }): void {
    const { index, chain, seq } = at;
    if (receipt.chain !== chain || receipt.nextSeq > seq) {
      const message = `the receipt in entry ${index} is for seq ${receipt.nextSeq} of chain ${receipt.chain}`;
      this.#findings.add({ ...at, severity: "tampered", cause: "receipt-contradicted", message });
    }
    const { treeSize, treeRoot: root } = receipt;
    const before = this.claims.get(treeSize);
    if (before === undefined) this.claims.set(treeSize, { index, treeSize, root });
    else if (!Buffer.from(before.root).equals(root)) {
      const message = `entries ${before.index} and ${index} hold receipts for two trees of size ${treeSize}`;
      this.#findings.add({ ...at, severity: "tampered", cause: "two-histories", message });
    }
  }
}
