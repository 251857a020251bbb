import { copyFileSync, existsSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  DeleteObjectCommand,
  GetObjectCommand,
  GetObjectRetentionCommand,
  ListObjectVersionsCommand,
  PutObjectCommand,
} from "@aws-sdk/client-s3";
import { request } from "undici";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Verdict, VerifyReport } from "../../exporter/audit/report.ts";
import { openSource } from "../../exporter/audit/source.ts";
import { verifyLog } from "../../exporter/audit/verify.ts";
import { lockedLongEnough } from "../../exporter/doctor/bucket.ts";
import { parseVkey } from "../../exporter/log/note.ts";
import { openService } from "../../exporter/store/settings.ts";
import { makeChain } from "../support/chains.ts";
import { type Exporter, startExporter } from "../support/exporter.ts";
import { type FaultProxy, startFaultProxy } from "../support/fault-proxy.ts";
import { type S3Server, startS3 } from "../support/s3-server.ts";
import { sendBatch, sendChain } from "../support/senders.ts";

const ORIGIN = "audit.example/shop";
const HOME = "mesh/audit.example_shop/";

let server: S3Server;
let proxy: FaultProxy;
beforeAll(async () => {
  server = await startS3("versitygw");
  proxy = await startFaultProxy(server.port);
}, 900_000);
afterAll(async () => {
  await proxy.close();
  await server.close();
});

function storeArgs(bucket: string, endpoint: string, more: readonly string[] = []): string[] {
  const where = ["--store", `s3://${bucket}/mesh`, "--s3-endpoint", endpoint, "--s3-path-style"];
  return [...where, "--lock-days", "1", "--origin", ORIGIN, "--checkpoint-ms", "50", ...more];
}

async function checkBucketLog(
  bucket: string,
  vkey: string,
  expected: Verdict = "verified",
): Promise<VerifyReport> {
  const log = parseVkey(vkey);
  if (log === null) throw new Error("no key");
  const s3 = { s3Endpoint: server.endpoint, s3PathStyle: true };
  const report = await verifyLog(await openSource(`s3://${bucket}/mesh`, s3), { log });
  if (report.verdict !== expected) {
    const findings = JSON.stringify(report.findings.slice(0, 5), null, 1);
    throw new Error(`the log is ${report.verdict}, not ${expected}: ${findings}`);
  }
  return report;
}

const readyz = async ({ url }: Exporter): Promise<Record<string, unknown>> =>
  (await (await request(`${url}/readyz`)).body.json()) as Record<string, unknown>;

async function until(isTrue: () => Promise<boolean> | boolean, what: string): Promise<void> {
  for (let tries = 0; tries < 600; tries++) {
    if (await isTrue()) return;
    await sleep(100);
  }
  throw new Error(`waited a minute for: ${what}`);
}

function expectHeld(report: VerifyReport, receipted: ReadonlyMap<string, number>): void {
  const held = new Map(report.chains.map(({ chain, last }) => [chain, last + 1]));
  for (const [chain, nextSeq] of receipted) {
    expect(held.get(chain) ?? 0).toBeGreaterThanOrEqual(nextSeq);
  }
}

test("a log in a bucket is locked, verified from there and through the exporter, and goes on after kill -9", async () => {
  const bucket = await server.newBucket();
  const args = storeArgs(bucket, server.endpoint);
  const receipted = new Map<string, number>();
  const chains = Array.from({ length: 4 }, () =>
    makeChain({ batches: 12, perBatch: 20, entryBytes: 250 }),
  );
  let exporter = await startExporter({ args });
  const { dir, vkey } = exporter;
  for (let kill = 0; kill < 3; kill++) {
    const { url } = exporter;
    const part = chains.map((batches) => batches.slice(kill * 4, kill * 4 + 4));
    await Promise.all(part.map((batches) => sendChain(() => url, vkey, batches, receipted)));
    await exporter.kill();
    exporter = await startExporter({ dir, args });
  }
  expect((await readyz(exporter))["immutable"]).toBe("yes");
  const metrics = await (await request(`${exporter.url}/metrics`)).body.text();
  expect(metrics).toContain("meshseal_store_immutable 1");
  const served = await verifyLog(await openSource(`${exporter.url}/log`), {
    log: parseVkey(vkey) as NonNullable<ReturnType<typeof parseVkey>>,
  });
  expect(served.verdict).toBe("verified");
  expect(await exporter.stop()).toBe(0);
  const report = await checkBucketLog(bucket, vkey);
  expect(report.entries["request"]).toBe(4 * 12 * 20 - 4);
  expectHeld(report, receipted);
  expect(report.notes.join("\n")).toMatch(/files are locked, as the bucket says/);
  // Three full bundles and three full tiles, and the checkpoint that was kept under its size.
  const versions = await server.client.send(
    new ListObjectVersionsCommand({ Bucket: bucket, Prefix: `${HOME}log/tile/` }),
  );
  const full = (versions.Versions ?? []).filter(({ Key }) => !Key?.includes(".p/"));
  expect(full).toHaveLength(6);
  for (const { Key, VersionId } of full) {
    const at = { Bucket: bucket, Key, VersionId };
    await expect(server.client.send(new DeleteObjectCommand(at))).rejects.toThrow();
    const { Retention } = await server.client.send(new GetObjectRetentionCommand(at));
    expect(Retention?.Mode).toBe("COMPLIANCE");
  }
  const where = {
    place: { service: "s3" as const, bucket, prefix: "mesh/" },
    reach: { s3Endpoint: server.endpoint, s3PathStyle: true },
  };
  const opened = await openService(where);
  const days = async (n: number): Promise<string> =>
    (await lockedLongEnough(opened, HOME, n).run()).status;
  expect([await days(1), await days(2)]).toEqual(["good", "bad"]);
  // Superseded partial tiles are gone: one row of the newest ones is left.
  const partial = (versions.Versions ?? []).filter(({ Key }) => Key?.includes(".p/"));
  expect(partial.length).toBeLessThan(40);
}, 300_000);

