/**
 * Who may write a log in a bucket. A start claims the log: it replaces the commit under the next fencing number, and from
 * then on every other process's commits fail. It may do so if nothing that was receipted can be lost by that:
 *
 * - the log is new; or
 * - this data directory made the last commit, so that its WAL is the one receipts came from; or
 * - receipts waited for the store (`ack: store`), so that all of them are in it.
 *
 * Otherwise the log is somebody else's, and this process needs an origin of its own.
 */
import { randomBytes } from "node:crypto";
import { type Bucket, Fenced } from "./bucket.ts";
import { type Commit, formatCommit, MAX_COMMIT_BYTES, parseCommit } from "./commit.ts";

export const COMMIT_KEY = "commit";

/** The commit as this process has put it in place. */
export type Claim = { readonly commit: Commit; readonly etag: string };

/**
 * Which start wrote the WAL that is at hand, "" for none; which starts since then were cut short somewhere between their
 * claim and their first entry; and this one.
 */
export type Writers = {
  readonly current: string;
  readonly unfinished: readonly string[];
  readonly pending: string;
};

export type Claimed = {
  readonly claim: Claim;
  /** Whether the WAL at hand is the log's. If not, it is another's or outdated, and must be set aside. */
  readonly isOurs: boolean;
};

/** The log's newest entries may be in a WAL that is not here. */
export class WalElsewhere extends Error {
  override name = "WalElsewhere";
}

/** Others may write between read and swap this often. */
const MAX_TRIES = 100;

export function newWriter(): string {
  return randomBytes(16).toString("hex");
}

/**
 * Claims the log at `home` (a key prefix that ends in a slash, or ""). `writers.pending` must be durable with the WAL
 * before. `epoch` is that of the lease where exporters share the log. Rejects with WalElsewhere if it may not.
 */
export async function claim(
  bucket: Bucket,
  home: string,
  ack: "wal" | "store",
  writers: Writers,
  epoch = 0,
): Promise<Claimed> {
  const key = `${home}${COMMIT_KEY}`;
  let wasOurs = true;
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const held = await bucket.get(key, MAX_COMMIT_BYTES);
    const before = held === null ? null : parseCommit(held.bytes);
    if (held !== null && before === null) throw new Error(`${key} is no commit: run verify`);
    if (held !== null && before?.writer === writers.pending) {
      // An answer that was lost: the swap had happened. Whose the WAL was before is not known any more: `wasOurs` is.
      return { claim: { commit: before, etag: held.etag }, isOurs: wasOurs };
    }
    // Who got the lease after us comes after us: it has read the WAL, or will, and we may not write into it any more.
    if (epoch > 0 && (before?.epoch ?? 0) > epoch) {
      throw new Fenced("this log was taken over while this exporter started");
    }
    // A start that was cut short had not begun to write; whether the WAL was the log's then, its commit says.
    const isUnfinished = before !== null && writers.unfinished.includes(before.writer);
    const isOurs =
      before === null || before.writer === writers.current || (isUnfinished && !before.isFresh);
    if (!isOurs && !isUnfinished && before.ack !== "store") {
      throw new WalElsewhere(`${key}: the newest entries are in the WAL of another exporter`);
    }
    wasOurs = isOurs;
    const commit: Commit = {
      fence: (before?.fence ?? 0) + 1,
      epoch: Math.max(epoch, before?.epoch ?? 0),
      writer: writers.pending,
      isFresh: !isOurs,
      // "wal" from before the first receipt on; "store" again once a commit covers all that was receipted from a WAL.
      ack: ack === "wal" ? "wal" : (before?.ack ?? "store"),
      note: before?.note ?? "",
      staged: before?.staged ?? null,
    };
    const bytes = formatCommit(commit);
    const written =
      held === null
        ? await bucket.create(key, bytes, null)
        : await bucket.swap(key, bytes, held.etag);
    if (written !== null) return { claim: { commit, etag: written.etag }, isOurs };
  }
  throw new Fenced(`${key}: another exporter keeps writing`);
}
