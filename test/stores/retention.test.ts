import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  DeleteObjectCommand,
  GetObjectLegalHoldCommand,
  ListObjectVersionsCommand,
} from "@aws-sdk/client-s3";
import { request } from "undici";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { VerifyReport } from "../../exporter/audit/report.ts";
import { openSource } from "../../exporter/audit/source.ts";
import { verifyLog } from "../../exporter/audit/verify.ts";
import { parseVkey } from "../../exporter/log/note.ts";
import { makeChain } from "../support/chains.ts";
import { startExporter } from "../support/exporter.ts";
import { type S3Server, type ServerName, startS3 } from "../support/s3-server.ts";
import { sendChain } from "../support/senders.ts";

type Json = Record<string, unknown>;

async function ask(method: "GET" | "POST" | "PUT" | "DELETE", url: string): Promise<Json> {
  const answer = await request(url, { method });
  const said = (await answer.body.json()) as Json;
  if (answer.statusCode !== 200) throw new Error(`${answer.statusCode}: ${said["message"]}`);
  return said;
}

describe.each<ServerName>(["versitygw", "minio"])("%s", (name) => {
  let server: S3Server;
  const dirs: string[] = [];
  beforeAll(async () => {
    server = await startS3(name);
  }, 900_000);
  afterAll(async () => {
    await server?.close();
    for (const dir of dirs) rmSync(dir, { recursive: true, force: true });
  });

  const argsOf = (bucket: string, lockDays: string, ack: string): string[] => [
    ...["--store", `s3://${bucket}/mesh`, "--s3-endpoint", server.endpoint, "--s3-path-style"],
    ...["--lock-days", lockDays, "--ack", ack, "--checkpoint-ms", "50"],
    ...["--origin", "retention.example/log"],
  ];

  async function verified(bucket: string, vkey: string): Promise<VerifyReport> {
    const log = parseVkey(vkey);
    if (log === null) throw new Error("no key");
    const s3 = { s3Endpoint: server.endpoint, s3PathStyle: true };
    const report = await verifyLog(await openSource(`s3://${bucket}/mesh`, s3), { log });
    expect(report.findings).toEqual([]);
    return report;
  }

  test("is pruned below a hold, which is a legal hold as well; another exporter goes on", async () => {
    const bucket = await server.newBucket();
    const args = argsOf(bucket, "0", "store");
    const first = await startExporter({ args });
    dirs.push(first.dir);
    const { url, vkey } = first;
    const old = makeChain({ batches: 6, perBatch: 100, entryBytes: 200 });
    await sendChain(() => url, vkey, old, new Map());
    const more = makeChain({ batches: 5, perBatch: 100, entryBytes: 200 });
    await sendChain(() => url, vkey, more, new Map());
    const held = await ask("PUT", `${url}/v1/holds/case-17?from=600&to=700&reason=letter`);
    expect(held).toMatchObject({ from: 600, to: 700, appliedTo: 768 });
    expect(await ask("POST", `${url}/v1/retention?below=900`)).toEqual({
      minimumIndex: 512,
      was: 0,
      because: "a hold keeps entry 600",
    });
    expect(await ask("GET", `${url}/v1/retention`)).toMatchObject({
      minimumIndex: 512,
      left: 0,
      legalHolds: null,
    });
    expect(await verified(bucket, vkey)).toMatchObject({ minimumIndex: 512, verdict: "verified" });

    // Nothing is locked in this bucket but by the hold.
    const Key = "mesh/retention.example_log/log/tile/entries/002";
    const { Versions } = await server.client.send(
      new ListObjectVersionsCommand({ Bucket: bucket, Prefix: Key }),
    );
    const VersionId = Versions?.find((one) => one.Key === Key)?.VersionId;
    const at = { Bucket: bucket, Key, VersionId };
    const state = async (): Promise<string | undefined> =>
      (await server.client.send(new GetObjectLegalHoldCommand(at))).LegalHold?.Status;
    expect(await state()).toBe("ON");
    await server.client.send(new DeleteObjectCommand(at)).catch(() => undefined);
    expect(await verified(bucket, vkey)).toMatchObject({ minimumIndex: 512 });
    await ask("DELETE", `${url}/v1/holds/case-17?reason=closed`);
    expect(await state()).toBe("OFF");
    await ask("POST", `${url}/v1/retention?below=900`);
    expect(await first.stop()).toBe(0);
    expect(await verified(bucket, vkey)).toMatchObject({ minimumIndex: 768 });

    // It has neither WAL nor index: the text says how chains go on.
    const dir = mkdtempSync(join(tmpdir(), "meshseal-retention-"));
    dirs.push(dir);
    for (const file of ["log.key", "log.vkey"])
      copyFileSync(join(first.dir, file), join(dir, file));
    const second = await startExporter({ dir, args });
    for (const after of [old.at(-1), more.at(-1)] as Uint8Array[]) {
      const next = makeChain({ batches: 1, perBatch: 30, entryBytes: 200, after });
      await sendChain(() => second.url, vkey, next, new Map());
    }
    expect(await second.stop()).toBe(0);
    const end = await verified(bucket, vkey);
    expect(end).toMatchObject({ minimumIndex: 768, verdict: "verified" });
    expect(end.chains.find(({ pruned }) => pruned === 600)).toMatchObject({ last: 629 });
  }, 300_000);

  test("what is locked stays until its time, and that is said", async () => {
    const bucket = await server.newBucket();
    const exporter = await startExporter({ args: argsOf(bucket, "1", "wal") });
    dirs.push(exporter.dir);
    const { url, vkey } = exporter;
    const batches = makeChain({ batches: 6, perBatch: 100, entryBytes: 200 });
    await sendChain(() => url, vkey, batches, new Map());
    expect(await ask("POST", `${url}/v1/retention?below=520`)).toMatchObject({ minimumIndex: 512 });
    const status = await ask("GET", `${url}/v1/retention`);
    expect(status).toMatchObject({ minimumIndex: 512, left: 2 });
    expect(String(status["because"])).not.toBe("null");
    expect(await exporter.stop()).toBe(0);
    const report = await verified(bucket, vkey);
    expect(report).toMatchObject({ minimumIndex: 0, verdict: "verified" });
    expect(report.notes.join("\n")).toMatch(/Entries below 512 may be pruned/);
  }, 300_000);
});
