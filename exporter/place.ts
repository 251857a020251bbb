/** Opens the place of a log, a directory or a bucket: its key, how to read its files, and what the publisher needs. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Logger } from "pino";
import type { Settings } from "./config.ts";
import { codeOf } from "./errors.ts";
import { type LogKey, loadKey } from "./keys.ts";
import { parseTilePath } from "./log/tile.ts";
import type { Bucket } from "./store/bucket.ts";
import type { Lease } from "./store/lease.ts";
import { type ClaimedStore, objectStoreSettings, whereOf } from "./store/settings.ts";

export type LogPlace = {
  readonly key: LogKey;
  /** Returns a published file of the log. */
  readonly read: (path: string) => Promise<Buffer | null>;
  /** The log in a bucket; null in a directory. */
  readonly remote: { readonly store: ClaimedStore; readonly bucket: Bucket } | null;
  readonly lease: Lease | null;
};

/** A bundle of 256 entries of 64 KiB is the longest file of a log. */
const MAX_FILE_BYTES = 256 * 65_537;

export async function openPlace(
  settings: Settings,
  data: string,
  logger: Logger,
): Promise<LogPlace> {
  if (settings.store === undefined) {
    const read = (path: string): Promise<Buffer | null> => readPublished(join(data, "log", path));
    return { key: loadKey(data, settings.origin), read, remote: null, lease: null };
  }
  const { store: url, ack, lockDays = 0 } = settings;
  const where = objectStoreSettings(whereOf(url, settings), ack, lockDays);
  const { takeOver } = await import("./take-over.ts");
  const taken = await takeOver(where, data, settings.origin, logger);
  const { key, store, bucket, lease } = taken;
  return {
    key,
    read: async (path) => {
      if (path !== "checkpoint" && parseTilePath(path) === null) return null;
      return (await bucket.get(`${store.home}log/${path}`, MAX_FILE_BYTES))?.bytes ?? null;
    },
    remote: { store, bucket },
    lease,
  };
}

function readPublished(path: string): Promise<Buffer | null> {
  return readFile(path).catch((error: unknown) => {
    if (codeOf(error) === "ENOENT") return null;
    throw error;
  });
}
