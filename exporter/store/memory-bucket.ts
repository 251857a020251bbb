/** A bucket that forgets, with versions and locks: for tests and for simulations of the take-over. */
import { hash } from "node:crypto";
import { type Bucket, TooLarge, type Version } from "./bucket.ts";

type Held = { version: string; bytes: Buffer; retainUntil: Date | null; isDeleteMarker: boolean };

export type MemoryBucket = Required<Pick<Bucket, "versionsAfter">> &
  Bucket & {
    /** Every version of every key, oldest first. */
    readonly all: ReadonlyMap<string, readonly Held[]>;
    /** Hides what is at `key` behind a delete marker, as a plain delete does. */
    readonly hide: (key: string) => void;
  };

export function memoryBucket(): MemoryBucket {
  const all = new Map<string, Held[]>();
  let count = 0;
  const newest = (key: string): Held | undefined => {
    const held = all.get(key)?.at(-1);
    return held?.isDeleteMarker ? undefined : held;
  };
  const add = (key: string, bytes: Uint8Array, retainUntil: Date | null) => {
    const held = {
      version: String(++count),
      bytes: Buffer.from(bytes),
      retainUntil,
      isDeleteMarker: false,
    };
    const versions = all.get(key);
    if (versions === undefined) all.set(key, [held]);
    else versions.push(held);
    return { etag: etagOf(bytes), version: held.version };
  };
  async function* versions(prefix: string): AsyncGenerator<Version> {
    for (const [key, held] of all) {
      if (!key.startsWith(prefix)) continue;
      for (const [at, { version, isDeleteMarker, bytes }] of held.entries()) {
        const isLatest = at === held.length - 1;
        const modified = new Date(0);
        yield {
          key,
          version,
          isLatest,
          isDeleteMarker,
          modified,
          bytes: bytes.length,
        } satisfies Version;
      }
    }
  }
  return {
    all,
    get: async (key, limit) => {
      const held = newest(key);
      if (held === undefined) return null;
      if (held.bytes.length > limit) throw new TooLarge(key, etagOf(held.bytes));
      return { bytes: Buffer.from(held.bytes), etag: etagOf(held.bytes) };
    },
    create: async (key, bytes, retainUntil) => {
      return newest(key) === undefined ? add(key, bytes, retainUntil) : null;
    },
    swap: async (key, bytes, etag, retainUntil = null) => {
      const held = newest(key);
      const isIt = held !== undefined && etagOf(held.bytes) === etag;
      return isIt ? add(key, bytes, retainUntil) : null;
    },
    remove: async (versions) => {
      for (const { key, version } of versions) {
        const held = all.get(key) ?? [];
        const at = held.findIndex((one) => one.version === version);
        if (at < 0) continue;
        if (held[at]?.retainUntil != null) throw new Error(`${key} is locked`);
        held.splice(at, 1);
        if (held.length === 0) all.delete(key);
      }
    },
    hide: (key) => {
      const bytes = Buffer.of();
      const marker = { version: String(++count), bytes, retainUntil: null, isDeleteMarker: true };
      all.get(key)?.push(marker);
    },
    getVersion: async (key, version, limit) => {
      const held = all.get(key)?.find((one) => one.version === version);
      if (held === undefined || held.isDeleteMarker || held.bytes.length > limit) return null;
      return { bytes: Buffer.from(held.bytes) };
    },
    versionsAfter: async function* (prefix, after) {
      for await (const version of versions(prefix)) if (version.key > after) yield version;
    },
    versions,
  };
}

/** As S3 has it: of the bytes only, so that the same bytes written again cannot be told apart. */
function etagOf(bytes: Uint8Array): string {
  return hash("md5", bytes, "hex");
}
