import { afterAll, beforeAll, expect, test } from "vitest";
import { parsePolicy } from "../../exporter/audit/policy.ts";
import type { VerifyReport } from "../../exporter/audit/report.ts";
import { openSource } from "../../exporter/audit/source.ts";
import { verifyLog } from "../../exporter/audit/verify.ts";
import { makeChain } from "../support/chains.ts";
import { startExporter } from "../support/exporter.ts";
import { type S3Server, startS3 } from "../support/s3-server.ts";
import { sendChain } from "../support/senders.ts";

let server: S3Server;
beforeAll(async () => {
  server = await startS3("versitygw");
}, 900_000);
afterAll(() => server?.close());

/** The report on a log of some three bundles in a bucket, by a policy that asks for the lock. */
async function verified(lockDays: number): Promise<VerifyReport> {
  const bucket = await server.newBucket();
  const where = ["--store", `s3://${bucket}/mesh`, "--s3-endpoint", server.endpoint];
  const lock = ["--s3-path-style", "--lock-days", `${lockDays}`, "--checkpoint-ms", "50"];
  const exporter = await startExporter({ args: [...where, ...lock] });
  const { url, vkey } = exporter;
  const batches = makeChain({ batches: 20, perBatch: 40, entryBytes: 250 });
  await sendChain(() => url, vkey, batches, new Map());
  expect(await exporter.stop()).toBe(0);
  const require_ = [{ anchor: "object-lock", maxAgeSeconds: 300 }];
  const policy = parsePolicy(JSON.stringify({ logs: [{ key: vkey }], require: require_ }), () =>
    Buffer.alloc(0),
  );
  const s3 = { s3Endpoint: server.endpoint, s3PathStyle: true };
  return await verifyLog(await openSource(`s3://${bucket}/mesh`, s3), { policy });
}

test("a policy can ask for object lock: what is locked meets it, what is not does not", async () => {
  const locked = await verified(1);
  expect(locked.findings).toEqual([]);
  expect(locked.anchors[0]).toMatchObject({ kind: "object-lock", status: "verified" });
  expect(locked.anchors[0]?.says).toMatch(
    /^The first \d+ entries and a checkpoint over them are locked/,
  );
  const open = await verified(0);
  expect(open.findings).toMatchObject([{ severity: "incomplete", cause: "anchor-missing" }]);
}, 300_000);
