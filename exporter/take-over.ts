/**
 * Starts the writer of a log in a bucket: waits for its turn where exporters share a log, claims it, and keeps the WAL and the
 * claim together. Where a log's newest entries may be in a WAL that is not here, it begins a new one under another origin.
 */
import { randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  writeSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";
import { MeshsealError } from "./errors.ts";
import { type LogKey, loadKey, makeKey } from "./keys.ts";
import { openCheckpoint } from "./log/checkpoint.ts";
import type { Verifier } from "./log/note.ts";
import type { Bucket } from "./store/bucket.ts";
import { COMMIT_KEY, claim, newWriter, WalElsewhere } from "./store/claim.ts";
import { MAX_COMMIT_BYTES } from "./store/commit.ts";
import { syncDir } from "./store/file.ts";
import { type Clock, Lease, RENEW_MS } from "./store/lease.ts";
import { describe, patient } from "./store/patience.ts";
import { refuseRollback } from "./store/rollback.ts";
import { statusOf } from "./store/service.ts";
import {
  type ClaimedStore,
  homeOf,
  type ObjectStoreSettings,
  openBucket,
} from "./store/settings.ts";

export type TakenOver = {
  readonly key: LogKey;
  readonly store: ClaimedStore;
  /** For reading, with patience. */
  readonly bucket: Bucket;
  /** Where exporters share the log. */
  readonly lease: Lease | null;
};

export async function takeOver(
  settings: ObjectStoreSettings,
  data: string,
  origin: string | undefined,
  logger: Logger,
): Promise<TakenOver> {
  const bare = await openBucket(settings);
  const bucket = patient(bare, {
    onAway: (reason) => {
      if (reason === null) logger.info("the bucket is back");
      else logger.warn({ reason }, "the bucket is away");
    },
  });
  for (let tries = 0; ; tries++) {
    const key = loadKey(data, origin);
    const home = homeOf(settings.place, key.signer.name);
    await checkAccess(bare, home);
    // Receipts from a WAL need that WAL, which has its own lock (lock.ts).
    const lease = settings.ack === "store" ? await waitForTurn(bucket, home, logger) : null;
    const [current = "", ...unfinished] = readWriters(data);
    const pending = newWriter();
    // Durable before the claim is: a start that is cut short behind it is still known as ours.
    writeWriters(data, [current, ...unfinished, pending]);
    try {
      await refuseRollback(bucket, home, (note) => signedSize(note, key.verifiers));
      const writers = { current, unfinished, pending };
      const { claim: claimed, isOurs } = await claim(
        bucket,
        home,
        settings.ack,
        writers,
        lease?.epoch,
      );
      if (!isOurs) setAside(data, claimed.commit.fence, logger);
      writeWriters(data, [pending]);
      const { fence, epoch } = claimed.commit;
      logger.info({ fence, epoch }, "the log is claimed");
      return { key, store: { ...settings, home, claim: claimed }, bucket, lease };
    } catch (error) {
      await lease?.release();
      if (!(error instanceof WalElsewhere) || tries > 0) throw error;
      const name = newOrigin(data, key.signer.name);
      logger.error(
        { origin: name, taken: key.signer.name },
        "this log's newest entries may be in the WAL of another exporter: a new log begins, whose key verifiers must be given",
      );
      origin = name;
    }
  }
}

/** Returns the size of a checkpoint that one of `verifiers` signed, or null. */
export function signedSize(note: Buffer, verifiers: readonly Verifier[]): number | null {
  for (const verifier of verifiers) {
    const checkpoint = openCheckpoint(note, verifier);
    if (checkpoint !== null) return checkpoint.size;
  }
  return null;
}

/** Calls `onLost` once another exporter has the lease. Returns the function that ends it and lets the next one in. */
export function keepLease(lease: Lease, onLost: () => void): () => Promise<void> {
  let renewing: Promise<void> | null = null;
  const timer = setInterval(() => {
    renewing ??= lease.renew().then((isOurs) => {
      renewing = null;
      if (isOurs) return;
      clearInterval(timer);
      onLost();
    });
  }, RENEW_MS);
  return async () => {
    clearInterval(timer);
    await renewing;
    await lease.release();
  };
}

/** Fails with a sentence where patience would wait for ever: no such bucket, no rights, no credentials. */
async function checkAccess(bucket: Bucket, home: string): Promise<void> {
  try {
    await bucket.get(`${home}${COMMIT_KEY}`, MAX_COMMIT_BYTES);
  } catch (error) {
    if ([301, 400, 401, 403, 404].includes(statusOf(error))) {
      throw new MeshsealError(
        `the bucket cannot be used: ${describe(error)}. Try meshseal doctor.`,
      );
    }
  }
}

async function waitForTurn(bucket: Bucket, home: string, logger: Logger): Promise<Lease> {
  const holder = `${hostname()}/${randomBytes(8).toString("hex")}`;
  return await Lease.acquire({
    bucket,
    home,
    holder,
    clock: CLOCK,
    onWaiting: (name) => logger.info({ holder: name }, "another exporter serves this log: waiting"),
  });
}

/** The faster of two clocks: one stands still while the machine sleeps, the other can be set back. */
const started = { steady: performance.now(), wall: Date.now() };
const CLOCK: Clock = {
  now: () => Math.max(performance.now() - started.steady, Date.now() - started.wall),
  sleep: (ms) => sleep(ms),
};

/** What another has written on, this process's WAL no longer continues: kept as evidence, never replayed. */
function setAside(data: string, fence: number, logger: Logger): void {
  for (const name of ["wal", "index"]) {
    const path = join(data, name);
    if (!existsSync(path)) continue;
    renameSync(path, `${path}.superseded-${fence}`);
    logger.warn({ path: `${path}.superseded-${fence}` }, "another exporter went on: set aside");
  }
  syncDir(data);
}

/** Makes a key for a log of one's own. The one before stays, under the name of its origin. */
function newOrigin(data: string, taken: string): string {
  const name = `${taken}/${randomBytes(4).toString("hex")}`;
  const kept = taken.replaceAll(/[^A-Za-z0-9.-]/g, "_");
  for (const ending of ["key", "vkey"]) {
    const path = join(data, `log.${ending}`);
    if (existsSync(path)) renameSync(path, join(data, `log-${kept}.${ending}`));
  }
  for (const left of ["wal", "index", "writers", "keys", "key.statement"]) {
    const path = join(data, left);
    if (existsSync(path)) renameSync(path, `${path}.of-${kept}`);
  }
  makeKey(join(data, "log"), name);
  syncDir(data);
  return name;
}

/** Returns the start that wrote the WAL ("" for none) and those after it that were cut short. */
function readWriters(data: string): string[] {
  const path = join(data, "writers");
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, "utf8").split("\n");
  if (lines.pop() === "" && lines.every((line) => /^([0-9a-f]{32})?$/.test(line))) return lines;
  throw new MeshsealError(`${path} is damaged: restore it, or move the data directory away.`);
}

function writeWriters(data: string, writers: readonly string[]): void {
  const path = join(data, "writers");
  const file = openSync(`${path}.new`, "w", 0o600);
  try {
    writeSync(file, writers.map((writer) => `${writer}\n`).join(""));
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(`${path}.new`, path);
  syncDir(data);
}
