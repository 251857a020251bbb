/** What Envoy does to a filter in its life: updates, traps, workers, ends. And what the exporter does to it. */
import { spawnSync } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { request } from "undici";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { openSource } from "../exporter/audit/source.ts";
import { policyOf } from "../exporter/audit/trust.ts";
import { verifyLog } from "../exporter/audit/verify.ts";
import { parseVkey, type Verifier } from "../exporter/log/note.ts";
import { bytesOf, type Entry, uintOf } from "../record/codec.ts";
import * as f from "../record/fields.ts";
import type { Envoy } from "../scripts/demo/envoy.ts";
import { startUpstream, type Upstream } from "../scripts/demo/upstream.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { checkLog, entriesOf } from "./support/log.ts";
import {
  byFile,
  fire,
  freePort,
  meshseal,
  plug,
  startBetween,
  testDir,
  testEnvoy,
  until,
} from "./support/mesh.ts";

const VERSION = process.env["ENVOY_VERSION"] === "1.36" ? "1.36" : "1.40";
const ENFORCE = resolve("build/enforce.wasm");
const MAC_KEY = "7a".repeat(32);

let exporter: Exporter;
let upstream: Upstream;
let port = 0;

beforeAll(async () => {
  upstream = await startUpstream();
  exporter = await startExporter({ args: ["--checkpoint-ms", "100"] });
  port = Number(new URL(exporter.url).port);
});
afterAll(async () => {
  await exporter.stop();
  await upstream.stop();
});

/** Waits until the log has everything below a checkpoint, and returns its entries. */
async function published(dir = exporter): Promise<Entry[]> {
  await until("all is published", async () => {
    const answer = await request(`${dir.url}/readyz`);
    return ((await answer.body.json()) as { unpublished: number }).unpublished === 0;
  });
  return entriesOf(dir.dir);
}

const text = (entry: Entry, number: number): string =>
  Buffer.from(bytesOf(entry, number) ?? []).toString("latin1");
const chainOf = (entry: Entry): string => Buffer.from(entry.chain).toString("hex");

/** Entries of requests whose path begins with `path`. */
function requestsTo(entries: readonly Entry[], path: string): Entry[] {
  return entries.filter((entry) => text(entry, f.F_PATH).startsWith(`${path}/`));
}

async function settled(envoy: Envoy): Promise<void> {
  expect(await envoy.settled(60_000)).toBe(true);
}

type Seal = { chain: string; seq: number; unreceipted: number; missed: number };

function sealsIn(log: string): Seal[] {
  const lines = log.matchAll(
    /meshseal seal chain=(\w+) seq=(\d+) head=\w+ unreceipted=(\d+) missed=(\d+)/g,
  );
  return [...lines].map(([, chain = "", seq, unreceipted, missed]) => ({
    chain,
    seq: Number(seq),
    unreceipted: Number(unreceipted),
    missed: Number(missed),
  }));
}

const base = () => ({ upstreamPort: upstream.port, exporterPort: port, version: VERSION }) as const;

