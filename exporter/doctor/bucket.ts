/**
 * What a bucket really protects from the credentials at hand: tries to overwrite, to delete, to shorten and to switch off what is
 * locked, and looks afterwards. What counts is what is there then, not what was answered: services deny with 403, 409 or 400, and
 * some say yes and do nothing, or no and do it.
 *
 * All of it is tried on an object of its own below `doctor/`, locked for some minutes. What can be tried differs from service to
 * service: s3.ts, gcs.ts and azure.ts have the lists. Their checks of the bucket as a whole would do harm where an attempt
 * succeeds, and undo it.
 */
import { randomBytes } from "node:crypto";
import type { Version, Written } from "../store/bucket.ts";
import { type ServiceBucket, ServiceError, toSecond } from "../store/service.ts";
import { homeOf, type ObjectStoreSettings, type Where } from "../store/settings.ts";
import { type Check, type Outcome, runChecks } from "./check.ts";
import { type Attempt, answerOf, type Probe, type Trial } from "./trial.ts";

/** The probe is locked this long, in milliseconds: long enough to try everything, short enough to go away. */
const PROBE_LOCK_MS = 10 * 60_000;
const BODY = Buffer.from("meshseal doctor: try to change me\n");

const DAY_MS = 86_400_000;
/** The exporter's clock counts for the lock, the service's for the time of writing. */
const CLOCKS_MS = 5 * 60_000;
/** Files whose lock is asked for. */
const MAX_LOOKED_AT = 100;

/** Opens a bucket once, for all checks of it. */
export async function openTrial(where: Where): Promise<Trial> {
  switch (where.place.service) {
    case "s3":
      return await (await import("./s3.ts")).s3Trial(where);
    case "gcs":
      return await (await import("./gcs.ts")).gcsTrial(where);
    case "azure":
      return await (await import("./azure.ts")).azureTrial(where);
  }
}

/** Returns the checks of what is promised of single objects. The first one makes the probe the others need. */
export function objectChecks({ bucket, attempts }: Trial, home: string): Check[] {
  const name = `${new Date().toISOString().slice(0, 10)}-${randomBytes(6).toString("hex")}`;
  const probe = { key: `${home}doctor/${name}`, version: "", until: new Date(0) };
  return [
    {
      name: "an object can be locked, so that nobody can unlock it",
      run: async () => {
        const until = toSecond(new Date(Date.now() + PROBE_LOCK_MS));
        const made = await bucket.create(probe.key, BODY, until).catch(refusal);
        if (made instanceof ServiceError) {
          return {
            status: "bad",
            message: `refused (${made.status} ${made.name}: ${made.message})`,
          };
        }
        if (made === null) return { status: "bad", message: "somebody else wrote the probe" };
        if (made.version === "" || made.version === "null") {
          return { status: "bad", message: "the bucket keeps no versions: nothing can be locked" };
        }
        probe.version = made.version;
        probe.until = until;
        const broken = await whatChanged(bucket, probe);
        if (broken === null)
          return { status: "good", message: `locked until ${until.toISOString()}` };
        probe.version = "";
        return { status: "bad", message: `${broken}, though it was just written with a lock` };
      },
    },
    {
      name: "a file is written once",
      run: async () => {
        const at = `${probe.key}-once`;
        const first = await bucket.create(at, Buffer.from("1"), null);
        const again = await bucket.create(at, Buffer.from("2"), null);
        await clean(bucket, at, [first, again]);
        return mustBeNull(again, "a second write went through");
      },
    },
    {
      name: "the checkpoint is swapped only by who has read it",
      run: async () => {
        const at = `${probe.key}-swap`;
        const first = await bucket.create(at, Buffer.from("1"), null);
        const etag = first?.etag ?? "";
        const right = await bucket.swap(at, Buffer.from("2"), etag);
        const stale = await bucket.swap(at, Buffer.from("3"), etag);
        await clean(bucket, at, [first, right, stale]);
        if (right === null) return { status: "bad", message: "a right swap was refused" };
        return mustBeNull(stale, "a stale swap went through");
      },
    },
    ...attempts.map(({ name, run }): Check => ({ name, run: () => tried(bucket, probe, run) })),
    {
      name: "versions can be listed, as verify needs it",
      run: async () => {
        if (probe.version === "") return { status: "unknown", message: "there is no version" };
        let found = 0;
        for await (const one of bucket.versions(probe.key)) {
          if (one.key === probe.key && one.version === probe.version) found++;
        }
        return found === 1
          ? { status: "good", message: "the locked version is in the list" }
          : { status: "bad", message: "the locked version is not in the list" };
      },
    },
  ];
}

