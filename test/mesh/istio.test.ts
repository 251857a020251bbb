import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { request } from "undici";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parse, stringify } from "yaml";
import { initCommand } from "../../exporter/cli/init.ts";
import { pushCommand } from "../../exporter/cli/push.ts";
import { runChecks } from "../../exporter/doctor/check.ts";
import { meshChecks } from "../../exporter/doctor/mesh.ts";
import { findPlugins } from "../../exporter/doctor/plugins.ts";
import { bytesOf } from "../../record/codec.ts";
import { F_PATH } from "../../record/fields.ts";
import { startUpstream, type Upstream } from "../../scripts/demo/upstream.ts";
import {
  type ControlPlane,
  freePort,
  type Service,
  scratchDir,
  startControlPlane,
  startProxy,
  startRegistry,
} from "../support/control-plane.ts";
import { type Exporter, startExporter } from "../support/exporter.ts";
import { goTool } from "../support/go-tools.ts";
import { checkLog, entriesOf } from "../support/log.ts";
import { type RunningEnvoy, receipted, until } from "../support/run-envoy.ts";

const scratch = scratchDir("mesh");
let registry: Service;
let exporter: Exporter;
let upstream: Upstream;
let istio: ControlPlane;
let proxy: RunningEnvoy;
let port = 0;
let gatewayPort = 0;
let base = "";

const image = (): string => `oci://${registry.address}/team/meshseal-filter`;

async function init(...args: string[]): Promise<string> {
  let printed = "";
  await initCommand((text) => {
    printed += text;
  }).parseAsync(["istio", "--image", image(), ...args], { from: "user" });
  return printed;
}

/** What a cluster would hold besides the filter: a workload with a sidecar, and the exporter's Service. */
function surroundings(exporterPort: number): { kube: string; base: string } {
  const labels = { "app.kubernetes.io/name": "meshseal", "app.kubernetes.io/instance": "meshseal" };
  const service = (metadata: object, spec: object): object => ({
    apiVersion: "v1",
    kind: "Service",
    metadata,
    spec,
  });
  const kube = [
    ...["meshseal-system", "shop", "istio-system", "istio-ingress"].map((name) => ({
      apiVersion: "v1",
      kind: "Namespace",
      metadata: { name },
    })),
    service(
      { name: "meshseal", namespace: "meshseal-system", labels },
      {
        clusterIP: "10.0.0.7",
        ports: [{ name: "http-batches", port: 7700, targetPort: "batches" }],
      },
    ),
    {
      apiVersion: "discovery.k8s.io/v1",
      kind: "EndpointSlice",
      metadata: {
        name: "meshseal-1",
        namespace: "meshseal-system",
        labels: { "kubernetes.io/service-name": "meshseal" },
      },
      addressType: "IPv4",
      endpoints: [{ addresses: ["127.0.0.1"], conditions: { ready: true } }],
      ports: [{ name: "http-batches", port: exporterPort, protocol: "TCP" }],
    },
  ];
  const sidecar = (
    name: string,
    namespace: string,
    app: object,
    listen: number,
    to: number,
  ): object => ({
    apiVersion: "networking.istio.io/v1",
    kind: "Sidecar",
    metadata: { name, namespace },
    spec: {
      workloadSelector: { labels: app },
      ingress: [
        {
          port: { number: listen, protocol: "HTTP", name: "http" },
          bind: "127.0.0.1",
          defaultEndpoint: `127.0.0.1:${to}`,
        },
      ],
      egress: [{ hosts: ["*/*"] }],
    },
  });
  const resources = [
    {
      apiVersion: "security.istio.io/v1",
      kind: "PeerAuthentication",
      metadata: { name: "plain", namespace: "istio-system" },
      spec: { mtls: { mode: "DISABLE" } },
    },
    {
      apiVersion: "networking.istio.io/v1",
      kind: "ServiceEntry",
      metadata: { name: "cart", namespace: "shop" },
      spec: {
        hosts: ["cart.shop"],
        ports: [{ number: 8080, name: "http", protocol: "HTTP", targetPort: upstream.port }],
        resolution: "STATIC",
        workloadSelector: { labels: { app: "cart" } },
      },
    },
    {
      apiVersion: "networking.istio.io/v1",
      kind: "WorkloadEntry",
      metadata: { name: "cart-1", namespace: "shop" },
      spec: { address: "127.0.0.1", labels: { app: "cart" } },
    },
    {
      apiVersion: "networking.istio.io/v1",
      kind: "Gateway",
      metadata: { name: "edge", namespace: "istio-ingress" },
      spec: {
        selector: { istio: "ingressgateway" },
        servers: [
          {
            port: { number: gatewayPort, name: "http", protocol: "HTTP" },
            bind: "127.0.0.1",
            hosts: ["cart.shop"],
          },
        ],
      },
    },
    {
      apiVersion: "networking.istio.io/v1",
      kind: "VirtualService",
      metadata: { name: "edge", namespace: "shop" },
      spec: {
        hosts: ["cart.shop"],
        gateways: ["istio-ingress/edge"],
        http: [{ route: [{ destination: { host: "cart.shop", port: { number: 8080 } } }] }],
      },
    },
    sidecar("cart", "shop", { app: "cart" }, port, upstream.port),
    sidecar(
      "meshseal",
      "meshseal-system",
      { "app.kubernetes.io/name": "meshseal" },
      port + 1,
      exporterPort,
    ),
  ];
  const text = (items: readonly object[]): string =>
    items.map((item) => stringify(item)).join("---\n");
  return { kube: text(kube), base: `${text(resources)}---\n` };
}