describe("updates", () => {
  test("a chain goes on over a new configuration, a new one begins with new code, and nothing is lost", async () => {
    const dir = testDir();
    let write: ReturnType<typeof byFile> = () => undefined;
    const listenerPort = await freePort();
    const envoy = await testEnvoy(
      {
        ...base(),
        change: (bootstrap) => {
          write = byFile(bootstrap, dir, listenerPort);
          write({ config: { cluster: "meshseal", spill: true } });
        },
      },
      dir,
    );
    await until("the listener is there", async () => (await envoy.portOf("edge")) > 0);
    let sent = 0;
    let isOver = false;
    const load = (async () => {
      while (!isOver) sent += (await fire(listenerPort, "/update", 20)).length;
    })();
    const updates = async (count: number): Promise<void> =>
      until(
        `update ${count}`,
        async () =>
          (await envoy.stat("listener_manager.listener_in_place_updated")) +
            (await envoy.stat("listener_manager.listener_modified")) >=
          count,
      );
    // Two workers and the main thread.
    const chains = (): Promise<number> => envoy.stat("wasmcustom.meshseal_chains");
    await until("all VMs have opened their chains", async () => (await chains()) === 3);
    write({ config: { cluster: "meshseal", spill: true, tickMs: 100 } });
    await updates(2);
    await until(
      "the old root has ended",
      async () => (await envoy.stat("listener_manager.total_filter_chains_draining")) === 0,
    );
    expect(await chains()).toBe(3);
    write({ module: ENFORCE });
    await updates(3);
    await until(
      "the old code has ended",
      async () => (await envoy.stat("listener_manager.total_filter_chains_draining")) === 0,
    );
    await until("new chains", async () => (await chains()) === 6);
    isOver = true;
    await load;
    await until(
      "all is receipted",
      async () => (await envoy.stat("wasmcustom.meshseal_buffered_bytes")) === 0,
    );
    await envoy.stop();
    writeFileSync(join(dir, "envoy.log"), envoy.log());
    const recovered = meshseal("recover", join(dir, "envoy.log"), "--to", exporter.url);
    expect(recovered.stdout + recovered.stderr).toContain("are home");
    expect(recovered.status).toBe(0);
    const entries = await published();
    const requests = requestsTo(entries, "/update");
    expect(requests).toHaveLength(sent);
    // Chains that saw both configurations, and chains of the new code that name the old ones.
    const configs = new Map<string, Set<number>>();
    for (const entry of requests) {
      const seen = configs.get(chainOf(entry)) ?? new Set();
      configs.set(chainOf(entry), seen.add(uintOf(entry, f.F_CONFIG) ?? 0));
    }
    expect([...configs.values()].some((seen) => seen.has(1) && seen.has(2))).toBe(true);
    const hinted = entries
      .filter((entry) => entry.kind === f.KIND_OPEN && configs.has(chainOf(entry)))
      .filter((entry) => bytesOf(entry, f.F_HINT) !== undefined);
    expect(hinted.length).toBeGreaterThan(0);
  }, 180_000);

  test.each([600, 1])(
    "a configuration that is put back while its successor drains for %d s is in force again",
    async (drainSeconds) => {
      const path = `/put-back-${drainSeconds}`;
      const dir = testDir();
      let write: ReturnType<typeof byFile> = () => undefined;
      const listenerPort = await freePort();
      const first = { cluster: "meshseal", tickMs: 100 };
      const envoy = await testEnvoy(
        {
          ...base(),
          drainSeconds,
          change: (bootstrap) => {
            write = byFile(bootstrap, dir, listenerPort);
            write({ config: first });
          },
        },
        dir,
      );
      await until("the listener is there", async () => (await envoy.portOf("edge")) > 0);
      const updated = async (count: number): Promise<void> =>
        until(
          `update ${count}`,
          async () => (await envoy.stat("listener_manager.listener_in_place_updated")) === count,
        );
      const sent = await fire(listenerPort, path, 20);
      await settled(envoy);
      write({ config: { cluster: "unknown", tickMs: 100 } });
      await updated(1);
      write({ config: first });
      await updated(2);
      if (drainSeconds === 1) {
        await until(
          "the drain has ended",
          async () => (await envoy.stat("listener_manager.total_filter_chains_draining")) === 0,
        );
      }
      sent.push(...(await fire(listenerPort, path, 20)));
      await until(
        "all requests are in the log",
        async () => requestsTo(await published(), path).length === sent.length,
      );
      const entries = await published();
      const chains = new Set(requestsTo(entries, path).map(chainOf));
      const ours = entries.filter((entry) => chains.has(chainOf(entry)));
      for (const chain of chains) {
        const digests = ours
          .filter((entry) => chainOf(entry) === chain)
          .flatMap((entry) => bytesOf(entry, f.F_CONFIG_DIGEST) ?? [])
          .map((digest) => Buffer.from(digest).toString("hex"));
        expect(digests.at(-1)).toBe(digests[0]);
      }
      await envoy.stop();
    },
    180_000,
  );
});

