import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { request } from "undici";
import { describe, expect, onTestFinished, test } from "vitest";
import { openSource } from "../exporter/audit/source.ts";
import { Tiles } from "../exporter/audit/tiles.ts";
import { parseBundle } from "../exporter/log/tile.ts";
import { bytesOf, decodeEntry, type Entry, uintOf } from "../record/codec.ts";
import * as f from "../record/fields.ts";
import { type Envoy, startEnvoy } from "../scripts/demo/envoy.ts";
import { runLoad } from "../scripts/demo/load.ts";
import { startUpstream, type Upstream } from "../scripts/demo/upstream.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { checkLog } from "./support/log.ts";

type Mesh = { envoy: Envoy; upstream: Upstream; exporter: Exporter };

async function startMesh(
  options: { filter?: string; version?: "1.40" | "1.36"; exporterPort?: number } = {},
): Promise<Mesh> {
  const dir = mkdtempSync(join(tmpdir(), "meshseal-envoy-"));
  const upstream = await startUpstream();
  const exporter = await startExporter({ args: ["--checkpoint-ms", "100"] });
  const { filter, version, exporterPort = Number(new URL(exporter.url).port) } = options;
  const envoy = await startEnvoy({
    dir,
    upstreamPort: upstream.port,
    exporterPort,
    ...(filter === undefined ? {} : { filter }),
    ...(version === undefined ? {} : { version }),
  });
  onTestFinished(async () => {
    await envoy.stop();
    await exporter.stop();
    await upstream.stop();
    rmSync(dir, { recursive: true, force: true });
  });
  return { envoy, upstream, exporter };
}

async function entriesOf(dir: string, size: number): Promise<Entry[]> {
  const tiles = new Tiles(await openSource(dir), size);
  const found: Entry[] = [];
  for (let tile = 0; tile * 256 < size; tile++) {
    const bundle = await tiles.bundle(tile);
    for (const bytes of parseBundle(
      bundle ?? Buffer.alloc(0),
      tiles.tileAt("entries", tile).width,
    ) ?? []) {
      const entry = decodeEntry(bytes);
      if (entry !== null) found.push(entry);
    }
  }
  return found;
}

const text = (entry: Entry | undefined, number: number): string | undefined => {
  const bytes = entry === undefined ? undefined : bytesOf(entry, number);
  return bytes === undefined ? undefined : Buffer.from(bytes).toString("latin1");
};

describe.each(["1.40", "1.36"] as const)("Envoy %s", (version) => {
  test("every request of a mixed load is an entry", async () => {
    const { envoy, upstream, exporter } = await startMesh({ version });
    const sent = await runLoad({ port: envoy.port, upstream, seconds: 3, rate: 200 });
    expect(await envoy.settled(15_000)).toBe(true);
    expect(await envoy.stat("http.edge.downstream_rq_total")).toBe(sent);
    await envoy.stop();
    expect(envoy.log()).toMatch(
      /meshseal seal chain=[0-9a-f]{32} seq=\d+ head=[0-9a-f]{64} unreceipted=0 missed=0/,
    );
    await exporter.stop();
    const report = await checkLog(exporter.dir);
    expect(report.entries["request"]).toBe(sent);
    expect(sent).toBeGreaterThan(400);
  });
});

