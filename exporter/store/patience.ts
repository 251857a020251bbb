/**
 * A bucket that does not give up: each operation is tried again until it is answered, with growing, random pauses, and says
 * meanwhile that the bucket is away. A condition that fails on a second try may fail because of the first: who asks
 * compares (bucket.ts).
 */
import { type Bucket, Fenced, TooLarge } from "./bucket.ts";

/** Pauses are random up to a bound that doubles from the first to the last of these ("full jitter"). */
const FIRST_PAUSE_MS = 100;
const LAST_PAUSE_MS = 10_000;

/** An operation that has failed for this long means that the bucket is away, in milliseconds. */
const AWAY_MS = 2000;

export type PatienceOptions = {
  /** Gets why the bucket is away, and null when it is back. */
  readonly onAway: (reason: string | null) => void;
  /** Aborted: an operation that fails is not tried again. */
  readonly signal?: AbortSignal;
};

/** Returns `bucket` with endless patience, or until `signal`. */
export function patient(bucket: Bucket, { onAway, signal }: PatienceOptions): Bucket {
  const failing = new Set<object>();
  let isAway = false;

  async function retry<T>(operation: () => Promise<T>): Promise<T> {
    const call = {};
    const started = Date.now();
    for (let bound = FIRST_PAUSE_MS; ; bound = Math.min(2 * bound, LAST_PAUSE_MS)) {
      try {
        const result = await operation();
        failing.delete(call);
        // Any answer shows that it is there; others find out with their next try.
        if (isAway && failing.size === 0) {
          isAway = false;
          onAway(null);
        }
        return result;
      } catch (error) {
        if (error instanceof TooLarge || error instanceof Fenced || signal?.aborted === true) {
          failing.delete(call);
          throw error;
        }
        failing.add(call);
        if (Date.now() - started >= AWAY_MS && !isAway) {
          isAway = true;
          onAway(describe(error));
        }
        await pause(Math.random() * bound, signal);
      }
    }
  }

  /** Gives nothing of a list that is not complete. */
  async function* whole<T>(list: () => AsyncGenerator<T>): AsyncGenerator<T> {
    yield* await retry(async () => {
      const all: T[] = [];
      for await (const one of list()) all.push(one);
      return all;
    });
  }

  const { hold, versionsAfter } = bucket;
  return {
    get: (key, limit) => retry(() => bucket.get(key, limit)),
    create: (key, bytes, retainUntil) => retry(() => bucket.create(key, bytes, retainUntil)),
    swap: (key, bytes, etag, until) => retry(() => bucket.swap(key, bytes, etag, until)),
    // What is to be removed can stay: the caller goes on without.
    remove: (versions) => bucket.remove(versions),
    ...(hold === undefined ? {} : { hold }),
    getVersion: (key, version, limit) => retry(() => bucket.getVersion(key, version, limit)),
    versions: (prefix) => whole(() => bucket.versions(prefix)),
    ...(versionsAfter === undefined
      ? {}
      : { versionsAfter: (prefix, after) => whole(() => versionsAfter(prefix, after)) }),
  };
}

/** Returns what went wrong in some words: errors of the network have a code, those of the service a name. */
export function describe(error: unknown): string {
  const { name, message, code } = error as { name?: string; message?: string; code?: string };
  return [code ?? name, message].filter((part) => part !== undefined && part !== "").join(": ");
}

async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(done, ms);
    function done(): void {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    }
    signal?.addEventListener("abort", done);
  });
}