test("four workers make a chain each, and the main thread one", async () => {
  const envoy = await testEnvoy({ ...base(), concurrency: 4 });
  const sent: number[] = [];
  for (let i = 0; i < 20; i++) sent.push(...(await fire(envoy.port, "/workers", 40)));
  await settled(envoy);
  await envoy.stop();
  const seals = sealsIn(envoy.log());
  expect(seals).toHaveLength(5);
  expect(seals.every(({ unreceipted, missed }) => unreceipted === 0 && missed === 0)).toBe(true);
  const requests = requestsTo(await published(), "/workers");
  expect(requests).toHaveLength(sent.length);
  const chains = new Set(requests.map(chainOf));
  expect(chains.size).toBeGreaterThan(1);
  for (const chain of chains) expect(seals.map((seal) => seal.chain)).toContain(chain);
});

test("a trap: FAIL_RELOAD goes on with a new chain that names the old one, the others do not", async () => {
  const dir = testDir();
  const module = join(dir, "trap-filter.wasm");
  const asc = [
    "node_modules/assemblyscript/bin/asc.js",
    "test/support/trap.as.ts",
    "--runtime=stub",
    "--exportStart=_initialize",
    "--use=abort=filter/abort/abort",
    "--noAssert",
  ];
  const built = spawnSync(process.execPath, [...asc, "--outFile", module], { encoding: "utf8" });
  expect(built.stderr).toBe("");
  const policies = ["FAIL_RELOAD", "FAIL_OPEN", "FAIL_CLOSED"];
  const envoy = await testEnvoy(
    {
      ...base(),
      concurrency: 1,
      change: (bootstrap) => {
        const [listener] = bootstrap.static_resources.listeners;
        bootstrap.static_resources.listeners = policies.map((policy) => {
          const copy = structuredClone(listener);
          copy.name = policy;
          plug(copy, { module, policy, vmId: policy });
          return copy;
        });
      },
    },
    dir,
  );
  const after: Record<string, number[]> = {};
  for (const policy of policies) {
    const at = await envoy.portOf(policy);
    await fire(at, `/${policy}-before`, 3);
    await until(
      "they are in the log",
      async () => requestsTo(await published(), `/${policy}-before`).length === 3,
    );
    expect(await fire(at, "/trap", 1)).toEqual([200]);
    if (policy === "FAIL_RELOAD") {
      await until(
        "the VM is loaded again",
        async () => (await fire(at, "/reloading", 1))[0] === 200,
      );
    }
    after[policy] = await fire(at, `/${policy}-after`, 3);
  }
  expect(after).toEqual({
    FAIL_RELOAD: [200, 200, 200],
    FAIL_OPEN: [200, 200, 200],
    FAIL_CLOSED: [503, 503, 503],
  });
  await until(
    "the new chain has been sent",
    async () => requestsTo(await published(), "/FAIL_RELOAD-after").length === 3,
  );
  await envoy.stop();
  const entries = await published();
  for (const policy of policies) expect(requestsTo(entries, `/${policy}-before`)).toHaveLength(3);
  // The silence of FAIL_OPEN is why it is not recommended: served, and nowhere in the log.
  expect(requestsTo(entries, "/FAIL_OPEN-after")).toHaveLength(0);
  const old = chainOf(requestsTo(entries, "/FAIL_RELOAD-before")[0] as Entry);
  const next = chainOf(requestsTo(entries, "/FAIL_RELOAD-after")[0] as Entry);
  expect(next).not.toBe(old);
  const open = entries.find((entry) => entry.kind === f.KIND_OPEN && chainOf(entry) === next);
  const hints = (open?.fields ?? []).filter(({ number }) => number === f.F_HINT);
  expect(hints.map(({ value }) => Buffer.from(value as Uint8Array).toString("hex"))).toContain(old);
}, 180_000);

