import { setTimeout as sleep } from "node:timers/promises";
import {
  DeleteObjectCommand,
  ListObjectVersionsCommand,
  PutObjectCommand,
} from "@aws-sdk/client-s3";
import { request } from "undici";
import { afterAll, beforeAll, expect, test } from "vitest";
import { makeChain } from "../support/chains.ts";
import { startExporter } from "../support/exporter.ts";
import { type S3Server, startS3 } from "../support/s3-server.ts";
import { sendChain } from "../support/senders.ts";

let server: S3Server;
beforeAll(async () => {
  server = await startS3("versitygw");
}, 900_000);
afterAll(() => server?.close());

test("a running exporter notices what is done to its objects: deleted, hidden, written over", async () => {
  const bucket = await server.newBucket();
  const where = ["--store", `s3://${bucket}/mesh`, "--s3-endpoint", server.endpoint];
  const more = ["--s3-path-style", "--lock-days", "0", "--checkpoint-ms", "50"];
  const exporter = await startExporter({ args: [...where, ...more, "--origin", "scrub"] });
  const { url, vkey } = exporter;
  type Ready = { status: string; treeSize: number; wrongFiles?: number; scrubPasses: number };
  const until = async (holds: (state: Ready) => boolean): Promise<Ready> => {
    for (;;) {
      const state = (await (await request(`${url}/readyz`)).body.json()) as Ready;
      if (holds(state)) return state;
      await sleep(200);
    }
  };
  const batches = makeChain({ batches: 10, perBatch: 100, entryBytes: 200 });
  await sendChain(() => url, vkey, batches, new Map());
  // Read once whole, and seen to be right: by then every object was looked at as well.
  const whole = await until(({ treeSize, scrubPasses }) => treeSize > 1000 && scrubPasses > 2);
  expect(whole.wrongFiles).toBeUndefined();
  const keyOf = (path: string): string => `mesh/scrub/log/tile/${path}`;
  const versionOf = async (Key: string): Promise<string | undefined> => {
    const command = new ListObjectVersionsCommand({ Bucket: bucket, Prefix: Key });
    const { Versions } = await server.client.send(command);
    return Versions?.find((one) => one.Key === Key)?.VersionId;
  };
  const deleted = keyOf("entries/000");
  const VersionId = await versionOf(deleted);
  await server.client.send(new DeleteObjectCommand({ Bucket: bucket, Key: deleted, VersionId }));
  await server.client.send(new DeleteObjectCommand({ Bucket: bucket, Key: keyOf("entries/001") }));
  await server.client.send(
    new PutObjectCommand({ Bucket: bucket, Key: keyOf("0/002"), Body: Buffer.alloc(8192, 1) }),
  );
  const state = await until(({ wrongFiles }) => wrongFiles === 3);
  // Whoever can write there could otherwise stop every exporter on it.
  expect(state.status).toBe("ready");
  const named = exporter.logged.filter(({ level, file }) => level === 50 && file !== undefined);
  expect(named.map(({ file }) => file).sort()).toEqual([
    "tile/0/002",
    "tile/entries/000",
    "tile/entries/001",
  ]);
  expect(await (await request(`${url}/metrics`)).body.text()).toContain(
    "meshseal_scrub_findings 3",
  );
  await exporter.stop();
}, 600_000);