/**
 * Returns what keeps a log from being immutable, in sentences; empty if nothing was found. Tries single objects only, and so
 * can run at every start.
 */
export async function provesImmutable(
  settings: Where & Pick<ObjectStoreSettings, "lockMs">,
  home: string,
): Promise<string[]> {
  if (settings.lockMs === 0) return ["nothing is locked (--lock-days 0)"];
  const results = await runChecks(objectChecks(await openTrial(settings), home));
  return results
    .filter(({ status }) => status !== "good")
    .map(({ name, message }) => `"${name}" does not hold: ${message}`);
}

/** Returns the checks of `meshseal doctor --store`; of how long a log's files are locked where `lockDays` says what is asked for. */
export async function bucketChecks(
  where: Where,
  origin: string,
  lockDays?: number,
): Promise<Check[]> {
  const home = homeOf(where.place, origin);
  const trial = await openTrial(where);
  const checks = [...objectChecks(trial, home), ...trial.whole];
  if (lockDays !== undefined) checks.push(lockedLongEnough(trial.bucket, home, lockDays));
  return checks;
}

/** Whether the files of the log at `home` that are written once were locked for `days` when they were written. */
export function lockedLongEnough(bucket: ServiceBucket, home: string, days: number): Check {
  return {
    name: `the log's files are locked for ${days} days`,
    run: async () => {
      const files: Version[] = [];
      for (const prefix of ["log/tile/", "checkpoints/", "anchors/"]) {
        for await (const one of bucket.versions(`${home}${prefix}`)) {
          if (!one.isDeleteMarker && !one.key.includes(".p/")) files.push(one);
        }
      }
      // The newest: what is written now is what the settings of today do.
      files.sort((a, b) => b.modified.getTime() - a.modified.getTime());
      const looked = files.slice(0, MAX_LOOKED_AT);
      if (looked.length === 0) return { status: "unknown", message: "there is no such file yet" };
      for (const { key, version, modified, lock } of looked) {
        const until = (lock ? lock.now : await bucket.lock(key, version)) ?? null;
        const least = modified.getTime() + days * DAY_MS - CLOCKS_MS;
        if (until !== null && until.getTime() >= least) continue;
        const now = until === null ? "not locked" : `locked until ${until.toISOString()}`;
        const message = `${key} of ${modified.toISOString()} is ${now}`;
        return { status: "bad", message };
      }
      return { status: "good", message: `so are the newest ${looked.length} of ${files.length}` };
    },
  };
}

async function tried(
  bucket: ServiceBucket,
  probe: Probe,
  attempt: Attempt["run"],
): Promise<Outcome> {
  if (probe.version === "") return { status: "unknown", message: "there is no locked object" };
  const answer = await answerOf(() => attempt(probe));
  const broken = await whatChanged(bucket, probe);
  return broken === null
    ? { status: "good", message: `${answer}; the version is as it was, and locked` }
    : { status: "bad", message: `${answer}; ${broken}` };
}

/** Removes what a check made, where the credentials may: the newest version last, so that none is hidden. */
async function clean(
  bucket: ServiceBucket,
  key: string,
  made: readonly (Written | null)[],
): Promise<void> {
  const versions = made.flatMap((one) => (one === null ? [] : [{ key, version: one.version }]));
  await bucket.remove(versions).catch(() => undefined);
}

/** Returns what was refused, and throws anything else: then nothing was tried. */
function refusal(error: unknown): ServiceError {
  if (error instanceof ServiceError && error.status >= 400 && error.status < 500) return error;
  throw error;
}

function mustBeNull(written: unknown, otherwise: string): Outcome {
  return written === null
    ? { status: "good", message: "refused" }
    : { status: "bad", message: otherwise };
}

/** Reads the probe again by its version. Returns what is not as it was, or null. */
async function whatChanged(bucket: ServiceBucket, probe: Probe): Promise<string | null> {
  const { key, version, until } = probe;
  const found = await bucket.getVersion(key, version, BODY.length);
  if (found === null) return "it is gone";
  if (!BODY.equals(found.bytes)) return "its bytes have changed";
  const lock = await bucket.lock(key, version);
  if (lock === undefined) return "its lock may not be seen with these credentials";
  if (lock === null) return "it is not locked, or not so that nobody could unlock it";
  return lock < until
    ? `its lock now ends at ${lock.toISOString()}, not ${until.toISOString()}`
    : null;
}