test("an exporter that is absent, unknown, slow or wrong, and then there: all of it arrives", async () => {
  const between = await startBetween(exporter.url, "refuse");
  const dir = testDir();
  const listenerPort = await freePort();
  let write: ReturnType<typeof byFile> = () => undefined;
  const envoy = await testEnvoy(
    {
      ...base(),
      exporterPort: between.port,
      change: (bootstrap) => {
        write = byFile(bootstrap, dir, listenerPort);
        write({ config: { cluster: "unknown" } });
      },
    },
    dir,
  );
  await until("the listener is there", async () => (await envoy.portOf("edge")) > 0);
  const sent = await fire(listenerPort, "/outage", 10);
  await until(
    "the unknown cluster was tried",
    async () => (await envoy.stat("wasmcustom.meshseal_send_failures")) > 1,
  );
  expect(between.seen).toEqual([]);
  write({ config: { cluster: "meshseal", timeoutMs: 300 } });
  for (const next of ["refuse", "wrong", "cut", "slow"] as const) {
    between.mode = next;
    await until(`a batch met "${next}"`, () => between.seen.includes(next));
    sent.push(...(await fire(listenerPort, "/outage", 10)));
  }
  between.mode = "on";
  await settled(envoy);
  await envoy.stop();
  expect(sent).toEqual(Array(50).fill(200));
  expect(requestsTo(await published(), "/outage")).toHaveLength(50);
  expect(await gapsOf("/outage")).toBe(0);
}, 180_000);

/** Requests that gaps count, in the chains that hold requests to `path`. */
async function gapsOf(path: string): Promise<number> {
  const entries = await published();
  const chains = new Set(requestsTo(entries, path).map(chainOf));
  return entries
    .filter((entry) => entry.kind === f.KIND_GAP && chains.has(chainOf(entry)))
    .reduce((sum, gap) => sum + (uintOf(gap, f.F_GAP_COUNT) ?? 0), 0);
}

describe("the end", () => {
  test("drain, then SIGTERM: nothing is lost", async () => {
    const envoy = await testEnvoy(base());
    let sent = 0;
    let isOver = false;
    const load = (async () => {
      while (!isOver)
        sent += (await fire(envoy.port, "/drain", 10)).filter((status) => status !== 0).length;
    })();
    await until("there is load", () => sent > 50);
    await (
      await request(`http://127.0.0.1:${envoy.adminPort}/drain_listeners?graceful`, {
        method: "POST",
      })
    ).body.dump();
    await until(
      "the listener is closed",
      async () => (await fire(envoy.port, "/closed", 1))[0] === 0,
    );
    isOver = true;
    await load;
    await settled(envoy);
    await envoy.stop();
    expect(sealsIn(envoy.log()).every(({ unreceipted }) => unreceipted === 0)).toBe(true);
    expect(requestsTo(await published(), "/drain")).toHaveLength(sent);
  }, 120_000);

  test("SIGTERM without drain loses what the seal says, and nothing once the spill is recovered", async () => {
    const dir = testDir();
    const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const env = {
      MESHSEAL_BATCH_KEY: `cart:${MAC_KEY}`,
      MESHSEAL_SIGN_KEY: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
    };
    const keyFile = join(dir, "keys");
    writeFileSync(keyFile, `cart:${MAC_KEY}\n`);
    const keyed = await startExporter({
      args: ["--checkpoint-ms", "100", "--batch-keys", keyFile],
    });
    onTestFinished(async () => {
      await keyed.stop();
    });
    const between = await startBetween(keyed.url, "on");
    const config = {
      cluster: "meshseal",
      spill: true,
      batchKeyEnv: "MESHSEAL_BATCH_KEY",
      signKeyEnv: "MESHSEAL_SIGN_KEY",
      signKeyId: "cart-1",
    };
    const envoy = await testEnvoy(
      {
        ...base(),
        exporterPort: between.port,
        env,
        change: (bootstrap) =>
          plug(bootstrap.static_resources.listeners[0], { config, variables: Object.keys(env) }),
      },
      dir,
    );
    const sent = await fire(envoy.port, "/spilled", 40);
    await settled(envoy);
    between.mode = "refuse";
    sent.push(...(await fire(envoy.port, "/spilled", 60)));
    await envoy.stop();
    const log = join(dir, "envoy.log");
    writeFileSync(log, envoy.log());

    const log1 = parseVkey(keyed.vkey) as Verifier;
    const proxies = [{ key: publicKey, keyId: "cart-1" }];
    const policy = { ...policyOf(log1), proxies };
    const verify = async () => {
      await published(keyed);
      const seals = {
        lines: envoy.log().split("\n"),
        macs: new Map([["cart", Buffer.from(MAC_KEY, "hex")]]),
      };
      return verifyLog(await openSource(keyed.dir), { policy, seals });
    };
    const before = await verify();
    expect(before.verdict).toBe("incomplete");
    const lost = sealsIn(envoy.log()).reduce((sum, { unreceipted }) => sum + unreceipted, 0);
    const said = before.findings.map(({ message }) => Number(/^(\d+) entries/.exec(message)?.[1]));
    expect(said.reduce((sum, count) => sum + count, 0)).toBe(lost);
    expect(lost).toBeGreaterThan(60);
    expect(requestsTo(await published(keyed), "/spilled")).toHaveLength(40);

    // In an entry: the receipt in front of them has a signature of its own.
    const forged = envoy
      .log()
      .replace(
        /(meshseal spill .*)(.)(.{40})$/m,
        (_, before, c, rest) => before + (c === "A" ? "B" : "A") + rest,
      );
    writeFileSync(join(dir, "forged.log"), forged);
    const refused = meshseal(
      "recover",
      join(dir, "forged.log"),
      "--dry-run",
      "--batch-keys",
      keyFile,
    );
    expect(refused.status).toBe(1);
    const args = ["--to", keyed.url, "--batch-keys", keyFile];
    const recovered = meshseal("recover", log, ...args, "--json");
    expect(recovered.status).toBe(0);
    expect(JSON.parse(recovered.stdout)).toMatchObject({ entries: lost, forged: [], missing: [] });
    expect(meshseal("recover", log, ...args).status).toBe(0);
    const after = await verify();
    expect(after.findings).toEqual([]);
    const compared = meshseal(
      "verify",
      keyed.dir,
      "--key",
      keyed.vkey,
      "--seals",
      log,
      "--batch-keys",
      keyFile,
    );
    expect(compared.stdout).toMatch(/3 seals were compared: 0 signed, 3 with a MAC/);
    expect(compared.status).toBe(0);
    expect(after.notes.join(" ")).toContain(`${lost} entries came home`);
    if (VERSION === "1.40")
      expect(after.notes.join(" ")).toMatch(/\d+ signatures by proxies were verified\./);
    expect(requestsTo(await published(keyed), "/spilled")).toHaveLength(sent.length);
    expect(after.chains.filter(({ state }) => state === "open")).toHaveLength(1);
  }, 180_000);
});

