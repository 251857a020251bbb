/**
 * Reads a log out of a bucket, as `verify` does: by version. Of a file that is written once the oldest version counts, unless
 * another one fits the tree (tiles.ts), so that a delete marker or a version that anyone with a key to the bucket can add,
 * before ours or after, hides nothing.
 */
import type { S3Client } from "@aws-sdk/client-s3";
import type { Version } from "../store/bucket.ts";
import { describe } from "../store/patience.ts";
import {
  LOCKED_UNTIL,
  listVersions,
  parseS3Url,
  type S3Settings,
  s3Client,
  s3CodeOf,
  statusOf,
} from "../store/s3.ts";
import { parseNames, type RetentionTexts, retentionName } from "./retention-texts.ts";
import { Unreachable } from "./unreachable.ts";

/** What was seen of a file's lock. */
export type LockSeen = {
  /** Until when its writer locked it; null for a file that was never locked. */
  readonly promised: Date | null;
  /** Until when it is locked now: null for not at all, undefined where that may not be asked. */
  readonly now: Date | null | undefined;
};

/** What a bucket keeps besides the newest bytes. Paths are below the log's home. */
export type BucketView = {
  readonly versions: ReadonlyMap<string, readonly Version[]>;
  readonly readVersion: (path: string, version: string, limit: number) => Promise<Buffer | null>;
  /** The locks of the files that were read so far. */
  readonly locks: ReadonlyMap<string, LockSeen>;
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

type Sdk = typeof import("@aws-sdk/client-s3");

/** Returns the source for `s3://bucket/prefix`: a log's home, or the place of the one log below it. */
export async function bucketSource(url: string, settings: S3Settings): Promise<BucketSource> {
  const { bucket, prefix } = parseS3Url(url);
  const client = await s3Client(settings);
  const sdk = await import("@aws-sdk/client-s3");
  try {
    const home = await findHome(sdk, client, bucket, prefix, url);
    const versions = new Map<string, Version[]>();
    for await (const version of listVersions(client, bucket, home)) {
      const path = version.key.slice(home.length);
      const held = versions.get(path);
      if (held === undefined) versions.set(path, [version]);
      else held.push(version);
    }
    return viewOf(sdk, client, bucket, home, versions);
  } catch (error) {
    if (error instanceof Unreachable) throw error;
    throw new Unreachable(`${url}: ${describe(error)}`);
  }
}

async function findHome(
  sdk: Sdk,
  client: S3Client,
  bucket: string,
  prefix: string,
  url: string,
): Promise<string> {
  const hasLog = async (home: string): Promise<boolean> => {
    const found = await client.send(
      new sdk.ListObjectVersionsCommand({ Bucket: bucket, Prefix: `${home}log/`, MaxKeys: 1 }),
    );
    return (found.Versions ?? []).length + (found.DeleteMarkers ?? []).length > 0;
  };
  if (await hasLog(prefix)) return prefix;
  const below = await client.send(
    new sdk.ListObjectsV2Command({ Bucket: bucket, Prefix: prefix, Delimiter: "/" }),
  );
  const homes: string[] = [];
  for (const { Prefix: home = "" } of below.CommonPrefixes ?? []) {
    if (await hasLog(home)) homes.push(home);
  }
  const [only] = homes;
  if (only === undefined) throw new Unreachable(`${url} holds no log`);
  if (homes.length === 1) return only;
  const names = homes.map((home) => `s3://${bucket}/${home.replace(/\/$/, "")}`).join(", ");
  throw new Unreachable(`${url} holds more than one log: name one of ${names}`);
}

function viewOf(
  sdk: Sdk,
  client: S3Client,
  bucket: string,
  home: string,
  versions: ReadonlyMap<string, readonly Version[]>,
): BucketSource {
  const locks = new Map<string, LockSeen>();

  async function readVersion(path: string, version: string, limit: number): Promise<Buffer | null> {
    const at = { Bucket: bucket, Key: `${home}${path}`, VersionId: version };
    try {
      const answer = await client.send(
        new sdk.GetObjectCommand({ ...at, ChecksumMode: "ENABLED" }),
      );
      if ((answer.ContentLength ?? 0) > limit) {
        (answer.Body as unknown as { destroy?: () => void } | undefined)?.destroy?.();
        return null;
      }
      const promised = new Date(answer.Metadata?.[LOCKED_UNTIL] ?? Number.NaN);
      const bytes = Buffer.from((await answer.Body?.transformToByteArray()) ?? []);
      const isPromised = !Number.isNaN(promised.getTime());
      // What somebody put there before ours was written is of no account.
      if (!locks.has(path) || (isPromised && locks.get(path)?.promised === null)) {
        const isLocked = answer.ObjectLockMode === "COMPLIANCE";
        const until = isLocked ? answer.ObjectLockRetainUntilDate : undefined;
        locks.set(path, {
          promised: isPromised ? promised : null,
          // The headers of a GET are left out where its caller may not ask for retentions.
          now: until ?? (isPromised ? await askLock(sdk, client, at) : null),
        });
      }
      return bytes;
    } catch (error) {
      if (statusOf(error) === 404 || s3CodeOf(error) === "NoSuchKey") return null;
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
    bucket: { versions, readVersion, locks },
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

async function askLock(
  sdk: Sdk,
  client: S3Client,
  at: { Bucket: string; Key: string; VersionId: string },
): Promise<Date | null | undefined> {
  try {
    const { Retention } = await client.send(new sdk.GetObjectRetentionCommand(at));
    return Retention?.Mode === "COMPLIANCE" ? (Retention.RetainUntilDate ?? null) : null;
  } catch (error) {
    return statusOf(error) === 403 ? undefined : null;
  }
}
