/**
 * What is asked of an object store: versions, conditional writes, locks. Stores on it (object.ts) and take-over (claim.ts,
 * lease.ts) use nothing else, so that they can be simulated (memory-bucket.ts) and run on any service that has these.
 *
 * - `create` and `swap` are atomic: of several at the same time one wins, and the others get null.
 * - What they resolved for is durable, and seen by every later read. One that rejects may have happened all the same:
 *   who tries again and gets null reads, and compares.
 */

/** One object as it was read. `etag` changes with the bytes. */
export type Blob = { readonly bytes: Buffer; readonly etag: string };

/** What a write made. `version` is "" where the bucket keeps no versions. */
export type Written = { readonly etag: string; readonly version: string };

export type Bucket = {
  /** Returns the newest version at `key`, or null if there is none. Rejects with TooLarge beyond `limit` bytes. */
  readonly get: (key: string, limit: number) => Promise<Blob | null>;
  /** Writes where nothing is, locked in compliance mode until `retainUntil` if given; null if something is there. */
  readonly create: (
    key: string,
    bytes: Uint8Array,
    retainUntil: Date | null,
  ) => Promise<Written | null>;
  /** Writes over what has `etag`, locked as by `create` if a time is given; null if that is not what is there. */
  readonly swap: (
    key: string,
    bytes: Uint8Array,
    etag: string,
    retainUntil?: Date | null,
  ) => Promise<Written | null>;
  /** Removes these versions for good. Rejects if one could not be. */
  readonly remove: (versions: readonly { key: string; version: string }[]) => Promise<void>;
  /** Sets or lifts the legal hold of a version: while it is set, nobody can remove that. Absent where there are none. */
  readonly hold?: (key: string, version: string, isOn: boolean) => Promise<void>;
  /** Yields every version and delete marker whose key begins with `prefix`. */
  readonly versions: (prefix: string) => AsyncGenerator<Version>;
};

export type Version = {
  readonly key: string;
  readonly version: string;
  readonly isLatest: boolean;
  readonly isDeleteMarker: boolean;
  readonly modified: Date;
  readonly bytes: number;
};

/** An object is longer than what is looked for can be. */
export class TooLarge extends Error {
  override name = "TooLarge";
  readonly etag: string;

  constructor(message: string, etag: string) {
    super(message);
    this.etag = etag;
  }
}

/** Another process has taken the log over: this one may not write any more. */
export class Fenced extends Error {
  override name = "Fenced";
}
