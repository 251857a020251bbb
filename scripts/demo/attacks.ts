/**
 * Everything that the exporter's own credentials can try against its log in a bucket, one attempt at a time. Here they may do
 * anything, more than docs/storage.md gives them. After each attempt the log is verified from the bucket; what the
 * attempt added is removed again, and what it removed is put back, so that the next one begins with an honest log.
 */
import {
  DeleteObjectCommand,
  GetObjectCommand,
  ListObjectVersionsCommand,
  type ListObjectVersionsCommandOutput,
  type ObjectVersion,
  PutBucketVersioningCommand,
  PutObjectCommand,
  PutObjectLockConfigurationCommand,
  PutObjectRetentionCommand,
} from "@aws-sdk/client-s3";
import type { VerifyReport } from "../../exporter/audit/report.ts";
import { openTrial } from "../../exporter/doctor/bucket.ts";
import { runChecks } from "../../exporter/doctor/check.ts";
import { s3Error } from "../../exporter/store/s3.ts";
import { statusOf } from "../../exporter/store/service.ts";
import type { Outside } from "./outside.ts";

export type Tried = {
  readonly attempt: string;
  readonly outcome: "REFUSED" | "DETECTED" | "NOT FOUND";
  /** What the service answered, and what verify or doctor named. */
  readonly how: string;
};

type At = { readonly Bucket: string; readonly Key: string };
type Held = At & { readonly VersionId: string };

type Attempt = {
  readonly name: string;
  readonly run: () => Promise<unknown>;
  /** Undoes it where it went through. */
  readonly undo?: () => Promise<unknown>;
  /** It is of the bucket as a whole, where verify has nothing to see: doctor's check with this name. */
  readonly doctor?: string;
};

const MINUTE_MS = 60_000;

/** Tries all. `onTried` gets each when it is known. */
export async function tryEverything(
  outside: Outside,
  onTried: (tried: Tried) => void,
): Promise<Tried[]> {
  const all: Tried[] = [];
  for (const attempt of await attempts(outside)) {
    const before = await everyVersion(outside);
    const answer = await answerOf(attempt.run);
    const named =
      attempt.doctor === undefined
        ? namesOf(await outside.verify())
        : await doctorNames(outside, attempt.doctor);
    const outcome = named !== "" ? "DETECTED" : answer !== "answered yes" ? "REFUSED" : "NOT FOUND";
    const tried: Tried = { attempt: attempt.name, outcome, how: named || answer };
    all.push(tried);
    onTried(tried);
    await attempt.undo?.();
    await removeAdded(outside, before);
  }
  return all;
}