async function send(count: number, path = "/cart", to = port): Promise<number[]> {
  const statuses: number[] = [];
  for (let i = 0; i < count; i++) {
    const answer = await request(`http://127.0.0.1:${to}${path}/${i}`, {
      headers: { host: "cart.shop" },
      // A listener that is replaced closes its connections.
      reset: true,
    });
    await answer.body.dump();
    statuses.push(answer.statusCode);
  }
  return statuses;
}

const ok = (count: number): number[] => Array.from({ length: count }, () => 200);

const plugins = async (envoy: RunningEnvoy): Promise<ReturnType<typeof findPlugins>> =>
  findPlugins(JSON.parse(await envoy.page("/config_dump")));

async function loaded(isSo: (found: ReturnType<typeof findPlugins>) => boolean): Promise<void> {
  let found: ReturnType<typeof findPlugins> = [];
  await until(
    async () => {
      found = await plugins(proxy);
      return isSo(found);
    },
    () => `${JSON.stringify(found)}\n${proxy.log().slice(-1500)}\n${istio.log().slice(-1500)}`,
  );
  await until(
    async () => (await send(1).catch(() => [0]))[0] !== 0,
    () => proxy.log().slice(-1500),
  );
}

async function remove(): Promise<void> {
  await istio.apply(base);
  await loaded((found) => found.length === 0);
  await until(
    async () => (await send(1).catch(() => [0]))[0] === 200,
    () => proxy.log().slice(-1000),
  );
}

async function diagnose(): Promise<Record<string, string>> {
  const results = await runChecks(
    await meshChecks({ envoy: proxy.admin, exporter: exporter.url, watchMs: 2500 }),
  );
  return Object.fromEntries(
    results.map(({ name, status, message }) => [name, `${status}: ${message}`]),
  );
}

beforeAll(async () => {
  registry = await startRegistry();
  await pushCommand().parseAsync([image(), "--json"], { from: "user" });
  exporter = await startExporter({ args: ["--checkpoint-ms", "100"] });
  upstream = await startUpstream();
  port = await freePort();
  gatewayPort = await freePort();
  const around = surroundings(Number(new URL(exporter.url).port));
  base = around.base;
  // The settings that init gives for Istio itself, and what a plain Envoy needs.
  const operator = parse(await init("--mesh-config")) as { spec: { meshConfig: object } };
  const mesh = stringify({
    ...operator.spec.meshConfig,
    enableAutoMtls: false,
    rootNamespace: "istio-system",
    defaultProviders: {},
  });
  istio = await startControlPlane(scratch.dir, { kube: around.kube, mesh, resources: base });
  proxy = await startProxy(join(scratch.dir, "cart"), istio.address, {
    namespace: "shop",
    name: "cart-1",
    labels: { app: "cart" },
  });
}, 900_000);

