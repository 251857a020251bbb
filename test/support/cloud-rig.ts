/**
 * What the tests of gs:// and az:// share: a server, exporters on it, and what any service must show with them. Neither server
 * enforces a lock, so they are the stores that do not protect; the rest of the protocol is shown on them for real.
 */
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { request } from "undici";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Verdict, VerifyReport } from "../../exporter/audit/report.ts";
import { openSource } from "../../exporter/audit/source.ts";
import { verifyLog } from "../../exporter/audit/verify.ts";
import { bucketChecks } from "../../exporter/doctor/bucket.ts";
import { runChecks, type Status } from "../../exporter/doctor/check.ts";
import { parseVkey, type Verifier } from "../../exporter/log/note.ts";
import { type ServiceBucket, statusOf } from "../../exporter/store/service.ts";
import { openService, type Where, whereOf } from "../../exporter/store/settings.ts";
import { holdsBucketPromises } from "./bucket-promises.ts";
import { makeChain } from "./chains.ts";
import { type CloudName, type CloudServer, startCloud } from "./cloud-server.ts";
import { type Exporter, startExporter } from "./exporter.ts";
import { type FaultProxy, startFaultProxy } from "./fault-proxy.ts";
import { sendChain } from "./senders.ts";

export const DAY_MS = 86_400_000;
export const HOME = "mesh/audit.example_shop/";

type Json = Record<string, unknown>;

export type CloudRig = {
  readonly server: () => CloudServer;
  /** In front of the server. */
  readonly proxy: () => FaultProxy;
  readonly where: (store: string) => Where;
  readonly argsOf: (
    store: string,
    lockDays: string,
    more?: readonly string[],
    endpoint?: string,
  ) => string[];
  /** An exporter whose directory is removed in the end. */
  readonly started: typeof startExporter;
  /** A log of some batches, by an exporter that has stopped: its place and key, and what it said when it was ready. */
  readonly logged: (lockDays: string) => Promise<{ store: string; vkey: string; ready: Json }>;
  /** Verifies from the bucket alone, and expects the verdict. */
  readonly verified: (store: string, vkey: string, expected?: Verdict) => Promise<VerifyReport>;
};

export async function ask(url: string, method: "GET" | "PUT" | "POST" = "GET"): Promise<Json> {
  return (await (await request(url, { method })).body.json()) as Json;
}

/** To be called once, where tests are declared: starts the server before them and stops it after. */
export function cloudRig(name: CloudName): CloudRig {
  let server: CloudServer;
  let proxy: FaultProxy;
  const dirs: string[] = [];
  beforeAll(async () => {
    server = await startCloud(name);
    proxy = await startFaultProxy(server.port);
  }, 900_000);
  afterAll(async () => {
    await proxy?.close();
    await server?.close();
    for (const dir of dirs) rmSync(dir, { recursive: true, force: true });
  });

  const where = (store: string): Where => whereOf(store, server.flagsAt(server.endpoint));

  const argsOf: CloudRig["argsOf"] = (store, lockDays, more = [], endpoint = server.endpoint) => {
    const flags = Object.entries(server.flagsAt(endpoint)).flatMap(([flag, value]) => [
      `--${flag.replaceAll(/[A-Z]/g, "-$&").toLowerCase()}`,
      value,
    ]);
    const origin = ["--origin", "audit.example/shop", "--checkpoint-ms", "50"];
    return ["--store", store, ...flags, "--lock-days", lockDays, ...origin, ...more];
  };

  const started: typeof startExporter = async (options) => {
    const exporter = await startExporter(options);
    dirs.push(exporter.dir);
    return exporter;
  };

  return {
    server: () => server,
    proxy: () => proxy,
    where,
    argsOf,
    started,
    logged: async (lockDays) => {
      const store = await server.newStore();
      const exporter = await started({ args: argsOf(store, lockDays) });
      const { vkey, url } = exporter;
      const batches = makeChain({ batches: 8, perBatch: 70, entryBytes: 200 });
      await sendChain(() => url, vkey, batches, new Map());
      const ready = await ask(`${url}/readyz`);
      expect(await exporter.stop()).toBe(0);
      return { store, vkey, ready };
    },
    verified: async (store, vkey, expected = "verified") => {
      const source = await openSource(store, server.flagsAt(server.endpoint));
      const report = await verifyLog(source, { log: parseVkey(vkey) as Verifier });
      const findings = report.findings.slice(0, 5);
      expect({ verdict: report.verdict, findings }).toMatchObject({ verdict: expected });
      return report;
    },
  };
}