async function attempts({ server, bucket, home }: Outside): Promise<Attempt[]> {
  const { client } = server;
  const versions = async (prefix: string): Promise<ObjectVersion[]> =>
    (
      await client.send(
        new ListObjectVersionsCommand({ Bucket: bucket, Prefix: `${home}${prefix}` }),
      )
    ).Versions ?? [];
  const only = async (prefix: string, ending = ""): Promise<Held> => {
    const found = (await versions(prefix)).find(({ Key = "" }) => Key.endsWith(ending));
    if (found === undefined) throw new Error(`there is no ${prefix}...${ending} to try`);
    return { Bucket: bucket, Key: found.Key ?? "", VersionId: found.VersionId ?? "" };
  };
  const bytesOf = async (held: Held): Promise<Uint8Array> =>
    (await (await client.send(new GetObjectCommand(held))).Body?.transformToByteArray()) ??
    new Uint8Array();
  const put = ({ Bucket, Key }: At, Body: Uint8Array | string): Promise<unknown> =>
    client.send(new PutObjectCommand({ Bucket, Key, Body }));
  const remove = (held: Held, more: object = {}): Promise<unknown> =>
    client.send(new DeleteObjectCommand({ ...held, ...more }));
  const retain = ({ Bucket, Key, VersionId }: Held, Retention: object): Promise<unknown> =>
    client.send(
      new PutObjectRetentionCommand({
        ...{ Bucket, Key, VersionId, Retention },
        BypassGovernanceRetention: true,
        ChecksumAlgorithm: "SHA256",
      }),
    );
  const soon = (): Date => new Date(Date.now() + MINUTE_MS);

  const bundle = await only("log/tile/entries/000");
  const hashes = await only("log/tile/0/000");
  const kept = await only("checkpoints/");
  const stamp = await only("anchors/", ".tsr");
  const partial = await only("log/tile/entries/", newestOf(await versions("log/tile/entries/")));
  const partialBytes = await bytesOf(partial);
  const moving = { Bucket: bucket, Key: `${home}log/checkpoint` };
  const movingVersions = (await versions("log/checkpoint"))
    .filter(({ Key }) => Key === moving.Key)
    .map(({ VersionId = "" }) => ({ ...moving, VersionId }));
  const [newest, oldest] = [movingVersions[0], movingVersions.at(-1)];
  if (newest === undefined || oldest === undefined) throw new Error("there is no checkpoint");
  const [newestNote, oldestNote] = [await bytesOf(newest), await bytesOf(oldest)];

  const locked = (what: string, held: Held): Attempt[] => [
    { name: `delete the version of ${what}`, run: () => remove(held) },
    {
      name: `delete it and bypass governance: ${what}`,
      run: () => remove(held, { BypassGovernanceRetention: true }),
    },
    { name: `hide ${what} behind a delete marker`, run: () => client.send(markerOver(held)) },
    { name: `write over ${what}`, run: () => put(held, "other bytes") },
  ];
  return [
    ...locked("an entry bundle", bundle),
    ...locked("a tile of hashes", hashes),
    ...locked("a kept checkpoint", kept),
    ...locked("a time stamp", stamp),
    {
      name: "shorten the retention of a bundle",
      run: () => retain(bundle, { Mode: "COMPLIANCE", RetainUntilDate: soon() }),
    },
    {
      name: "turn its compliance mode into governance mode",
      run: () => retain(bundle, { Mode: "GOVERNANCE", RetainUntilDate: soon() }),
    },
    { name: "remove its retention", run: () => retain(bundle, {}) },
    { name: "put an older signed checkpoint back", run: () => put(moving, oldestNote) },
    {
      name: "delete every newer version of the checkpoint",
      run: async () => {
        for (const held of movingVersions.slice(0, -1)) await remove(held);
      },
      undo: () => put(moving, newestNote),
    },
    { name: "put a checkpoint that nobody signed", run: () => put(moving, "audit\n0\n") },
    {
      name: "delete the newest entries' bundle, which is not full and so not locked",
      run: () => remove(partial),
      undo: () => put(partial, partialBytes),
    },
    { name: "write over that bundle", run: () => put(partial, "other bytes") },
    {
      name: "put a file of one's own into the log",
      run: () => put({ Bucket: bucket, Key: `${home}log/tile/0/x999/999` }, "x"),
    },
    {
      name: "suspend versioning",
      run: () =>
        client.send(
          new PutBucketVersioningCommand({
            Bucket: bucket,
            VersioningConfiguration: { Status: "Suspended" },
          }),
        ),
      doctor: "the bucket keeps versions and has object lock",
    },
    {
      name: "remove the bucket's lock configuration",
      run: () =>
        client.send(
          new PutObjectLockConfigurationCommand({
            Bucket: bucket,
            ObjectLockConfiguration: {},
            ChecksumAlgorithm: "SHA256",
          }),
        ),
      doctor: "the bucket keeps versions and has object lock",
    },
  ];
}

