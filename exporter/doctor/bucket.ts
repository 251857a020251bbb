/**
 * Checks of a bucket with the credentials at hand: tries to overwrite, to delete, to shorten and to switch off what is locked,
 * and looks afterwards. What counts is what is there then, not what was answered: services deny with 403 or 400, and
 * some say yes and do nothing, or no and do it.
 *
 * All of it is tried on an object of its own below `doctor/`, locked for some minutes. The checks of the bucket as a whole
 * (`versioning`, `lock configuration`) would do harm where they succeed, and undo it.
 */
import { randomBytes } from "node:crypto";
import type { S3Client } from "@aws-sdk/client-s3";
import type { Version } from "../store/bucket.ts";
import { describe } from "../store/patience.ts";
import { listVersions, s3Client, statusOf } from "../store/s3.ts";
import { homeOf, type ObjectStoreSettings } from "../store/settings.ts";
import { type Check, type Outcome, runChecks } from "./check.ts";

/** The probe is locked this long, in milliseconds: long enough to try everything, short enough to go away. */
const PROBE_LOCK_MS = 10 * 60_000;
const BODY = Buffer.from("meshseal doctor: try to change me\n");

const DAY_MS = 86_400_000;
/** The exporter's clock counts for the lock, the service's for the time of writing. */
const CLOCKS_MS = 5 * 60_000;
/** Files whose lock is asked for. */
const MAX_LOOKED_AT = 100;

type Sdk = typeof import("@aws-sdk/client-s3");

type Probe = {
  readonly sdk: Sdk;
  readonly client: S3Client;
  readonly bucket: string;
  readonly key: string;
  version: string;
  until: Date;
};

/** Returns the checks of what is promised of single objects. The first one makes the probe the others need. */
export async function objectChecks(
  settings: Pick<ObjectStoreSettings, "place" | "s3">,
  home: string,
): Promise<Check[]> {
  const probe = await newProbe(settings, home);
  const { sdk, client, bucket, key } = probe;
  const at = { Bucket: bucket, Key: key };
  const version = (): { VersionId: string } => ({ VersionId: probe.version });
  const refused = (name: string, attempt: () => Promise<unknown>): Check => ({
    name,
    run: async () => {
      if (probe.version === "") return { status: "unknown", message: "there is no locked object" };
      const answer = await answerOf(attempt);
      const broken = await whatChanged(probe);
      if (broken !== null) return { status: "bad", message: `${answer}; ${broken}` };
      return { status: "good", message: `${answer}; the version is as it was, and locked` };
    },
  });
  return [
    {
      name: "an object can be locked in compliance mode",
      run: async () => {
        const until = new Date(Math.ceil((Date.now() + PROBE_LOCK_MS) / 1000) * 1000);
        const made = await client.send(
          new sdk.PutObjectCommand({
            ...at,
            Body: BODY,
            ContentLength: BODY.length,
            ChecksumAlgorithm: "SHA256",
            IfNoneMatch: "*",
            ObjectLockMode: "COMPLIANCE",
            ObjectLockRetainUntilDate: until,
          }),
        );
        if (!made.VersionId || made.VersionId === "null") {
          return { status: "bad", message: "the bucket keeps no versions: nothing can be locked" };
        }
        probe.version = made.VersionId;
        probe.until = until;
        const broken = await whatChanged(probe);
        if (broken !== null) probe.version = "";
        return broken === null
          ? { status: "good", message: `locked until ${until.toISOString()}` }
          : { status: "bad", message: broken };
      },
    },
    {
      name: "a file is written once (If-None-Match)",
      run: async () => {
        const attempt = new sdk.PutObjectCommand({ ...at, Body: "other", IfNoneMatch: "*" });
        return mustFail(await answerOf(() => client.send(attempt)), "written over");
      },
    },
    {
      name: "the checkpoint is swapped only by who has read it (If-Match)",
      run: async () => {
        const other = { Bucket: bucket, Key: `${key}-swap` };
        const first = await client.send(new sdk.PutObjectCommand({ ...other, Body: "1" }));
        const swap = (Body: string): Promise<unknown> =>
          client.send(new sdk.PutObjectCommand({ ...other, Body, IfMatch: first.ETag }));
        await swap("2");
        return mustFail(await answerOf(() => swap("3")), "a stale swap went through");
      },
    },
    refused("writing over a locked file leaves its version", () =>
      client.send(new sdk.PutObjectCommand({ ...at, Body: "other" })),
    ),
    refused("deleting a locked file leaves its version", () =>
      client.send(new sdk.DeleteObjectCommand(at)),
    ),
    refused("a locked version cannot be deleted", () =>
      client.send(new sdk.DeleteObjectCommand({ ...at, ...version() })),
    ),
    refused("nor with the right to bypass governance", () =>
      client.send(
        new sdk.DeleteObjectCommand({ ...at, ...version(), BypassGovernanceRetention: true }),
      ),
    ),
    refused("a retention cannot be shortened", () =>
      client.send(
        new sdk.PutObjectRetentionCommand({
          ...at,
          ...version(),
          Retention: { Mode: "COMPLIANCE", RetainUntilDate: new Date(Date.now() + 60_000) },
          ChecksumAlgorithm: "SHA256",
        }),
      ),
    ),
    refused("compliance mode cannot become governance mode", () =>
      client.send(
        new sdk.PutObjectRetentionCommand({
          ...at,
          ...version(),
          Retention: { Mode: "GOVERNANCE", RetainUntilDate: probe.until },
          BypassGovernanceRetention: true,
          ChecksumAlgorithm: "SHA256",
        }),
      ),
    ),
    refused("a retention cannot be removed", () =>
      client.send(
        new sdk.PutObjectRetentionCommand({
          ...at,
          ...version(),
          Retention: {},
          BypassGovernanceRetention: true,
          ChecksumAlgorithm: "SHA256",
        }),
      ),
    ),
    {
      name: "versions can be listed, as verify needs it",
      run: async () => {
        if (probe.version === "") return { status: "unknown", message: "there is no version" };
        let found = 0;
        for await (const one of listVersions(client, bucket, key)) {
          if (one.version === probe.version) found++;
        }
        return found === 1
          ? { status: "good", message: "the locked version is in the list" }
          : { status: "bad", message: "the locked version is not in the list" };
      },
    },
  ];
}

