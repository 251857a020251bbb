import { ListObjectVersionsCommand, PutObjectRetentionCommand } from "@aws-sdk/client-s3";
import { request } from "undici";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { VerifyReport } from "../../exporter/audit/report.ts";
import { openSource } from "../../exporter/audit/source.ts";
import { verifyLog } from "../../exporter/audit/verify.ts";
import { parseVkey, type Verifier } from "../../exporter/log/note.ts";
import { makeChain } from "../support/chains.ts";
import { startExporter } from "../support/exporter.ts";
import { type S3Server, startS3 } from "../support/s3-server.ts";
import { sendChain } from "../support/senders.ts";

// moto lets whoever asks shorten a retention in compliance mode, and says yes. What it answers when it is asked for a lock by itself is
// no XML: what cannot be seen does not count as held.

let server: S3Server;
beforeAll(async () => {
  server = await startS3("moto");
}, 900_000);
afterAll(() => server?.close());

test("a bucket that lets locks be shortened is not called immutable, and verify names the file", async () => {
  const bucket = await server.newBucket();
  const where = ["--store", `s3://${bucket}/mesh`, "--s3-endpoint", server.endpoint];
  const lock = ["--s3-path-style", "--lock-days", "5", "--checkpoint-ms", "200"];
  const exporter = await startExporter({ args: [...where, ...lock] });
  const { url, vkey } = exporter;
  await sendChain(
    () => url,
    vkey,
    makeChain({ batches: 4, perBatch: 90, entryBytes: 200 }),
    new Map(),
  );
  const ready = (await (await request(`${url}/readyz`)).body.json()) as { immutable: string };
  expect(ready.immutable).toMatch(/^no: .*a retention cannot be shortened/s);
  expect(await exporter.stop()).toBe(0);
  const verified = async (): Promise<VerifyReport> => {
    const s3 = { s3Endpoint: server.endpoint, s3PathStyle: true };
    const source = await openSource(`s3://${bucket}/mesh`, s3);
    return await verifyLog(source, { log: parseVkey(vkey) as Verifier });
  };
  expect((await verified()).findings).toEqual([]);
  const { Versions = [] } = await server.client.send(
    new ListObjectVersionsCommand({ Bucket: bucket, Prefix: "mesh/" }),
  );
  const bundle = Versions.find(({ Key }) => Key?.endsWith("log/tile/entries/000"));
  const at = { Bucket: bucket, Key: bundle?.Key, VersionId: bundle?.VersionId };
  const RetainUntilDate = new Date(Date.now() + 60_000);
  const Retention = { Mode: "COMPLIANCE", RetainUntilDate } as const;
  await server.client.send(new PutObjectRetentionCommand({ ...at, Retention }));
  expect((await verified()).findings).toMatchObject([
    { severity: "tampered", cause: "lock-shortened", file: "log/tile/entries/000" },
  ]);
}, 300_000);
