import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { connect as connectTls } from "node:tls";
import { request } from "undici";
import { describe, expect, onTestFinished, test } from "vitest";
import { bytesOf, type Entry, uintOf } from "../record/codec.ts";
import * as f from "../record/fields.ts";
import { type Bootstrap, type Envoy, startEnvoy } from "../scripts/demo/envoy.ts";
import { startUpstream } from "../scripts/demo/upstream.ts";
import { makeAuthority, type Pair } from "./support/certificates.ts";
import { startExporter } from "./support/exporter.ts";
import { checkLog, entriesOf } from "./support/log.ts";

const TYPE = "type.googleapis.com/envoy.extensions";
const copy = (value: Bootstrap): Bootstrap => JSON.parse(JSON.stringify(value));
const text = (entry: Entry, number: number): string | undefined => {
  const bytes = bytesOf(entry, number);
  return bytes === undefined ? undefined : Buffer.from(bytes).toString("latin1");
};

/** The bootstraps of the three places, joined: filter F, logger A at the connection manager, logger L at the listener; plain, TLS, refused. */
function allPlaces(bootstrap: Bootstrap, certificates: { ca: string; server: Pair }): void {
  const { static_resources: resources } = bootstrap;
  const plain = resources.listeners[0];
  const manager = plain.filter_chains[0].filters[0].typed_config;
  const filter = manager.http_filters.find((one: Bootstrap) => one.name === "meshseal");
  const logger = (name: string, settings: string): Bootstrap => {
    const config = copy(filter.typed_config.config);
    config.name = name;
    config.configuration.value = settings;
    config.vm_config.vm_id = name;
    return {
      name,
      typed_config: { "@type": `${TYPE}.access_loggers.wasm.v3.WasmAccessLog`, config },
    };
  };
  manager.access_log = [logger("A", '{"cluster":"meshseal"}')];
  plain.access_log = [logger("L", '{"cluster":"meshseal","place":"listener"}')];
  manager.route_config.virtual_hosts[0].routes.unshift({
    name: "unwatched",
    match: { prefix: "/unwatched" },
    route: { cluster: "service" },
    typed_per_filter_config: {
      meshseal: {
        "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
        disabled: true,
      },
    },
  });
  const secure = copy(plain);
  secure.name = "secure";
  secure.filter_chains[0].transport_socket = {
    name: "tls",
    typed_config: {
      "@type": `${TYPE}.transport_sockets.tls.v3.DownstreamTlsContext`,
      require_client_certificate: true,
      common_tls_context: {
        tls_certificates: [
          {
            certificate_chain: { inline_string: certificates.server.cert },
            private_key: { inline_string: certificates.server.key },
          },
        ],
        validation_context: { trusted_ca: { inline_string: certificates.ca } },
      },
    },
  };
  const refused = copy(secure);
  refused.name = "refused";
  refused.filter_chains[0].filters.unshift({
    name: "rbac",
    typed_config: {
      "@type": `${TYPE}.filters.network.rbac.v3.RBAC`,
      stat_prefix: "network",
      rules: {
        action: "DENY",
        policies: { nobody: { permissions: [{ any: true }], principals: [{ any: true }] } },
      },
    },
  });
  resources.listeners.push(secure, refused);
}

/** Sends bytes, waits until Envoy had time to read them, and closes. */
function raw(port: number, bytes: string): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => {
      if (bytes !== "") socket.write(Buffer.from(bytes, "latin1"));
      setTimeout(() => socket.end(), 300);
    });
    socket.on("data", () => undefined);
    socket.on("error", () => undefined);
    socket.on("close", () => resolve());
  });
}

function tls(port: number, path: string, pair: Partial<Pair>): Promise<void> {
  return new Promise((resolve) => {
    const socket = connectTls({ port, host: "127.0.0.1", rejectUnauthorized: false, ...pair }, () =>
      socket.write(`GET ${path} HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n`),
    );
    socket.on("data", () => undefined);
    socket.on("error", () => undefined);
    socket.on("close", () => resolve());
  });
}