/** Returns the checks of the bucket as a whole. */
export async function wholeBucketChecks({
  place,
  s3,
}: Pick<ObjectStoreSettings, "place" | "s3">): Promise<Check[]> {
  const sdk = await import("@aws-sdk/client-s3");
  const client = await s3Client(s3);
  const at = { Bucket: place.bucket };
  const versioning = async (): Promise<string> =>
    (await client.send(new sdk.GetBucketVersioningCommand(at))).Status ?? "never enabled";
  const lockState = async (): Promise<string> => {
    const found = await client.send(new sdk.GetObjectLockConfigurationCommand(at));
    return found.ObjectLockConfiguration?.ObjectLockEnabled ?? "not enabled";
  };
  return [
    {
      name: "the bucket keeps versions and has object lock",
      run: async () => {
        const [versions, lock] = [await versioning(), await lockState().catch(describe)];
        return versions === "Enabled" && lock === "Enabled"
          ? { status: "good", message: "both are enabled" }
          : { status: "bad", message: `versioning: ${versions}; object lock: ${lock}` };
      },
    },
    {
      name: "the bucket locks nothing by itself",
      run: async () => {
        const found = await client.send(new sdk.GetObjectLockConfigurationCommand(at));
        const rule = found.ObjectLockConfiguration?.Rule?.DefaultRetention;
        return rule === undefined
          ? { status: "good", message: "there is no default retention" }
          : {
              status: "warning",
              message: `default retention of ${rule.Days ?? rule.Years} ${rule.Days ? "days" : "years"}: every version of the checkpoint and every partial tile stays that long`,
            };
      },
    },
    {
      name: "versioning cannot be suspended",
      run: async () => {
        const set = (Status: "Enabled" | "Suspended"): Promise<unknown> =>
          client.send(
            new sdk.PutBucketVersioningCommand({ ...at, VersioningConfiguration: { Status } }),
          );
        const before = await versioning();
        const answer = await answerOf(() => set("Suspended"));
        const after = await versioning();
        if (before === "Enabled" && after !== "Enabled") await set("Enabled");
        return after === "Enabled"
          ? { status: "good", message: `${answer}; versioning is enabled` }
          : { status: "bad", message: `${answer}; versioning was ${after} (it is enabled again)` };
      },
    },
    {
      name: "the lock configuration cannot be removed",
      run: async () => {
        const before = await client.send(new sdk.GetObjectLockConfigurationCommand(at));
        const set = (ObjectLockConfiguration: object | undefined): Promise<unknown> =>
          client.send(
            new sdk.PutObjectLockConfigurationCommand({
              ...at,
              ObjectLockConfiguration,
              ChecksumAlgorithm: "SHA256",
            }),
          );
        const answer = await answerOf(() => set({}));
        const after = await lockState().catch(describe);
        if (after === "Enabled" && before.ObjectLockConfiguration?.Rule !== undefined) {
          await set(before.ObjectLockConfiguration).catch(() => undefined);
        }
        if (after === "Enabled") return { status: "good", message: `${answer}; lock is enabled` };
        await set({ ObjectLockEnabled: "Enabled" }).catch(() => undefined);
        return { status: "bad", message: `${answer}; object lock was ${after}` };
      },
    },
  ];
}

/**
 * Returns what keeps a log from being immutable, in sentences; empty if nothing was found. Tries single objects only, and so
 * can run at every start.
 */
