import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  DeleteObjectCommand,
  GetObjectRetentionCommand,
  ListObjectVersionsCommand,
  PutObjectCommand,
} from "@aws-sdk/client-s3";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parsePolicy } from "../../exporter/audit/policy.ts";
import { inBucket } from "../../exporter/audit/proofs.ts";
import type { VerifyReport } from "../../exporter/audit/report.ts";
import { openSource } from "../../exporter/audit/source.ts";
import { verifyLog } from "../../exporter/audit/verify.ts";
import { parseVkey, type Verifier } from "../../exporter/log/note.ts";
import { makeChain } from "../support/chains.ts";
import { startExporter } from "../support/exporter.ts";
import { type S3Server, startS3 } from "../support/s3-server.ts";
import { sendChain } from "../support/senders.ts";
import { startTsa, type Tsa } from "../support/tsa.ts";
import { startWitness, type TestWitness } from "../support/witness.ts";

const ORIGIN = "audit.example/anchored";
const PREFIX = "mesh/audit.example_anchored/anchors/";
let server: S3Server;
let tsa: Tsa;
let witness: TestWitness;
let bucket = "";
let log = "";

/** A log in a bucket, anchored twice: the second time after kill -9, so that what was not copied then is copied later. */
beforeAll(async () => {
  server = await startS3("versitygw");
  bucket = await server.newBucket();
  const dir = mkdtempSync(join(tmpdir(), "meshseal-anchored-"));
  mkdirSync(dir, { recursive: true });
  const first = await startExporter({ dir, args: args() });
  log = first.vkey;
  expect(await first.stop()).toBe(0);
  tsa = await startTsa();
  witness = await startWitness("wit.example/s3", [parseVkey(log) as Verifier]);
  const policy = [`witness one ${witness.vkey} ${witness.url}`, "quorum one"];
  const anchors = join(dir, "anchors.json");
  writeFileSync(
    anchors,
    JSON.stringify({
      witnesses: { policy, everySeconds: 0.5 },
      timestamps: [{ name: "tsa", url: tsa.url, roots: tsa.root, everySeconds: 0.5 }],
    }),
  );
  const chain = makeChain({ batches: 20, perBatch: 40, entryBytes: 250 });
  for (const [i, part] of [chain.slice(0, 10), chain.slice(10)].entries()) {
    const exporter = await startExporter({ dir, args: [...args(), "--anchors", anchors] });
    const { url, vkey } = exporter;
    await sendChain(() => url, vkey, part, new Map());
    if (i === 0) await exporter.kill();
    else expect(await exporter.stop()).toBe(0);
  }
}, 900_000);
afterAll(async () => {
  await Promise.all([server?.close(), tsa?.stop(), witness?.stop()]);
});

function args(): string[] {
  const where = ["--store", `s3://${bucket}/mesh`, "--s3-endpoint", server.endpoint];
  const lock = ["--s3-path-style", "--lock-days", "1", "--checkpoint-ms", "50"];
  return [...where, ...lock, "--origin", ORIGIN];
}

/** Verifies from the bucket alone: no file of the exporter's is read. */
async function verified(): Promise<VerifyReport> {
  const require_ = ["witness", "rfc3161", "object-lock"].map((anchor) => ({ anchor }));
  const policy = {
    logs: [{ key: log }],
    witnesses: [`witness one ${witness.vkey}`, "quorum one"],
    timestampAuthorities: [{ name: "tsa", roots: tsa.root }],
    require: require_,
  };
  const parsed = parsePolicy(JSON.stringify(policy), (name) => readFileSync(name));
  const source = await openSource(`s3://${bucket}/mesh`, {
    s3Endpoint: server.endpoint,
    s3PathStyle: true,
  });
  if (source.bucket === undefined) throw new Error("that is no bucket");
  return await verifyLog(source, { policy: parsed, proofs: inBucket(source.bucket) });
}

test("proofs are in the bucket, written once and locked, and verify needs nothing else", async () => {
  const report = await verified();
  expect(report.findings).toEqual([]);
  expect(report.anchors.map(({ kind, status }) => `${kind} ${status}`).sort()).toEqual([
    "object-lock verified",
    "quorum verified",
    "rfc3161 verified",
    "witness verified",
  ]);
  const { Versions = [] } = await server.client.send(
    new ListObjectVersionsCommand({ Bucket: bucket, Prefix: PREFIX }),
  );
  expect(Versions.some(({ Key }) => Key?.endsWith(".tsr"))).toBe(true);
  expect(new Set(Versions.map(({ Key }) => Key)).size).toBe(Versions.length);
  for (const { Key, VersionId } of Versions) {
    const at = { Bucket: bucket, Key, VersionId };
    const { Retention } = await server.client.send(new GetObjectRetentionCommand(at));
    expect(Retention?.Mode).toBe("COMPLIANCE");
  }
});

test("whoever writes over a proof or hides it is named, and the proof counts all the same", async () => {
  const { Versions = [] } = await server.client.send(
    new ListObjectVersionsCommand({ Bucket: bucket, Prefix: PREFIX }),
  );
  const [token, other] = Versions.filter(({ Key }) => Key?.endsWith(".tsr"));
  const Body = Buffer.from("something else");
  await server.client.send(new PutObjectCommand({ Bucket: bucket, Key: token?.Key, Body }));
  await server.client.send(new DeleteObjectCommand({ Bucket: bucket, Key: (other ?? token)?.Key }));
  const report = await verified();
  expect(report.findings.map(({ cause }) => cause).sort()).toEqual([
    "delete-marker",
    "extra-version",
  ]);
  expect(
    report.anchors.some(({ kind, status }) => kind === "rfc3161" && status === "verified"),
  ).toBe(true);
});
