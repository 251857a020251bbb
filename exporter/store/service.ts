/** What verify and doctor ask of a bucket of a real service, and what the services have in common. */
import { type Bucket, type Lock, TooLarge, type Version } from "./bucket.ts";

/** Metadata of a locked object: until when it was locked by who wrote it, in ISO 8601. Verify compares. */
export const LOCKED_UNTIL = "meshseal-locked-until";

/** A version that was removed, and can be restored `until` a time; undefined where the service does not say. */
export type Removed = { readonly key: string; readonly at: Date; readonly until?: Date };

/** A bucket of a real service. */
export type ServiceBucket = Bucket & {
  /** Asks until when a version is locked. */
  readonly lock: (key: string, version: string) => Promise<Lock>;
  /**
   * Yields the versions that were removed and that the service keeps for a while all the same (soft delete); nothing where it
   * has none, or may not be asked. Absent where there is no such thing.
   */
  readonly removed?: (prefix: string) => AsyncGenerator<Removed>;
  /** Returns the prefixes below `prefix` up to their next slash, that included. */
  readonly folders: (prefix: string) => Promise<string[]>;
};

/** A service's answer that is no success, without the connection that its SDK's error carries: that no log and no thread can take. */
export class ServiceError extends Error {
  /** Of HTTP; 401 also where no credentials were found; 0 without an answer. */
  readonly status: number;

  /** `code` is the service's word for it, or a system error's. */
  constructor(code: string, message: string, status: number) {
    super(message.slice(0, 500));
    this.name = code;
    this.status = status;
  }
}

/** Returns the HTTP status in what a ServiceBucket threw, or 0. */
export function statusOf(error: unknown): number {
  return error instanceof ServiceError ? error.status : 0;
}

/** What asking for a lock means where it was refused: that it may not be seen, or that there is none. Throws anything else. */
export function noLock(error: unknown): Lock {
  if (statusOf(error) === 403) return undefined;
  // Of S3: 404 without a lock, 400 where the bucket has none.
  if ([400, 404].includes(statusOf(error))) return null;
  throw error;
}

/** Returns null for TooLarge, and throws anything else. */
export function nullIfTooLarge(error: unknown): null {
  if (error instanceof TooLarge) return null;
  throw error;
}

/** Returns what LOCKED_UNTIL says in an object's metadata, or null. */
export function promisedIn(metadata: Readonly<Record<string, unknown>> | undefined): Date | null {
  const until = new Date(String(metadata?.[LOCKED_UNTIL]));
  return Number.isNaN(until.getTime()) ? null : until;
}

/** Services keep whole seconds of a lock: not one of them less. */
export function toSecond(time: Date): Date {
  return new Date(Math.ceil(time.getTime() / 1000) * 1000);
}

/**
 * Orders a list as S3's is: each key's versions newest first, with a marker before them where none is the current one. `found`
 * comes by key, a key's versions in any order.
 */
export async function* asMarked(
  found: AsyncIterable<Version & { readonly deleted?: Date }>,
): AsyncGenerator<Version> {
  let held: (Version & { readonly deleted?: Date })[] = [];
  function* flush(): Generator<Version> {
    held.sort((a, b) => (a.version < b.version ? 1 : -1));
    const [newest] = held;
    if (newest !== undefined && held.every(({ isLatest }) => !isLatest)) {
      const modified = newest.deleted ?? newest.modified;
      yield {
        key: newest.key,
        version: "",
        isLatest: true,
        isDeleteMarker: true,
        modified,
        bytes: 0,
      };
    }
    for (const { deleted: _, ...version } of held) yield version;
    held = [];
  }
  for await (const version of found) {
    if (held[0] !== undefined && held[0].key !== version.key) yield* flush();
    held.push(version);
  }
  yield* flush();
}
