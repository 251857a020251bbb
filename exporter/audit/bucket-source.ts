/**
 * Reads a log out of a bucket, as `verify` does: by version. Of a file that is written once the oldest version counts, unless
 * another one fits the tree (tiles.ts), so that a delete marker or a version that anyone with a key to the bucket can add,
 * before ours or after, hides nothing.
 */
import { MeshsealError } from "../errors.ts";
import type { LockSeen, Version } from "../store/bucket.ts";
import { describe } from "../store/patience.ts";
import type { ServiceBucket } from "../store/service.ts";
import { openService, type StoreFlags, whereOf } from "../store/settings.ts";
import { parseNames, type RetentionTexts, retentionName } from "./retention-texts.ts";
import { Unreachable } from "./unreachable.ts";

/** What a bucket keeps besides the newest bytes. Paths are below the log's home. */
export type BucketView = {
  readonly versions: ReadonlyMap<string, readonly Version[]>;
  readonly readVersion: (path: string, version: string, limit: number) => Promise<Buffer | null>;
  /** The locks of the files that were read so far. */
  readonly locks: ReadonlyMap<string, LockSeen>;
  /** Returns until when a file that was removed can be restored: null where that is not known, undefined where it cannot be. */
  readonly findRemoved: (path: string) => Promise<Date | null | undefined>;
};

/** A Source (source.ts) with what is special of a bucket. */
export type BucketSource = {
  readonly read: (path: string, limit: number) => Promise<Buffer | null>;
  readonly readAll: (path: string, limit: number) => Promise<Buffer[]>;
  readonly list: () => AsyncGenerator<{ path: string; isFile: boolean }>;
  readonly retention: RetentionTexts;
  readonly bucket: BucketView;
};

/** Versions of one file that are read to find the right one. */
const MAX_READ_VERSIONS = 16;

/** Returns the source for a place in a bucket: a log's home, or the place of the one log below it. */
export async function bucketSource(url: string, flags: StoreFlags): Promise<BucketSource> {
  const where = whereOf(url, flags);
  try {
    const bucket = await openService(where);
    const home = await findHome(bucket, where.place.prefix, url);
    const versions = new Map<string, Version[]>();
    for await (const version of bucket.versions(home)) {
      const path = version.key.slice(home.length);
      const held = versions.get(path);
      if (held === undefined) versions.set(path, [version]);
      else held.push(version);
    }
    return viewOf(bucket, home, versions);
  } catch (error) {
    if (error instanceof Unreachable || error instanceof MeshsealError) throw error;
    throw new Unreachable(`${url}: ${describe(error)}`);
  }
}

async function findHome(bucket: ServiceBucket, prefix: string, url: string): Promise<string> {
  const hasLog = async (home: string): Promise<boolean> => {
    for await (const _ of bucket.versions(`${home}log/`)) return true;
    return false;
  };
  if (await hasLog(prefix)) return prefix;
  const homes: string[] = [];
  for (const home of await bucket.folders(prefix)) {
    if (await hasLog(home)) homes.push(home);
  }
  const [only] = homes;
  if (only === undefined) throw new Unreachable(`${url} holds no log`);
  if (homes.length === 1) return only;
  const root = url.split("/").slice(0, 3).join("/");
  const names = homes.map((home) => `${root}/${home.replace(/\/$/, "")}`).join(", ");
  throw new Unreachable(`${url} holds more than one log: name one of ${names}`);
}

function viewOf(
  bucket: ServiceBucket,
  home: string,
  versions: BucketView["versions"],
): BucketSource {
  const locks = new Map<string, LockSeen>();
  const listed = new Map<string, LockSeen>();
  for (const [path, held] of versions) {
    for (const { version, lock } of held)
      if (lock !== undefined) listed.set(`${path}\n${version}`, lock);
  }

  async function readVersion(path: string, version: string, limit: number): Promise<Buffer | null> {
    try {
      const found = await bucket.getVersion(`${home}${path}`, version, limit);
      if (found === null) return null;
      const lock = found.lock ?? listed.get(`${path}\n${version}`) ?? { promised: null, now: null };
      // What somebody put there before ours was written is of no account.
      if (!locks.has(path) || (lock.promised !== null && locks.get(path)?.promised === null)) {
        locks.set(path, lock);
      }
      return found.bytes;
    } catch (error) {
      throw new Unreachable(`${path}: ${describe(error)}`);
    }
  }

  async function findRemoved(path: string): Promise<Date | null | undefined> {
    const wanted = `${home}${path}`;
    try {
      for await (const { key, until = null } of bucket.removed?.(wanted) ?? [])
        if (key === wanted) return until;
      return undefined;
    } catch (error) {
      throw new Unreachable(`${path}: ${describe(error)}`);
    }
  }

  return {
    read: async (path, limit) => {
      const version = versionThatCounts(path, versions.get(`log/${path}`) ?? []);
      return version === undefined
        ? null
        : await readVersion(`log/${path}`, version.version, limit);
    },
    readAll: async (path, limit) => {
      const held = (versions.get(`log/${path}`) ?? []).filter((one) => !one.isDeleteMarker);
      if (held.length < 2) return [];
      const all: Buffer[] = [];
      for (const { version } of oldestFirst(held).slice(0, MAX_READ_VERSIONS)) {
        const bytes = await readVersion(`log/${path}`, version, limit);
        if (bytes !== null) all.push(bytes);
      }
      return all;
    },
    list: async function* () {
      for (const [path, held] of versions) {
        if (!path.startsWith("log/") || held.every(({ isDeleteMarker }) => isDeleteMarker))
          continue;
        yield { path: path.slice("log/".length), isFile: true };
      }
    },
    retention: {
      list: async () => {
        const paths = [...versions.keys()].filter((path) => path.startsWith("retention/"));
        return parseNames(paths.map((path) => path.slice("retention/".length)));
      },
      read: async (index, limit) => {
        const path = `retention/${retentionName(index)}`;
        const version = versionThatCounts(path, versions.get(path) ?? []);
        return version === undefined ? null : await readVersion(path, version.version, limit);
      },
    },
    bucket: { versions, readVersion, locks, findRemoved },
  };
}

/** The newest checkpoint; of all else the oldest version. */
function versionThatCounts(path: string, held: readonly Version[]): Version | undefined {
  const real = held.filter(({ isDeleteMarker }) => !isDeleteMarker);
  const newest = real.find(({ isLatest }) => isLatest);
  const sorted = oldestFirst(real);
  return path === "checkpoint" ? (newest ?? sorted.at(-1)) : sorted[0];
}

/** A list is newest first; of two within a second the later one in it is older. */
export function oldestFirst(versions: readonly Version[]): Version[] {
  return versions.toReversed().sort((a, b) => a.modified.getTime() - b.modified.getTime());
}