test("an entry says what happened: served, denied, reset, not found", async () => {
  const { envoy, upstream, exporter } = await startMesh();
  const url = `http://127.0.0.1:${envoy.port}`;
  const headers = {
    "user-agent": "test/1",
    "x-request-id": "11111111-2222-4333-8444-555555555555",
  };
  const get = async (path: string, more = {}): Promise<void> => {
    await (await request(`${url}${path}`, { headers: { ...headers, ...more } })).body.dump();
  };
  await get("/cart/7?token=secret#part");
  await get("/admin/users");
  await get("/reset");
  await get("/missing");
  await get("/latin", { "user-agent": Buffer.from([0x41, 0xe9, 0xff]).toString("latin1") });
  await get(`/${"long".repeat(5000)}`, { "user-agent": "u".repeat(30_000) });
  expect(await envoy.settled(15_000)).toBe(true);
  await envoy.stop();
  await exporter.stop();
  const { treeSize } = await checkLog(exporter.dir);
  const requests = (await entriesOf(exporter.dir, treeSize)).filter(
    ({ kind }) => kind === f.KIND_REQUEST,
  );
  const of = (path: string): Entry | undefined =>
    requests.find((entry) => text(entry, f.F_PATH)?.startsWith(path));
  const served = of("/cart/7");
  expect(text(served, f.F_PATH)).toBe("/cart/7");
  expect(text(served, f.F_METHOD)).toBe("GET");
  expect(text(served, f.F_AUTHORITY)).toBe(`127.0.0.1:${envoy.port}`);
  expect(text(served, f.F_USER_AGENT)).toBe("test/1");
  expect(text(served, f.F_CODE_DETAILS)).toBe("via_upstream");
  expect(text(served, f.F_PROTOCOL)).toBe("HTTP/1.1");
  expect(text(served, f.F_ROUTE)).toBe("service");
  expect(text(served, f.F_UPSTREAM_CLUSTER)).toBe("service");
  expect(text(served, f.F_UPSTREAM_ADDRESS)).toBe(`127.0.0.1:${upstream.port}`);
  expect(text(served, f.F_SOURCE_ADDRESS)).toMatch(/^127\.0\.0\.1:\d+$/);
  expect(text(served, f.F_DESTINATION_ADDRESS)).toBe(`127.0.0.1:${envoy.port}`);
  if (served === undefined) throw new Error("no entry");
  expect(uintOf(served, f.F_STATUS)).toBe(200);
  expect(uintOf(served, f.F_PEER_AUTH)).toBe(f.PEER_NONE);
  expect(uintOf(served, f.F_DURATION)).toBeGreaterThan(0);
  const denied = of("/admin/users");
  expect(text(denied, f.F_CODE_DETAILS)).toBe("rbac_access_denied_matched_policy[no-admin]");
  expect(denied && uintOf(denied, f.F_STATUS)).toBe(403);
  expect(text(denied, f.F_UPSTREAM_ADDRESS)).toBeUndefined();
  const reset = of("/reset");
  expect(reset && uintOf(reset, f.F_STATUS)).toBe(503);
  expect(reset && uintOf(reset, f.F_FLAGS)).toBeGreaterThan(0);
  const missing = of("/missing");
  expect(missing && uintOf(missing, f.F_STATUS)).toBe(404);
  const long = of("/long");
  expect(text(long, f.F_PATH)).toHaveLength(f.MAX_PATH);
  expect(long?.fields.filter(({ number }) => number === f.F_CUT).map(({ value }) => value)).toEqual(
    [f.F_PATH, f.F_USER_AGENT],
  );
  expect(text(of("/latin"), f.F_USER_AGENT)).toContain("A");
  expect(requests).toHaveLength(6);
});

test("bytes that are no HTTP, and 59 KB of headers, blind nobody", async () => {
  const { envoy, exporter } = await startMesh();
  const raw = (bytes: Buffer): Promise<string> =>
    new Promise((resolve) => {
      const socket = connect(envoy.port, "127.0.0.1", () => socket.write(bytes));
      let answer = "";
      socket.on("data", (data) => {
        answer += data.toString("latin1");
        socket.end();
      });
      socket.on("error", () => undefined);
      socket.on("close", () => resolve(answer));
    });
  const head = `GET /raw HTTP/1.1\r\nhost: a\r\n`;
  await raw(Buffer.from(`${head}x-nul: a\0b\r\n\r\n`));
  await raw(Buffer.from("\x16\x03\x01 garbage\r\n\r\n", "latin1"));
  const invalid = await raw(
    Buffer.concat([
      Buffer.from(`${head}user-agent: `),
      Buffer.from([0xc3, 0x28, 0xff]),
      Buffer.from("\r\nconnection: close\r\n\r\n"),
    ]),
  );
  expect(invalid).toContain("200");
  const large = await raw(
    Buffer.from(`${head}user-agent: ${"u".repeat(58_000)}\r\nconnection: close\r\n\r\n`),
  );
  expect(large).toContain("200");
  expect(await envoy.settled(15_000)).toBe(true);
  const counted = await envoy.stat("http.edge.downstream_rq_total");
  await envoy.stop();
  await exporter.stop();
  const report = await checkLog(exporter.dir);
  expect(report.entries["request"]).toBe(counted);
  expect(counted).toBe(4);
  const agents = (await entriesOf(exporter.dir, report.treeSize)).map((entry) =>
    bytesOf(entry, f.F_USER_AGENT),
  );
  expect(
    agents.some(
      (agent) => agent !== undefined && Buffer.from(agent).equals(Buffer.from([0xc3, 0x28, 0xff])),
    ),
  ).toBe(true);
});

test("an exporter that is away for ten seconds under load loses nothing that fits the buffer", async () => {
  const { envoy, upstream, exporter } = await startMesh();
  const away = (async () => {
    await sleep(1000);
    await exporter.kill();
    await sleep(10_000);
    return startExporter({ dir: exporter.dir, port: Number(new URL(exporter.url).port) });
  })();
  const [sent, again] = await Promise.all([
    runLoad({ port: envoy.port, upstream, seconds: 12, rate: 100 }),
    away,
  ]);
  onTestFinished(async () => {
    await again.stop();
  });
  expect(await envoy.settled(30_000)).toBe(true);
  await envoy.stop();
  await again.stop();
  const report = await checkLog(exporter.dir);
  expect(report.entries["request"]).toBe(sent);
}, 90_000);