test("enforced: without a receipt for too long a request is refused, and the refusal is recorded", async () => {
  const between = await startBetween(exporter.url, "on");
  const envoy = await testEnvoy({
    ...base(),
    exporterPort: between.port,
    config: "enforced.yaml",
    change: (bootstrap) => {
      const [listener] = bootstrap.static_resources.listeners;
      const config = { cluster: "meshseal", delivery: "enforced", enforceMs: 500, timeoutMs: 1000 };
      plug(listener, { config });
    },
  });
  const sent = await fire(envoy.port, "/enforced", 5);
  await settled(envoy);
  between.mode = "refuse";
  await until("requests are refused", async () => {
    sent.push(...(await fire(envoy.port, "/enforced", 2)));
    return sent.includes(503);
  });
  expect(await fire(envoy.port, "/probe", 2)).toEqual([200, 200]);
  const refused = sent.filter((status) => status === 503).length;
  await until(
    "the refusals are counted",
    async () => (await envoy.stat("wasmcustom.meshseal_enforced_refusals")) === refused,
  );
  between.mode = "on";
  await settled(envoy);
  expect(await fire(envoy.port, "/enforced", 1)).toEqual([200]);
  sent.push(200);
  await settled(envoy);
  await envoy.stop();
  const requests = requestsTo(await published(), "/enforced");
  expect(requests).toHaveLength(sent.length);
  const details = requests
    .filter((entry) => uintOf(entry, f.F_STATUS) === 503)
    .map((entry) => text(entry, f.F_CODE_DETAILS));
  expect(details).toEqual(Array(refused).fill("meshseal_no_receipt"));
}, 180_000);

test("the log of all of this verifies", async () => {
  await published();
  const report = await checkLog(exporter.dir);
  expect(report.gaps.count).toBe(0);
});