test("verify names what was added, hidden and rolled back in a bucket", async () => {
  const bucket = await server.newBucket();
  const exporter = await startExporter({ args: storeArgs(bucket, server.endpoint) });
  const { vkey, url } = exporter;
  const at = (path: string): { Bucket: string; Key: string } => ({
    Bucket: bucket,
    Key: `${HOME}${path}`,
  });
  const { client } = server;
  const receipted = new Map<string, number>();
  await sendChain(
    () => url,
    vkey,
    makeChain({ batches: 8, perBatch: 70, entryBytes: 200 }),
    receipted,
  );
  await exporter.stop();
  await checkBucketLog(bucket, vkey);
  const before = await client.send(new GetObjectCommand(at("log/checkpoint")));
  const note = (await before.Body?.transformToString()) ?? "";

  await client.send(new DeleteObjectCommand(at("log/tile/entries/000")));
  await client.send(new PutObjectCommand({ ...at("log/tile/0/001"), Body: "other" }));
  await client.send(new PutObjectCommand({ ...at("log/checkpoint"), Body: "not signed" }));
  await client.send(new PutObjectCommand({ ...at("log/checkpoint"), Body: note }));
  const report = await checkBucketLog(bucket, vkey, "tampered");
  const named = report.findings.map(({ cause, file }) => `${cause} ${file}`);
  // All is still read by version: what was deleted and written over hides nothing.
  expect(named.sort()).toEqual([
    "checkpoint log/checkpoint",
    "delete-marker log/tile/entries/000",
    "extra-version log/tile/0/001",
  ]);
  // A roll-back by who may delete versions that are not locked: the kept checkpoints remember.
  const versions = await client.send(
    new ListObjectVersionsCommand({ Bucket: bucket, Prefix: `${HOME}log/checkpoint` }),
  );
  for (const { VersionId } of (versions.Versions ?? []).slice(0, -1)) {
    await client.send(new DeleteObjectCommand({ ...at("log/checkpoint"), VersionId }));
  }
  const rolled = await checkBucketLog(bucket, vkey, "tampered");
  expect(rolled.findings.map(({ cause }) => cause)).toContain("rolled-back");
}, 300_000);

test("an older commit that was put back: the start ends, and goes on where it was once that is removed", async () => {
  const bucket = await server.newBucket();
  const args = storeArgs(bucket, server.endpoint);
  const exporter = await startExporter({ args });
  const { dir, vkey, url } = exporter;
  const batches = makeChain({ batches: 8, perBatch: 70, entryBytes: 200 });
  await sendChain(() => url, vkey, batches.slice(0, 4), new Map());
  const at = { Bucket: bucket, Key: `${HOME}commit` };
  const old = await server.client.send(new GetObjectCommand(at));
  const Body = await old.Body?.transformToByteArray();
  await sendChain(() => url, vkey, batches.slice(4), new Map());
  expect(await exporter.stop()).toBe(0);
  const { VersionId } = await server.client.send(new PutObjectCommand({ ...at, Body: Body ?? "" }));
  await expect(startExporter({ dir, args })).rejects.toThrow(/put an older version of it back/);
  await server.client.send(new DeleteObjectCommand({ ...at, VersionId }));
  const again = await startExporter({ dir, args });
  expect(again.vkey).toBe(vkey);
  expect(await again.stop()).toBe(0);
  const report = await checkBucketLog(bucket, vkey);
  expect(report.entries["request"]).toBe(8 * 70 - 1);
}, 300_000);