/** Puts locked bytes where the next full bundle and tile will be. Returns their paths below the log. */
export async function plant(
  { server, bucket, home }: Outside,
  treeSize: number,
): Promise<string[]> {
  const index = String(Math.floor(treeSize / 256)).padStart(3, "0");
  const paths = [`log/tile/entries/${index}`, `log/tile/0/${index}`];
  for (const path of paths) {
    await server.client.send(
      new PutObjectCommand({
        ...{ Bucket: bucket, Key: `${home}${path}`, Body: "planted", IfNoneMatch: "*" },
        ObjectLockMode: "COMPLIANCE",
        ObjectLockRetainUntilDate: new Date(Date.now() + MINUTE_MS),
      }),
    );
  }
  return paths;
}

function markerOver({ Bucket, Key }: At): DeleteObjectCommand {
  return new DeleteObjectCommand({ Bucket, Key });
}

/** The key of the partial bundle with the most entries. */
function newestOf(versions: readonly ObjectVersion[]): string {
  const width = (key: string): number => Number(/\.p\/(\d+)$/.exec(key)?.[1] ?? -1);
  const keys = versions.map(({ Key = "" }) => Key).filter((key) => width(key) > 0);
  return keys.sort((a, b) => width(b) - width(a))[0] ?? "(a partial bundle)";
}

async function answerOf(run: () => Promise<unknown>): Promise<string> {
  try {
    await run();
    return "answered yes";
  } catch (error) {
    const status = statusOf(s3Error(error));
    if (status === 0 || status >= 500) throw error;
    return `${status} ${(error as Error).name}`;
  }
}

/** What verify says of a log that was touched, in some words; "" of one that was not. */
function namesOf({ findings }: VerifyReport): string {
  const all = findings.filter(({ severity }) => severity === "tampered");
  const said = all.toSorted(
    (a, b) => Number(b.cause === "rolled-back") - Number(a.cause === "rolled-back"),
  );
  const [first, ...more] = said;
  if (first === undefined) return "";
  const rest = more.length === 0 ? "" : ` and ${more.length} more`;
  return `verify: ${first.cause} ${first.file ?? ""}${rest}`;
}

async function doctorNames({ server, bucket }: Outside, name: string): Promise<string> {
  const place = { service: "s3" as const, bucket, prefix: "" };
  const reach = { s3Endpoint: server.endpoint, s3PathStyle: true };
  const { whole } = await openTrial({ place, reach });
  const [result] = await runChecks(whole.filter((check) => check.name === name));
  return result?.status === "good" ? "" : `doctor: ${result?.message}`;
}

async function everyVersion({ server, bucket }: Outside): Promise<Map<string, At>> {
  const all = new Map<string, At>();
  let marker: { KeyMarker?: string; VersionIdMarker?: string } | null = {};
  while (marker !== null) {
    const page: ListObjectVersionsCommandOutput = await server.client.send(
      new ListObjectVersionsCommand({ Bucket: bucket, ...(marker as object) }),
    );
    for (const { Key = "", VersionId = "" } of [
      ...(page.Versions ?? []),
      ...(page.DeleteMarkers ?? []),
    ]) {
      all.set(`${Key}\n${VersionId}`, { Bucket: bucket, Key });
    }
    marker =
      page.IsTruncated === true && page.NextKeyMarker !== undefined
        ? { KeyMarker: page.NextKeyMarker, VersionIdMarker: page.NextVersionIdMarker ?? "" }
        : null;
  }
  return all;
}

/** Removes the versions and delete markers that were added, but for those that stand for what was deleted. */
async function removeAdded(outside: Outside, before: ReadonlyMap<string, At>): Promise<void> {
  const after = await everyVersion(outside);
  const lost = new Set<string>();
  for (const [id, { Key }] of before) if (!after.has(id)) lost.add(Key);
  for (const [id, at] of after) {
    if (before.has(id) || lost.has(at.Key)) continue;
    const VersionId = id.slice(id.indexOf("\n") + 1);
    await outside.server.client.send(new DeleteObjectCommand({ ...at, VersionId }));
  }
}