export async function provesImmutable(
  settings: Pick<ObjectStoreSettings, "place" | "s3" | "lockMs">,
  home: string,
): Promise<string[]> {
  if (settings.lockMs === 0) return ["nothing is locked (--lock-days 0)"];
  const results = await runChecks(await objectChecks(settings, home));
  return results
    .filter(({ status }) => status !== "good")
    .map(({ name, message }) => `"${name}" does not hold: ${message}`);
}

/** Returns the checks of `meshseal doctor --store`; of how long a log's files are locked where `lockDays` says what is asked for. */
export async function bucketChecks(
  settings: Pick<ObjectStoreSettings, "place" | "s3">,
  origin: string,
  lockDays?: number,
): Promise<Check[]> {
  const home = homeOf(settings.place, origin);
  const checks = [...(await objectChecks(settings, home)), ...(await wholeBucketChecks(settings))];
  return lockDays === undefined ? checks : [...checks, lockedLongEnough(settings, home, lockDays)];
}

/** Whether the files of the log at `home` that are written once were locked for `days` when they were written. */
export function lockedLongEnough(
  { place, s3 }: Pick<ObjectStoreSettings, "place" | "s3">,
  home: string,
  days: number,
): Check {
  return {
    name: `the log's files are locked for ${days} days`,
    run: async () => {
      const sdk = await import("@aws-sdk/client-s3");
      const client = await s3Client(s3);
      const files: Version[] = [];
      for (const prefix of ["log/tile/", "checkpoints/", "anchors/"]) {
        for await (const one of listVersions(client, place.bucket, `${home}${prefix}`)) {
          if (!one.isDeleteMarker && !one.key.includes(".p/")) files.push(one);
        }
      }
      // The newest: what is written now is what the settings of today do.
      files.sort((a, b) => b.modified.getTime() - a.modified.getTime());
      const looked = files.slice(0, MAX_LOOKED_AT);
      if (looked.length === 0) return { status: "unknown", message: "there is no such file yet" };
      for (const { key, version, modified } of looked) {
        const at = { Bucket: place.bucket, Key: key, VersionId: version };
        const lock = await client
          .send(new sdk.GetObjectRetentionCommand(at))
          .then((answer) => answer.Retention)
          .catch((error: unknown) => {
            // Without a lock services answer 404, or 400 where the bucket has none.
            if ([400, 404].includes(statusOf(error))) return undefined;
            throw error;
          });
        const until = lock?.Mode === "COMPLIANCE" ? (lock.RetainUntilDate?.getTime() ?? 0) : 0;
        const least = modified.getTime() + days * DAY_MS - CLOCKS_MS;
        if (until >= least) continue;
        const now = until === 0 ? "not locked" : `locked until ${new Date(until).toISOString()}`;
        const message = `${key} of ${modified.toISOString()} is ${now}`;
        return { status: "bad", message };
      }
      return { status: "good", message: `so are the newest ${looked.length} of ${files.length}` };
    },
  };
}

async function newProbe(
  { place, s3 }: Pick<ObjectStoreSettings, "place" | "s3">,
  home: string,
): Promise<Probe> {
  return {
    sdk: await import("@aws-sdk/client-s3"),
    client: await s3Client(s3),
    bucket: place.bucket,
    key: `${home}doctor/${new Date().toISOString().slice(0, 10)}-${randomBytes(6).toString("hex")}`,
    version: "",
    until: new Date(0),
  };
}

async function answerOf(attempt: () => Promise<unknown>): Promise<string> {
  try {
    await attempt();
    return "answered yes";
  } catch (error) {
    const status = statusOf(error);
    // Without an answer nothing was tried.
    if (status === 0 || status >= 500) throw error;
    return `refused (${status} ${(error as Error).name})`;
  }
}

function mustFail(answer: string, otherwise: string): Outcome {
  return answer.startsWith("refused (412")
    ? { status: "good", message: answer }
    : { status: "bad", message: `${answer}: ${otherwise}` };
}

/** Reads the probe again by its version. Returns what is not as it was, or null. */
async function whatChanged({
  sdk,
  client,
  bucket,
  key,
  version,
  until,
}: Probe): Promise<string | null> {
  const at = { Bucket: bucket, Key: key, VersionId: version };
  try {
    const found = await client.send(new sdk.GetObjectCommand(at));
    const bytes = await found.Body?.transformToByteArray();
    if (!BODY.equals(bytes ?? Buffer.of())) return "its bytes have changed";
    const lock = (await client.send(new sdk.GetObjectRetentionCommand(at))).Retention;
    if (lock?.Mode !== "COMPLIANCE") return `its lock is now ${lock?.Mode ?? "gone"}`;
    if ((lock.RetainUntilDate ?? new Date(0)) < until) {
      return `its lock now ends at ${lock.RetainUntilDate?.toISOString()}, not ${until.toISOString()}`;
    }
    return null;
  } catch (error) {
    if (statusOf(error) === 404) return "it is gone, or its lock is";
    throw error;
  }
}