test("a bucket that is away: receipts go on from the WAL, /readyz says how long, and it recovers by itself", async () => {
  const bucket = await server.newBucket();
  const more = ["--wal-limit-mib", "60"];
  const exporter = await startExporter({ args: storeArgs(bucket, server.endpoint, more) });
  const { vkey, url } = exporter;
  const receipted = new Map<string, number>();
  // 46 MiB: more than the publisher keeps in memory.
  const large = (): Uint8Array[] => makeChain({ batches: 50, perBatch: 950, entryBytes: 1000 });
  await server.kill();
  const batches = large();
  await sendChain(() => url, vkey, batches, receipted);
  await until(async () => String((await readyz(exporter))["store"]).startsWith("away"), "away");
  const ready = await readyz(exporter);
  expect(ready).toMatchObject({ status: "ready", reasons: [] });
  expect(ready["walBytes"]).toBeGreaterThan(44 * 1024 ** 2);
  expect(ready["walSecondsLeft"]).toBeLessThan(365 * 86_400);
  // Beyond its limit nothing is receipted, and nothing that was is lost.
  const more2 = large();
  let refusedAt = 0;
  for (const [i, batch] of more2.entries()) {
    if ((await sendBatch(url, vkey, batch)) === null) {
      refusedAt = i;
      break;
    }
  }
  expect(refusedAt).toBeGreaterThan(5);
  await until(async () => (await readyz(exporter))["status"] === "not ready", "not ready");
  // A kill in the midst of the outage changes nothing.
  await server.start();
  await until(async () => (await readyz(exporter))["store"] === "reachable", "reachable");
  await until(async () => (await readyz(exporter))["unpublished"] === 0, "published");
  await sendChain(() => url, vkey, more2.slice(refusedAt), receipted);
  expect(await exporter.stop()).toBe(0);
  const report = await checkBucketLog(bucket, vkey);
  expectHeld(report, receipted);
  expect(report.entries["request"]).toBe(2 * (50 * 950 - 1));
}, 600_000);

test("500, SlowDown, cut and changed bodies, lost answers under load and kill -9: nothing receipted is lost", async () => {
  const bucket = await server.newBucket();
  for (const ack of ["wal", "store"]) {
    const origin = ["--ack", ack, "--origin", `audit.example/${ack}`];
    const args = storeArgs(bucket, proxy.endpoint, origin);
    proxy.chances = {};
    let exporter = await startExporter({ args });
    const { dir, vkey } = exporter;
    const faults = { "500": 0.03, "503": 0.03, "cut-answer": 0.03, "cut-request": 0.03 } as const;
    proxy.chances = { ...faults, "wrong-byte": 0.03, "lost-answer": 0.05, slow: 0.05 };
    const receipted = new Map<string, number>();
    let isOver = false;
    const chains = Array.from({ length: 6 }, () =>
      makeChain({ batches: 25, perBatch: 12, entryBytes: 250 }),
    );
    const sending = chains.map((batches) =>
      sendChain(
        () => exporter.url,
        vkey,
        batches,
        receipted,
        () => isOver,
      ),
    );
    await sleep(3000);
    await exporter.kill();
    exporter = await startExporter({ dir, args });
    await Promise.race([Promise.all(sending), sleep(120_000)]);
    isOver = true;
    await Promise.all(sending);
    expect([...receipted.values()].reduce((sum, nextSeq) => sum + nextSeq, 0)).toBe(6 * 25 * 12);
    proxy.chances = {};
    expect(await exporter.stop()).toBe(0);
    const log = parseVkey(vkey);
    if (log === null) throw new Error("no key");
    const s3 = { s3Endpoint: server.endpoint, s3PathStyle: true };
    const report = await verifyLog(
      await openSource(`s3://${bucket}/mesh/audit.example_${ack}`, s3),
      { log },
    );
    expect(report.findings).toEqual([]);
    expect(report.verdict).toBe("verified");
    expectHeld(report, receipted);
  }
  for (const count of Object.values(proxy.struck)) expect(count).toBeGreaterThan(0);
}, 600_000);

test("a data directory that lost its WAL begins a log under a new origin, and leaves the old one as it is", async () => {
  const bucket = await server.newBucket();
  const args = storeArgs(bucket, server.endpoint);
  const first = await startExporter({ args });
  const receipted = new Map<string, number>();
  await sendChain(
    () => first.url,
    first.vkey,
    makeChain({ batches: 3, perBatch: 20, entryBytes: 200 }),
    receipted,
  );
  // Another machine with the same key, but without the WAL.
  const dir = mkdtempSync(join(tmpdir(), "meshseal-exporter-"));
  for (const name of ["log.key", "log.vkey"]) copyFileSync(join(first.dir, name), join(dir, name));
  const second = await startExporter({ dir, args });
  expect(second.vkey).not.toBe(first.vkey);
  expect(second.vkey).toMatch(/^audit\.example\/shop\/[0-9a-f]{8}\+/);
  expect(existsSync(join(second.dir, "log-audit.example_shop.key"))).toBe(true);
  expect(await second.stop()).toBe(0);
  expect(await first.stop()).toBe(0);
  const s3 = { s3Endpoint: server.endpoint, s3PathStyle: true };
  for (const { vkey } of [first, second]) {
    const log = parseVkey(vkey);
    if (log === null) throw new Error("no key");
    const home = log.name.replaceAll("/", "_");
    const report = await verifyLog(await openSource(`s3://${bucket}/mesh/${home}`, s3), { log });
    expect(report.verdict).toBe("verified");
  }
}, 300_000);
