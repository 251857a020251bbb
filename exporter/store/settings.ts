/** Where a log is kept, as the settings say. A plain object, so that it can go to another thread. */
import type { Bucket } from "./bucket.ts";
import type { Claim } from "./claim.ts";
import { type PatienceOptions, patient } from "./patience.ts";
import { type S3Place, type S3Settings, s3Bucket, s3Client } from "./s3.ts";

export type ObjectStoreSettings = {
  readonly place: S3Place;
  readonly s3: S3Settings;
  readonly ack: "wal" | "store";
  readonly lockMs: number;
  readonly keepEveryMs: number;
};

/** What the publisher's thread is given of a log in a bucket. */
export type ClaimedStore = ObjectStoreSettings & { readonly home: string; readonly claim: Claim };

const DAY_MS = 86_400_000;

/** A checkpoint is kept, locked, this often, in milliseconds: immutable by the minute, at 2,880 objects a day. */
const KEEP_EVERY_MS = 30_000;

export function objectStoreSettings(
  place: S3Place,
  s3: S3Settings,
  ack: "wal" | "store",
  lockDays: number,
): ObjectStoreSettings {
  return { place, s3, ack, lockMs: lockDays * DAY_MS, keepEveryMs: KEEP_EVERY_MS };
}

/** Returns the bucket of `settings`: with endless patience, or as it answers. */
export async function openBucket(
  { place, s3 }: Pick<ObjectStoreSettings, "place" | "s3">,
  patience?: PatienceOptions,
): Promise<Bucket> {
  const bucket = await s3Bucket(await s3Client(s3), place.bucket);
  return patience === undefined ? bucket : patient(bucket, patience);
}

/**
 * Returns the key prefix of a log: its origin below the store's prefix, with "_" for what a path should not have. Two origins
 * that give the same one exclude each other, since neither opens the other's checkpoint.
 */
export function homeOf({ prefix }: S3Place, origin: string): string {
  return `${prefix}${origin.replaceAll(/[^A-Za-z0-9.-]/g, "_")}/`;
}