test("what does not fit is counted, and the count is chained", async () => {
  const { envoy, upstream, exporter } = await startMesh({
    filter: JSON.stringify({ cluster: "meshseal", bufferBytes: 65_536, batchBytes: 8192 }),
  });
  await exporter.kill();
  const first = await runLoad({ port: envoy.port, upstream, seconds: 4, rate: 400 });
  const again = await startExporter({
    dir: exporter.dir,
    port: Number(new URL(exporter.url).port),
  });
  onTestFinished(async () => {
    await again.stop();
  });
  expect(await envoy.settled(30_000)).toBe(true);
  const second = await runLoad({ port: envoy.port, upstream, seconds: 1, rate: 100 });
  await sleep(600);
  expect(await envoy.settled(30_000)).toBe(true);
  await envoy.stop();
  await again.stop();
  const report = await checkLog(exporter.dir, "incomplete");
  expect(report.gaps.count).toBeGreaterThan(0);
  expect((report.entries["request"] ?? 0) + report.gaps.count).toBe(first + second);
}, 90_000);

test("a batch that is refused for good costs a chain, and its successor names it", async () => {
  // A proxy before the exporter that answers one batch as a log would that cannot read it.
  let refuse = false;
  let target = "";
  const between = createServer((incoming, outgoing) => {
    const parts: Buffer[] = [];
    incoming.on("data", (part: Buffer) => parts.push(part));
    incoming.on("end", async () => {
      if (refuse) {
        refuse = false;
        outgoing.writeHead(400, { "meshseal-refusal": "malformed" }).end();
        return;
      }
      const headers = { "content-type": String(incoming.headers["content-type"]) };
      const answer = await request(`${target}${incoming.url}`, {
        method: "POST",
        headers,
        body: Buffer.concat(parts),
      });
      outgoing
        .writeHead(answer.statusCode, answer.headers)
        .end(Buffer.from(await answer.body.arrayBuffer()));
    });
  });
  await new Promise<void>((resolve) => between.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    between.closeAllConnections();
    between.close();
  });
  const { envoy, upstream, exporter } = await startMesh({
    exporterPort: (between.address() as AddressInfo).port,
  });
  target = exporter.url;
  await runLoad({ port: envoy.port, upstream, seconds: 1, rate: 100 });
  expect(await envoy.settled(15_000)).toBe(true);
  refuse = true;
  await runLoad({ port: envoy.port, upstream, seconds: 1, rate: 100 });
  expect(await envoy.settled(15_000)).toBe(true);
  const lost = await envoy.stat("wasmcustom.meshseal_lost_entries");
  expect(lost).toBeGreaterThan(0);
  await envoy.stop();
  await exporter.stop();
  const { treeSize, chains } = await checkLog(exporter.dir);
  const opens = (await entriesOf(exporter.dir, treeSize)).filter(
    ({ kind }) => kind === f.KIND_OPEN,
  );
  const successor = opens.find((entry) => bytesOf(entry, f.F_ABANDONED_CHAIN) !== undefined);
  if (successor === undefined) throw new Error("no chain names an abandoned one");
  expect(uintOf(successor, f.F_ABANDONED_CAUSE)).toBe(f.ABANDONED_MALFORMED);
  expect(uintOf(successor, f.F_ABANDONED_COUNT)).toBe(lost);
  const old = Buffer.from(bytesOf(successor, f.F_ABANDONED_CHAIN) ?? []).toString("hex");
  const before = chains.find(({ chain }) => chain === old);
  expect(before?.last).toBe((uintOf(successor, f.F_ABANDONED_SEQ) ?? 0) - 1);
  expect(before?.head).toBe(
    Buffer.from(bytesOf(successor, f.F_ABANDONED_HEAD) ?? []).toString("hex"),
  );
});

test.each([
  ['{"clusters":"a"}', "clusters: unknown key"],
  ['{"tickMs":5}', "tickMs: 5 is not a whole number from 10 to 10000"],
  ['{"cluster":"a","delivery":"best"}', 'delivery: "best" is not allowed'],
  ['{"cluster":"a","cluster":"b"}', "cluster: is given twice"],
  ['{"cluster":"a"} x', "something follows"],
])("the configuration %s is refused with a sentence", async (filter, sentence) => {
  // Every value that is given for the filter must hold the word "cluster": that is how the bootstrap finds it.
  const dir = mkdtempSync(join(tmpdir(), "meshseal-envoy-"));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  await expect(startEnvoy({ dir, upstreamPort: 9, exporterPort: 9, filter })).rejects.toThrow(
    sentence,
  );
});

test("the module imports only what Envoy has, and is small", async () => {
  const module = await WebAssembly.compile(readFileSync("build/filter.wasm"));
  const imports = WebAssembly.Module.imports(module).map(
    ({ module: from, name }) => `${from}.${name}`,
  );
  for (const name of imports)
    expect(name).toMatch(/^(env\.proxy_\w+|wasi_snapshot_preview1\.(random_get|environ_\w+))$/);
  const config = readFileSync("envoy-configs/edge.yaml", "utf8");
  for (const name of imports) expect(config).toContain(`${name.split(".")[1]}: {}`);
  for (const { name } of WebAssembly.Module.exports(module)) {
    if (name.startsWith("proxy_on_")) expect(config).toContain(`${name}: {}`);
  }
  expect(readFileSync("build/filter.wasm").length).toBeLessThan(64 * 1024);
});
