/**
 * What is asked of an object store: versions, conditional writes, locks. Stores on it (object.ts) and take-over (claim.ts,
 * lease.ts) use nothing else, so that they can be simulated (memory-bucket.ts) and run on any service that has these.
 *
 * - `create` and `swap` are atomic: of several at the same time one wins, and the others get null.
 * - What they resolved for is durable, and seen by every later read. One that rejects may have happened all the same:
 *   who tries again and gets null reads, and compares.
 *
 * The services are s3.ts, gcs.ts and azure.ts; settings.ts says which one a URL means. Verify and doctor ask more of them
 * (service.ts).
 */

/** One object as it was read. `etag` changes with the bytes; with each write as well, where the service has it so. */
export type Blob = { readonly bytes: Buffer; readonly etag: string };

/** What a write made. `version` is "" where the bucket keeps no versions. */
export type Written = { readonly etag: string; readonly version: string };

export type Bucket = {
  /** Returns the newest version at `key`, or null if there is none. Rejects with TooLarge beyond `limit` bytes. */
  readonly get: (key: string, limit: number) => Promise<Blob | null>;
  /**
   * Writes where nothing is, locked until `retainUntil` if that is given, so that nobody can remove it before or shorten that
   * (S3: compliance mode; GCS and Azure: Locked). Null if something is there.
   */
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
  /** Yields those whose key is behind `after` too. Absent where a list can only begin at its beginning. */
  readonly versionsAfter?: (prefix: string, after: string) => AsyncGenerator<Version>;
  /** Returns one version, or null if it is gone or longer than `limit` bytes. `lock` only where `versions` does not have it. */
  readonly getVersion: (
    key: string,
    version: string,
    limit: number,
  ) => Promise<{ readonly bytes: Buffer; readonly lock?: LockSeen } | null>;
};

export type Version = {
  readonly key: string;
  readonly version: string;
  readonly isLatest: boolean;
  /** Of a key whose newest version was hidden, not removed. GCS and Azure have no such markers: theirs stand for a key without a current version. */
  readonly isDeleteMarker: boolean;
  readonly modified: Date;
  readonly bytes: number;
  /** Absent where the service's lists do not say. */
  readonly lock?: LockSeen;
};

/** Until when a version is locked: null for not at all, undefined where that may not be asked. */
export type Lock = Date | null | undefined;

/** What was seen of a version's lock. */
export type LockSeen = {
  /** Until when its writer locked it (service.ts); null for what was never locked. */
  readonly promised: Date | null;
  readonly now: Lock;
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