afterAll(async () => {
  await proxy?.stop();
  await exporter?.stop();
  await istio?.stop();
  await upstream?.stop();
  await registry?.stop();
  scratch.remove();
}, 300_000);

async function counted(): Promise<number> {
  return (
    (await proxy.stats("^wasmcustom\\.meshseal_requests$")).get("wasmcustom.meshseal_requests") ?? 0
  );
}

/** Fetches as Istio's agent does. Returns the module, or what it said. */
function pull(reference: string, ...more: string[]): { module: Buffer | null; said: string } {
  const dir = join(scratch.dir, `pull-${reference.replaceAll(/[^a-z0-9]+/g, "-")}-${more.length}`);
  mkdirSync(dir);
  const args = ["pull", "--modules", dir, ...more, reference];
  const { status, stdout, stderr } = spawnSync(goTool("meshseal-istio"), args, {
    encoding: "utf8",
  });
  const path = stdout.trim().split("\n").at(-1) ?? "";
  return { module: status === 0 ? readFileSync(path) : null, said: stderr };
}

test("Istio's agent fetches each build, as an image", () => {
  for (const [tag, file] of [
    ["0.1.0", "build/filter.wasm"],
    ["0.1.0-enforce", "build/enforce.wasm"],
  ]) {
    const { module, said } = pull(`${image()}:${tag}`);
    expect(module?.equals(readFileSync(file ?? "")), said).toBe(true);
  }
});

test("and as an artifact of two layers, but not under another digest", async () => {
  const reference = `oci://${registry.address}/team/artifact:1`;
  await pushCommand().parseAsync([reference, "--form", "artifact", "--json"], { from: "user" });
  const { module, said } = pull(reference);
  expect(module?.equals(readFileSync("build/filter.wasm")), said).toBe(true);
  const wrong = pull(reference, "--sha256", "0".repeat(64));
  expect(wrong.module).toBeNull();
  expect(wrong.said).toContain("0".repeat(64));
});

test("a TrafficExtension as init writes it: fetched, loaded, every request recorded, doctor content", async () => {
  await istio.apply(base + (await init()));
  await loaded((found) => found.length === 1);
  expect((await plugins(proxy))[0]).toMatchObject({
    name: "istio-system.meshseal",
    failurePolicy: "FAIL_RELOAD",
  });
  expect(await send(30)).toEqual(ok(30));
  await receipted(proxy, await counted());
  expect(await counted()).toBeGreaterThanOrEqual(30);
  const said = await diagnose();
  expect(Object.entries(said).filter(([, message]) => /^(bad|unknown)/.test(message))).toEqual([]);
  expect(said["the exporter's cluster"]).toContain(
    "outbound|7700||meshseal.meshseal-system.svc.cluster.local",
  );
});

test("the exporter's own sidecar does not record", async () => {
  const own = await startProxy(join(scratch.dir, "own"), istio.address, {
    namespace: "meshseal-system",
    name: "meshseal-0",
    labels: { "app.kubernetes.io/name": "meshseal" },
  });
  try {
    await until(
      async () => (await own.listeners()).length > 0,
      () => own.log().slice(-1000),
    );
    expect(await plugins(own)).toEqual([]);
  } finally {
    await own.stop();
  }
});

test("an ingress gateway, chosen by its label, records what passes it", async () => {
  await istio.apply(base + (await init("--gateway-label", "istio-ingress/istio=ingressgateway")));
  // The sidecar behind it has no plugin now: nothing of this is recorded twice.
  await loaded((found) => found.length === 0);
  const gateway = await startProxy(join(scratch.dir, "gateway"), istio.address, {
    namespace: "istio-ingress",
    name: "gateway-1",
    labels: { istio: "ingressgateway" },
    kind: "router",
  });
  try {
    await until(
      async () => (await gateway.listeners()).length > 0,
      () => gateway.log().slice(-1500),
    );
    expect((await plugins(gateway))[0]?.name).toBe("istio-ingress.meshseal-ingressgateway");
    expect(await send(10, "/by-the-gateway", gatewayPort)).toEqual(ok(10));
    await receipted(gateway, 10);
    expect(await plugins(proxy)).toEqual([]);
  } finally {
    await gateway.stop();
  }
  await istio.apply(base + (await init()));
  await loaded((found) => found.length === 1);
});