describe.each(["1.40", "1.36"] as const)("Envoy %s", (version) => {
  test("what the filter, the access logger and the listener's access logger see", async () => {
    const dir = mkdtempSync(join(tmpdir(), "meshseal-places-"));
    const upstream = await startUpstream();
    const exporter = await startExporter({ args: ["--checkpoint-ms", "100"] });
    const authority = await makeAuthority();
    const server = await authority.issue({ dns: ["shop"] }, "server");
    const client = await authority.issue({ uris: ["spiffe://mesh.example/client"] }, "client");
    const stranger = await (await makeAuthority("other")).issue(
      { uris: ["spiffe://mesh.example/client"] },
      "stranger",
    );
    const envoy = await startEnvoy({
      dir,
      upstreamPort: upstream.port,
      exporterPort: Number(new URL(exporter.url).port),
      version,
      concurrency: 1,
      change: (bootstrap) => allPlaces(bootstrap, { ca: authority.cert, server }),
    });
    onTestFinished(async () => {
      await envoy.stop();
      await exporter.stop();
      await upstream.stop();
      rmSync(dir, { recursive: true, force: true });
    });
    const [secure, refused] = [await envoy.portOf("secure"), await envoy.portOf("refused")];
    const get = (path: string): string => `GET ${path} HTTP/1.1\r\nhost: shop\r\n`;
    await raw(envoy.port, `${get("/served")}connection: close\r\n\r\n`);
    await raw(envoy.port, `${get("/unwatched")}connection: close\r\n\r\n`);
    await raw(envoy.port, `${get("/aborted")}x-half`);
    await raw(envoy.port, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nthis is no frame of HTTP/2 at all");
    await raw(envoy.port, "\x16\x03\x01 garbage\r\n\r\n");
    await raw(envoy.port, "");
    await tls(secure, "/secure", client);
    await tls(secure, "/none", {});
    await tls(secure, "/stranger", stranger);
    await raw(secure, `${get("/plain")}\r\n`);
    await tls(refused, "/refused", client);
    expect(await envoy.settled(30_000)).toBe(true);
    await envoy.stop();
    await exporter.stop();
    await checkLog(exporter.dir);

    const places = new Map<string, string>();
    const seen: Record<string, Entry[]> = { meshseal: [], A: [], L: [] };
    for (const entry of entriesOf(exporter.dir)) {
      const chain = Buffer.from(entry.chain).toString("hex");
      const plugin = text(entry, f.F_PLUGIN);
      if (plugin !== undefined) places.set(chain, plugin);
      if (entry.kind === f.KIND_REQUEST || entry.kind === f.KIND_CONNECTION)
        seen[places.get(chain) ?? ""]?.push(entry);
    }
    const { meshseal: F = [], A = [], L = [] } = seen;
    const paths = (entries: Entry[]): string[] =>
      entries.map((entry) => text(entry, f.F_PATH) ?? "-").sort();
    expect(paths(F)).toEqual(["-", "/secure", "/served"]);
    expect(paths(A)).toEqual(["-", "-", "/secure", "/served", "/unwatched"]);
    expect(A.map((entry) => text(entry, f.F_CODE_DETAILS))).toEqual(
      expect.arrayContaining(["downstream_remote_disconnect", "http1.codec_error"]),
    );
    const secured = F.find((entry) => text(entry, f.F_PATH) === "/secure");
    expect(secured && text(secured, f.F_PEER_PRINCIPAL)).toBe("spiffe://mesh.example/client");

    expect(new Set(L.map(({ kind }) => kind))).toEqual(new Set([f.KIND_CONNECTION]));
    // Garbage in HTTP/2 and in HTTP/1, no byte at all, three handshakes that failed, and one connection refused.
    expect(L).toHaveLength(7);
    const failures = L.filter((entry) => text(entry, f.F_TRANSPORT_FAILURE) !== undefined);
    const reasons = failures.map((entry) => text(entry, f.F_TRANSPORT_FAILURE)).join("\n");
    expect(failures).toHaveLength(3);
    for (const reason of [
      "PEER_DID_NOT_RETURN_A_CERTIFICATE",
      "CERTIFICATE_VERIFY_FAILED",
      "HTTP_REQUEST",
    ])
      expect(reasons).toContain(reason);
    for (const entry of failures) {
      expect(text(entry, f.F_PEER_PRINCIPAL)).toBeUndefined();
      expect(uintOf(entry, f.F_PEER_AUTH)).toBe(f.PEER_NONE);
    }
    const ended = L.filter((entry) => text(entry, f.F_TERMINATION) !== undefined);
    expect(ended).toHaveLength(1);
    const [denied] = ended as [Entry];
    expect(text(denied, f.F_TERMINATION)).toBe("rbac_access_denied_matched_policy[nobody]");
    expect(text(denied, f.F_PEER_PRINCIPAL)).toBe("spiffe://mesh.example/client");
    expect(uintOf(denied, f.F_PEER_AUTH)).toBe(f.PEER_MTLS);
    expect(uintOf(denied, f.F_DECISION)).toBe(f.DECISION_DENIED);
    expect(text(denied, f.F_POLICY)).toBe("nobody");
    const others = L.filter((entry) => !failures.includes(entry) && entry !== denied);
    expect(others.map((entry) => uintOf(entry, f.F_BYTES_IN)).sort()).toEqual([0, 15, 57].sort());
    for (const entry of L) expect(text(entry, f.F_SOURCE_ADDRESS)).toMatch(/^127\.0\.0\.1:\d+$/);
  });
});

/** A service that answers `/body` with what it is asked for, and takes WebSockets that never speak. */
async function startService(answer: Buffer): Promise<{ port: number; stop: () => void }> {
  const server = createServer((incoming, outgoing) => {
    incoming.resume();
    incoming.on("end", () => outgoing.writeHead(200, { "meshseal-entry": "forged" }).end(answer));
  });
  server.on("upgrade", (_incoming, socket) => {
    socket.on("error", () => undefined);
    socket.write(
      "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n",
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    stop: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** Opens a WebSocket as far as the 101. */
async function openWebSocket(envoy: Envoy): Promise<() => Promise<void>> {
  const socket = connect(envoy.port, "127.0.0.1");
  socket.on("error", () => undefined);
  const key = randomBytes(16).toString("base64");
  socket.write(
    `GET /socket HTTP/1.1\r\nhost: shop\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: ${key}\r\n\r\n`,
  );
  await new Promise<void>((resolve) => socket.once("data", () => resolve()));
  return () =>
    new Promise((resolve) => {
      socket.on("close", () => resolve());
      socket.destroy();
    });
}

test("long streams begin and end, bodies are hashed as they pass, and the caller learns the entry's id", async () => {
  const dir = mkdtempSync(join(tmpdir(), "meshseal-streams-"));
  const answer = randomBytes(300_000);
  const service = await startService(answer);
  const exporter = await startExporter({ args: ["--checkpoint-ms", "100"] });
  const envoy = await startEnvoy({
    dir,
    upstreamPort: service.port,
    exporterPort: Number(new URL(exporter.url).port),
    concurrency: 1,
    change: (bootstrap) => {
      const manager = bootstrap.static_resources.listeners[0].filter_chains[0].filters[0];
      manager.typed_config.upgrade_configs = [{ upgrade_type: "websocket" }];
      const { route_config: routes, http_filters: filters } = manager.typed_config;
      const quiet = {
        name: "quiet",
        match: { prefix: "/quiet" },
        route: { cluster: "service" },
        metadata: { filter_metadata: { meshseal: { bodyDigests: "off" } } },
      };
      routes.virtual_hosts[0].routes.unshift(quiet);
      const { config } = filters.find((one: Bootstrap) => one.name === "meshseal").typed_config;
      config.configuration.value = JSON.stringify({
        cluster: "meshseal",
        requestStart: "long",
        bodyDigests: "all",
        idHeader: "meshseal-entry",
      });
      config.vm_config.code.local.filename = join(process.cwd(), "build/enforce.wasm");
      delete config.capability_restriction_config;
    },
  });
  onTestFinished(async () => {
    await envoy.stop();
    await exporter.stop();
    service.stop();
    rmSync(dir, { recursive: true, force: true });
  });
  const url = `http://127.0.0.1:${envoy.port}`;
  const body = randomBytes(200_000);
  const posted = await request(`${url}/body`, { method: "POST", body });
  expect(Buffer.from(await posted.body.arrayBuffer()).equals(answer)).toBe(true);
  const id = String(posted.headers["meshseal-entry"]);
  expect(id).toMatch(/^[0-9a-f]{32}$/);
  await (await request(`${url}/quiet`, { method: "POST", body: "x" })).body.dump();
  await (await request(`${url}/empty`)).body.dump();
  const finish = await openWebSocket(envoy);
  await openWebSocket(envoy);
  await finish();
  for (let i = 0; i < 200 && (await envoy.stat("wasmcustom.meshseal_requests")) < 4; i++)
    await sleep(100);
  for (let i = 0; i < 200; i++) {
    const [made, receipted] = await Promise.all([
      envoy.stat("wasmcustom.meshseal_entries"),
      envoy.stat("wasmcustom.meshseal_receipted_entries"),
    ]);
    if (made > 0 && made === receipted) break;
    await sleep(100);
  }
  // The proxy dies with the second WebSocket open.
  process.kill(envoy.pid, "SIGKILL");
  await exporter.stop();
  const report = await checkLog(exporter.dir);
  expect(report.entries["request_start"]).toBe(2);
  expect(report.unfinished).toHaveLength(1);

  const entries = entriesOf(exporter.dir);
  const of = (path: string, kind: number = f.KIND_REQUEST): Entry[] =>
    entries.filter((entry) => entry.kind === kind && text(entry, f.F_PATH) === path);
  const hex = (entry: Entry | undefined, number: number): string | undefined => {
    const bytes = entry === undefined ? undefined : bytesOf(entry, number);
    return bytes === undefined ? undefined : Buffer.from(bytes).toString("hex");
  };
  const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
  const [whole] = of("/body");
  expect(hex(whole, f.F_STREAM_ID)).toBe(id);
  expect(hex(whole, f.F_REQUEST_DIGEST)).toBe(sha256(body));
  expect(hex(whole, f.F_RESPONSE_DIGEST)).toBe(sha256(answer));
  expect(hex(of("/quiet")[0], f.F_REQUEST_DIGEST)).toBeUndefined();
  expect(hex(of("/empty")[0], f.F_REQUEST_DIGEST)).toBe(sha256(Buffer.alloc(0)));
  const begun = of("/socket", f.KIND_REQUEST_START);
  expect(begun).toHaveLength(2);
  expect(begun.every((entry) => text(entry, f.F_SOURCE_ADDRESS) !== undefined)).toBe(true);
  const ended = of("/socket").map((entry) => hex(entry, f.F_STREAM_ID));
  expect(ended).toEqual([hex(begun[0], f.F_STREAM_ID)]);
  expect(uintOf(of("/socket")[0] as Entry, f.F_STATUS)).toBe(101);
});

test("the lean module refuses what needs the other, with a sentence", async () => {
  const dir = mkdtempSync(join(tmpdir(), "meshseal-places-"));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  const filter = '{"cluster":"meshseal","bodyDigests":"all"}';
  await expect(startEnvoy({ dir, upstreamPort: 9, exporterPort: 9, filter })).rejects.toThrow(
    "need the module enforce.wasm",
  );
});

test.each(["access-log.yaml", "listener-log.yaml"])(
  "%s is a bootstrap that records",
  async (config) => {
    const dir = mkdtempSync(join(tmpdir(), "meshseal-places-"));
    const upstream = await startUpstream();
    const envoy = await startEnvoy({ dir, upstreamPort: upstream.port, exporterPort: 9, config });
    onTestFinished(async () => {
      await envoy.stop();
      await upstream.stop();
      rmSync(dir, { recursive: true, force: true });
    });
    await (await request(`http://127.0.0.1:${envoy.port}/served`)).body.dump();
    for (let i = 0; i < 100 && (await envoy.stat("wasmcustom.meshseal_requests")) < 1; i++)
      await sleep(100);
    expect(await envoy.stat("wasmcustom.meshseal_requests")).toBe(1);
  },
);