/** What a log needs of any service, as tests. */
export function holdsLogs(name: CloudName, rig: CloudRig): void {
  const { where, argsOf, started, verified } = rig;
  let bucket: ServiceBucket;
  beforeAll(async () => {
    bucket = await openService(where(await rig.server().newStore()));
  });

  holdsBucketPromises(name, () => bucket);

  test("an etag is new with each write, also of the same bytes", async () => {
    const first = await bucket.create("same", Buffer.from("same"), null);
    const again = await bucket.swap("same", Buffer.from("same"), first?.etag ?? "");
    expect(again?.etag).not.toBe(first?.etag);
    expect(await bucket.swap("same", Buffer.from("other"), first?.etag ?? "")).toBeNull();
    expect(await bucket.swap("never/there", Buffer.from("1"), "1")).toBeNull();
    expect(await bucket.folders("")).toContain("race/");
  });

  test("a bucket that is not there is told from a file that is not", async () => {
    const store = await rig.server().newStore();
    expect(await (await openService(where(store))).get("none", 10)).toBeNull();
    const elsewhere = store.replace("audit-", "none-");
    const missing = await openService(where(elsewhere));
    for (const asking of [
      () => missing.get("none", 10),
      () => missing.swap("none", Buffer.from("1"), "1"),
      () => missing.create("none", Buffer.from("1"), null),
    ])
      expect(await asking().catch(statusOf)).toBe(404);
    await expect(startExporter({ args: argsOf(elsewhere, "0") })).rejects.toThrow(
      /the bucket cannot be used/,
    );
  });

  // These two mostly wait: side by side.
  test.concurrent("faults and an outage under load, and kill -9: nothing receipted is lost", async () => {
    const store = await rig.server().newStore();
    const proxy = rig.proxy();
    const args = argsOf(store, "0", [], proxy.endpoint);
    proxy.chances = {};
    let exporter = await started({ args });
    const { dir, vkey } = exporter;
    const faults = { "500": 0.03, "503": 0.03, "cut-answer": 0.03, "cut-request": 0.03 } as const;
    proxy.chances = { ...faults, "wrong-byte": 0.03, "lost-answer": 0.05, slow: 0.05 };
    const chains = Array.from({ length: 4 }, () =>
      makeChain({ batches: 20, perBatch: 20, entryBytes: 250 }),
    );
    const send = async (from: number, to: number): Promise<void> => {
      const all = chains.map((batches) =>
        sendChain(() => exporter.url, vkey, batches.slice(from, to), new Map()),
      );
      await Promise.all(all);
    };
    const sending = send(0, 10);
    await sleep(1000);
    await exporter.kill();
    exporter = await started({ dir, args });
    await sending;
    proxy.chances = { "cut-request": 1 };
    await send(10, 20);
    await until(exporter, ({ store: state }) => String(state).startsWith("away"));
    proxy.chances = {};
    await until(
      exporter,
      ({ store: state, unpublished }) => state === "reachable" && unpublished === 0,
    );
    expect(await exporter.stop()).toBe(0);
    const report = await verified(store, vkey);
    expect(report.entries["request"]).toBe(4 * (20 * 20 - 1));
    // Superseded partial tiles are gone: what lost answers left of them, and one row of the newest.
    let partial = 0;
    for await (const { key } of (await openService(where(store))).versions(`${HOME}log/tile/`))
      if (key.includes(".p/")) partial++;
    expect(partial).toBeLessThan(200);
  }, 300_000);

  test.concurrent("another exporter takes the log over, with --ack store", async () => {
    const store = await rig.server().newStore();
    const args = argsOf(store, "0", ["--ack", "store"]);
    const first = await started({ args });
    const { vkey } = first;
    const dir = mkdtempSync(join(tmpdir(), "meshseal-exporter-"));
    for (const file of ["log.key", "log.vkey"])
      copyFileSync(join(first.dir, file), join(dir, file));
    const chain = makeChain({ batches: 20, perBatch: 20, entryBytes: 250 });
    await sendChain(() => first.url, vkey, chain.slice(0, 10), new Map());
    const waiting = started({ dir, args });
    await first.kill();
    const second = await waiting;
    await sendChain(() => second.url, vkey, chain.slice(10), new Map());
    expect(await second.stop()).toBe(0);
    expect((await verified(store, vkey)).entries["request"]).toBe(20 * 20 - 1);
  }, 300_000);
}

async function until(exporter: Exporter, holds: (ready: Json) => boolean): Promise<void> {
  while (!holds(await ask(`${exporter.url}/readyz`))) await sleep(100);
}

/** Prunes a log below a hold, verifies it, and returns what the exporter said of its retention. */
export async function pruned(rig: CloudRig): Promise<Json> {
  const store = await rig.server().newStore();
  const exporter = await rig.started({ args: rig.argsOf(store, "0") });
  const { url, vkey } = exporter;
  const batches = makeChain({ batches: 8, perBatch: 100, entryBytes: 200 });
  await sendChain(() => url, vkey, batches, new Map());
  await ask(`${url}/v1/holds/case-17?from=600&to=700&reason=letter`, "PUT");
  expect(await ask(`${url}/v1/retention?below=700`, "POST")).toMatchObject({ minimumIndex: 512 });
  const said = await ask(`${url}/v1/retention`);
  expect(await exporter.stop()).toBe(0);
  expect(await rig.verified(store, vkey)).toMatchObject({ minimumIndex: 512 });
  return said;
}

/** What doctor finds in a new bucket: the names of its checks, by status. */
export async function doctored(rig: CloudRig): Promise<(status: Status) => string[]> {
  const results = await runChecks(
    await bucketChecks(rig.where(await rig.server().newStore()), "doctor"),
  );
  return (status) => results.filter((one) => one.status === status).map(({ name }) => name);
}
