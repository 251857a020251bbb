/**
 * The lease: who of several exporters on one log serves. It keeps them from disturbing each other, and bounds how long a
 * take-over takes; that nothing is lost or written twice does not hang on it but on the commit (claim.ts), except that a
 * holder whose receipts come from a shared WAL asks `isHeld` between fsync and receipt.
 *
 * The holder swaps the lease object each RENEW_MS. Another takes it once it has seen the same bytes for TTL_MS on its own
 * clock, so clocks need not agree, only run at about the same speed. The holder's time counts from before its swap was sent,
 * the other's from after it was seen: the holder gives up first.
 */
import { z } from "zod";
import type { Bucket } from "./bucket.ts";
import { COMMIT_KEY } from "./claim.ts";
import { MAX_COMMIT_BYTES, parseCommit } from "./commit.ts";

export const LEASE_KEY = "lease";
const MAX_LEASE_BYTES = 4096;

export const TTL_MS = 4500;
export const RENEW_MS = 1000;
export const POLL_MS = 250;
/** A holder stops this long before another could start: for clocks that run at different speeds. */
const MARGIN_MS = 1000;

/** Beyond every count that renewals reach, and with room behind it: who writes a larger one cannot use them up. */
const MAX_COUNT = 2 ** 52;

export type LeaseState = {
  readonly holder: string;
  /** Grows with every write, so that no two are the same. */
  readonly count: number;
  readonly isReleased: boolean;
};

const Schema: z.ZodType<LeaseState> = z.strictObject({
  holder: z.string().max(256),
  count: z.int().min(1).max(MAX_COUNT),
  isReleased: z.boolean(),
});

/** Time as it passes, in milliseconds, also while the machine sleeps; and waiting. */
export type Clock = {
  readonly now: () => number;
  readonly sleep: (ms: number) => Promise<void>;
};

export type LeaseOptions = {
  readonly bucket: Bucket;
  readonly home: string;
  /** Unlike every other's, and every earlier start's. */
  readonly holder: string;
  readonly clock: Clock;
  /** Another serves: called once, with its name. */
  readonly onWaiting?: (holder: string) => void;
};

export class Lease {
  readonly #options: LeaseOptions;
  #state: LeaseState;
  #etag: string;
  #heldSince: number;

  private constructor(options: LeaseOptions, state: LeaseState, etag: string, heldSince: number) {
    this.#options = options;
    this.#state = state;
    this.#etag = etag;
    this.#heldSince = heldSince;
    this.epoch = state.count;
  }

  /** Waits until the lease can be taken, and takes it. */
  static async acquire(options: LeaseOptions): Promise<Lease> {
    const { bucket, home, holder, clock, onWaiting } = options;
    const key = `${home}${LEASE_KEY}`;
    let seen = "";
    let seenAt = 0;
    let said = false;
    for (;;) {
      const held = await bucket.get(key, MAX_LEASE_BYTES);
      const now = clock.now();
      const state = held === null ? null : parseLease(held.bytes);
      if (held !== null && held.etag !== seen) {
        seen = held.etag;
        seenAt = now;
      }
      // Bytes that are no lease were written by nobody who serves: they lapse like any other.
      if (held === null || state?.isReleased === true || now - seenAt >= TTL_MS) {
        // Where it is gone or no lease, the commit remembers: an epoch below the last one could claim nothing.
        const before = state?.count ?? (await lastEpoch(bucket, home));
        const next = { holder, count: before + 1, isReleased: false };
        const bytes = formatLease(next);
        const started = clock.now();
        const written =
          held === null
            ? await bucket.create(key, bytes, null)
            : await bucket.swap(key, bytes, held.etag);
        if (written !== null) return new Lease(options, next, written.etag, started);
        const after = await bucket.get(key, MAX_LEASE_BYTES);
        if (after?.bytes.equals(bytes) === true)
          return new Lease(options, next, after.etag, started);
        continue;
      }
      if (!said) onWaiting?.(state?.holder ?? "unknown");
      said = true;
      await clock.sleep(POLL_MS);
    }
  }

  /** Larger than that of every lease before. */
  readonly epoch: number;

  /** Whether no other process can hold it by now. */
  get isHeld(): boolean {
    return this.#options.clock.now() - this.#heldSince < TTL_MS - MARGIN_MS;
  }

  /** Renews it once. Resolves to false if another has it. */
  async renew(): Promise<boolean> {
    return await this.#write({ ...this.#state, count: this.#state.count + 1 });
  }

  /** Lets the next one in without waiting. */
  async release(): Promise<void> {
    await this.#write({ ...this.#state, count: this.#state.count + 1, isReleased: true });
    this.#heldSince = Number.NEGATIVE_INFINITY;
  }

  async #write(next: LeaseState): Promise<boolean> {
    const { bucket, home, clock } = this.#options;
    const key = `${home}${LEASE_KEY}`;
    const bytes = formatLease(next);
    const started = clock.now();
    let etag = (await bucket.swap(key, bytes, this.#etag))?.etag;
    if (etag === undefined) {
      const held = await bucket.get(key, MAX_LEASE_BYTES);
      if (held?.bytes.equals(bytes) !== true) {
        this.#heldSince = Number.NEGATIVE_INFINITY;
        return false;
      }
      etag = held.etag;
    }
    this.#state = next;
    this.#etag = etag;
    this.#heldSince = started;
    return true;
  }
}

async function lastEpoch(bucket: Bucket, home: string): Promise<number> {
  const commit = await bucket.get(`${home}${COMMIT_KEY}`, MAX_COMMIT_BYTES);
  return (commit === null ? null : parseCommit(commit.bytes))?.epoch ?? 0;
}

export function formatLease(state: LeaseState): Buffer {
  return Buffer.from(`${JSON.stringify(state)}\n`);
}

/** Returns the lease in `bytes`, or null unless it is exactly one. */
export function parseLease(bytes: Uint8Array): LeaseState | null {
  try {
    const parsed = Schema.safeParse(JSON.parse(Buffer.from(bytes).toString()));
    return parsed.success ? parsed.data : null;
  } catch {
    return null;
  }
}