test("an update reaches the proxy without a break, and a removal ends the recording", async () => {
  const before = await counted();
  await istio.apply(base + (await init("--delivery", "best-effort")));
  await loaded((found) => found[0]?.settings?.["delivery"] === "best-effort");
  expect(await send(10)).toEqual(ok(10));
  await receipted(proxy, before + 10);
  await remove();
  expect(await send(5, "/after-the-removal")).toEqual(ok(5));
  const said = await diagnose();
  expect(said["the filter is loaded"]).toContain("no listener of this Envoy has a Meshseal filter");
});

test("a WasmPlugin as init writes it for releases before 1.30", async () => {
  await istio.apply(base + (await init("--istio-version", "1.29", "--namespace", "shop")));
  await loaded((found) => found.length === 1);
  expect((await plugins(proxy))[0]?.name).toMatch(/^shop\.meshseal/);
  expect(await send(20, "/by-wasm-plugin")).toEqual(ok(20));
  await until(
    async () => (await counted()) >= 20,
    () => proxy.log().slice(-1000),
  );
  await receipted(proxy, 20);
});

test("enforced for one namespace brings the build that can refuse", async () => {
  await istio.apply(base + (await init("--namespace", "shop=enforced")));
  await loaded((found) => found[0]?.settings?.["delivery"] === "enforced");
  expect(await send(5)).toEqual(ok(5));
  // What is not receipted when a plugin is taken away is lost with its VM.
  await receipted(proxy, 5);
});

test.each([
  [
    "a digest that is another's",
    /sha256: "[0-9a-f]{64}"/,
    `sha256: "${"0".repeat(64)}"`,
    "the filter is loaded",
    "could not fetch the module and refuses every request",
  ],
  [
    "a cluster that is not there",
    /outbound\|7700/,
    "outbound|7701",
    "the exporter's cluster",
    'no cluster "outbound|7701||',
  ],
  [
    "a namespace that is another's",
    /namespace: shop/,
    "namespace: bank",
    "the filter is loaded",
    "no listener of this Envoy has a Meshseal filter",
  ],
  [
    "settings that the filter refuses",
    /delivery: "bounded-loss"/,
    'delivery: "always"',
    "the filter is loaded",
    "Envoy refused an update of it",
  ],
  [
    "FAIL_OPEN",
    /failStrategy: FAIL_RELOAD/,
    "failStrategy: FAIL_OPEN",
    "what happens after a trap",
    "after one trap a worker lets every request through unrecorded",
  ],
])("doctor names %s", async (_what, from, to, check, sentence) => {
  const manifest = await init("--namespace", "shop");
  expect(manifest).toMatch(from);
  await istio.apply(base + manifest.replace(from, to));
  let said: Record<string, string> = {};
  await until(
    async () => {
      await send(1).catch(() => undefined);
      said = await diagnose();
      return said[check]?.includes(sentence) === true;
    },
    () => JSON.stringify(said, null, 1),
  );
  await remove();
});

test("then all of it is in the log, and nothing that came after a removal", async () => {
  await proxy.stop();
  await exporter.stop();
  const report = await checkLog(exporter.dir);
  expect(report.gaps.count).toBe(0);
  const paths = entriesOf(exporter.dir).map((entry) =>
    Buffer.from(bytesOf(entry, F_PATH) ?? []).toString(),
  );
  const under = (prefix: string): number => paths.filter((path) => path.startsWith(prefix)).length;
  expect(under("/cart")).toBeGreaterThanOrEqual(45);
  expect(under("/by-wasm-plugin")).toBe(20);
  expect(under("/by-the-gateway")).toBe(10);
  expect(under("/after-the-removal")).toBe(0);
});
