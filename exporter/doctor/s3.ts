/** What doctor tries against an S3 bucket with object lock, beyond what every bucket can (bucket.ts). */
import { describe } from "../store/patience.ts";
import { s3Bucket, s3Client, s3Send } from "../store/s3.ts";
import type { Where } from "../store/settings.ts";
import type { Check } from "./check.ts";
import { type Attempt, answerOf, type Probe, type Trial } from "./trial.ts";

type Sdk = typeof import("@aws-sdk/client-s3");
type Send = import("@aws-sdk/client-s3").S3Client["send"];

export async function s3Trial({ place, reach }: Where): Promise<Trial> {
  const sdk = await import("@aws-sdk/client-s3");
  const client = await s3Client(reach);
  const send = s3Send(client);
  return {
    bucket: await s3Bucket(client, place.bucket),
    attempts: attempts(sdk, send, place.bucket),
    whole: wholeChecks(sdk, send, place.bucket),
  };
}

function attempts(sdk: Sdk, send: Send, bucket: string): Attempt[] {
  const at = ({ key }: Probe): { Bucket: string; Key: string } => ({ Bucket: bucket, Key: key });
  const version = (probe: Probe): { Bucket: string; Key: string; VersionId: string } => ({
    ...at(probe),
    VersionId: probe.version,
  });
  const retain = (probe: Probe, more: object): Promise<unknown> =>
    send(
      new sdk.PutObjectRetentionCommand({
        ...version(probe),
        ChecksumAlgorithm: "SHA256",
        ...more,
      }),
    );
  return [
    {
      name: "writing over a locked file leaves its version",
      run: (probe) => send(new sdk.PutObjectCommand({ ...at(probe), Body: "other" })),
    },
    {
      name: "deleting a locked file leaves its version",
      run: (probe) => send(new sdk.DeleteObjectCommand(at(probe))),
    },
    {
      name: "a locked version cannot be deleted",
      run: (probe) => send(new sdk.DeleteObjectCommand(version(probe))),
    },
    {
      name: "nor with the right to bypass governance",
      run: (probe) =>
        send(new sdk.DeleteObjectCommand({ ...version(probe), BypassGovernanceRetention: true })),
    },
    {
      name: "a retention cannot be shortened",
      run: (probe) =>
        retain(probe, {
          Retention: { Mode: "COMPLIANCE", RetainUntilDate: new Date(Date.now() + 60_000) },
        }),
    },
    {
      name: "compliance mode cannot become governance mode",
      run: (probe) =>
        retain(probe, {
          Retention: { Mode: "GOVERNANCE", RetainUntilDate: probe.until },
          BypassGovernanceRetention: true,
        }),
    },
    {
      name: "a retention cannot be removed",
      run: (probe) => retain(probe, { Retention: {}, BypassGovernanceRetention: true }),
    },
  ];
}

function wholeChecks(sdk: Sdk, send: Send, bucket: string): Check[] {
  const at = { Bucket: bucket };
  const versioning = async (): Promise<string> =>
    (await send(new sdk.GetBucketVersioningCommand(at))).Status ?? "never enabled";
  const lockState = async (): Promise<string> => {
    const found = await send(new sdk.GetObjectLockConfigurationCommand(at));
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
        const found = await send(new sdk.GetObjectLockConfigurationCommand(at));
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
          send(new sdk.PutBucketVersioningCommand({ ...at, VersioningConfiguration: { Status } }));
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
        const before = await send(new sdk.GetObjectLockConfigurationCommand(at));
        const set = (ObjectLockConfiguration: object | undefined): Promise<unknown> =>
          send(
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
