/**
 * The README's part about Istio on the real components: its commands as they stand there, against etcd, an API server and
 * istiod. Where a Pod would start, the test starts its command: the exporter's, Istio's agents' and their Envoys'.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { join } from "node:path";
import { request } from "undici";
import { afterAll, beforeAll, expect, test } from "vitest";
import { runChecks } from "../../exporter/doctor/check.ts";
import { meshChecks } from "../../exporter/doctor/mesh.ts";
import { findPlugins } from "../../exporter/doctor/plugins.ts";
import { bytesOf } from "../../record/codec.ts";
import { F_LOCAL_PRINCIPAL, F_PATH, F_PEER_PRINCIPAL, F_SENDER_NAME } from "../../record/fields.ts";
import { type Service, scratchDir, startRegistry } from "../support/control-plane.ts";
import { goTool } from "../support/go-tools.ts";
import { type Istio, startAgent, startIstio } from "../support/istiod.ts";
import {
  EXPORTER,
  makeEndpoints,
  makePod,
  type Pod,
  startExporterPod,
  WEB,
} from "../support/kubelet.ts";
import { checkLog, entriesOf } from "../support/log.ts";
import type { Process } from "../support/process.ts";
import { commandsUnder } from "../support/readme.ts";
import { type RunningEnvoy, receipted, until } from "../support/run-envoy.ts";

const ROOT = new URL("../../", import.meta.url).pathname;
const PORT = 8080;

const CART: Pod = {
  namespace: "shop",
  name: "cart-1",
  serviceAccount: "cart",
  labels: { app: "cart" },
  ip: "10.77.0.11",
};

const scratch = scratchDir("istiod");
const at = (name: string): string => join(scratch.dir, name);
const stops: (() => unknown)[] = [];
let registry: Service;
let istio: Istio;
let exporter: Process;
let own: RunningEnvoy;
let cart: RunningEnvoy;
let web: RunningEnvoy;

function apply(...objects: object[]): void {
  for (const object of objects) {
    const { status, out } = istio.api.kubectl(["apply", "-f", "-"], JSON.stringify(object));
    expect(status, out).toBe(0);
  }
}

/** A line as a person types it, with helm, kubectl and KUBECONFIG at hand. */
function shell(line: string): string {
  const { status, stdout, stderr } = spawnSync("bash", ["-c", line], {
    cwd: ROOT,
    encoding: "utf8",
    env: {
      ...process.env,
      KUBECONFIG: istio.api.kubeconfig,
      PATH: `${at("bin")}:${process.env["PATH"]}`,
    },
  });
  expect(status, `${line}\n${stdout}${stderr}`).toBe(0);
  return `${stdout}${stderr}`;
}

/** The README's lines, with this test's registry and file. */
const README = (): string[] =>
  commandsUnder("In Istio").map((line) =>
    line
      .replace("registry.example", registry.address)
      .replace("meshseal.yaml", at("meshseal.yaml")),
  );

function sidecar(pod: Pod, spec: object): object {
  return {
    apiVersion: "networking.istio.io/v1",
    kind: "Sidecar",
    metadata: { namespace: pod.namespace, name: pod.labels["app"] },
    spec: { workloadSelector: { labels: pod.labels }, ...spec },
  };
}

async function send(count: number, path = "/cart"): Promise<number[]> {
  const statuses: number[] = [];
  for (let i = 0; i < count; i++) {
    // From the application beside web's sidecar to cart: mutual TLS from sidecar to sidecar.
    const answer = await request(`http://${WEB.ip}:${PORT}${path}/${i}`, {
      headers: { host: `cart.shop.svc.cluster.local:${PORT}` },
      reset: true,
    });
    await answer.body.dump();
    statuses.push(answer.statusCode);
  }
  return statuses;
}

const ok = (count: number): number[] => Array.from({ length: count }, () => 200);

const plugins = async (proxy: RunningEnvoy): Promise<ReturnType<typeof findPlugins>> =>
  findPlugins(JSON.parse(await proxy.page("/config_dump")));

async function loaded(isSo: (found: ReturnType<typeof findPlugins>) => boolean): Promise<void> {
  let found: ReturnType<typeof findPlugins> = [];
  await until(
    async () => {
      found = await plugins(cart);
      return isSo(found);
    },
    () => `${JSON.stringify(found)}\n${cart.log()}\n${istio.log()}`,
  );
  await until(
    async () => (await send(1, "/settling").catch(() => [0]))[0] === 200,
    () => `${cart.log()}\n${web.log()}`,
  );
}

async function counted(): Promise<number> {
  const name = "wasmcustom.meshseal_requests";
  return (await cart.stats(`^${name}$`)).get(name) ?? 0;
}

async function diagnose(): Promise<string[]> {
  const results = await runChecks(
    await meshChecks({
      envoy: cart.admin,
      exporter: `http://${EXPORTER.ip}:7701`,
      manifest: [at("meshseal.yaml")],
      watchMs: 5000,
    }),
  );
  return results.map(({ name, status, message }) => `${name}: ${status}: ${message}`);
}

beforeAll(async () => {
  for (const name of ["bin", "own", "cart", "web"]) mkdirSync(at(name), { recursive: true });
  symlinkSync(goTool("helm"), at("bin/helm"));
  symlinkSync(goTool("kubectl"), at("bin/kubectl"));
  // The stricter of the two: what is in no registry is not reached. The waypoint's test has the other.
  istio = await startIstio(scratch.dir, ["shop"], {
    mesh: { outboundTrafficPolicy: { mode: "REGISTRY_ONLY" } },
  });
  stops.push(istio.stop);
  registry = await startRegistry();
  stops.push(registry.stop);
}, 1_800_000);

afterAll(async () => {
  for (const stop of stops.reverse()) await stop();
  scratch.remove();
}, 300_000);

test("the README's commands, word by word", async () => {
  const done: string[] = [];
  for (const line of README()) {
    const said = shell(line);
    done.push(`${line.split(" ")[0]} ${said.trim().split("\n")[0]}`);
  }
  expect(done[0]).toContain("NAME: meshseal");
  expect(done.at(-1)).toBe("kubectl trafficextension.extensions.istio.io/meshseal created");
}, 300_000);

test("the Pods that would start now: the exporter behind its own sidecar, and two of a shop", async () => {
  const upstream: Server = createServer((_asked, answer) => answer.end("ok\n"));
  await new Promise<void>((done) => upstream.listen(PORT, "127.0.0.1", done));
  stops.push(() => upstream.close());
  apply(
    {
      apiVersion: "security.istio.io/v1",
      kind: "PeerAuthentication",
      metadata: { namespace: "istio-system", name: "default" },
      spec: { mtls: { mode: "STRICT" } },
    },
    {
      apiVersion: "v1",
      kind: "Service",
      metadata: { namespace: "shop", name: "cart" },
      spec: { selector: CART.labels, ports: [{ name: "http", port: PORT }] },
    },
    // No packets are redirected here: these say which ports the sidecars bind.
    sidecar(CART, {
      ingress: [
        {
          port: { number: PORT, protocol: "HTTP", name: "http" },
          bind: CART.ip,
          defaultEndpoint: `127.0.0.1:${PORT}`,
        },
      ],
      egress: [{ hosts: ["*/*"] }],
    }),
    sidecar(WEB, {
      egress: [
        {
          port: { number: PORT, protocol: "HTTP", name: "http" },
          bind: WEB.ip,
          captureMode: "NONE",
          hosts: ["*/*"],
        },
      ],
    }),
  );
  // The same for the chart's own, which needs no `bind` where packets are redirected.
  const bound = istio.api.kubectl([
    ...["patch", "sidecars.networking.istio.io", "meshseal", "-n", EXPORTER.namespace],
    ...["--type", "json", "-p"],
    JSON.stringify([{ op: "add", path: "/spec/ingress/0/bind", value: EXPORTER.ip }]),
  ]);
  expect(bound.status, bound.out).toBe(0);
  makePod(istio.api, CART);
  makeEndpoints(istio.api, CART, "cart", [{ name: "http", port: PORT }]);
  makePod(istio.api, WEB);
  exporter = await startExporterPod(scratch.dir, istio.api, EXPORTER);
  stops.push(exporter.stop);
  own = await startAgent(at("own"), istio, EXPORTER);
  stops.push(own.stop);
  cart = await startAgent(at("cart"), istio, CART);
  stops.push(cart.stop);
  web = await startAgent(at("web"), istio, WEB);
  stops.push(web.stop);
  await until(
    async () => (await send(1).catch(() => [0]))[0] === 200,
    () => `${cart.log()}\n${web.log()}`,
  );
}, 300_000);

test("every request is an entry, with the caller's identity from its workload certificate", async () => {
  await loaded((found) => found.length === 1);
  expect((await plugins(cart))[0]?.name).toBe("istio-system.meshseal");
  expect(await plugins(web)).toEqual([]);
  expect(await plugins(own)).toEqual([]);
  expect(await send(30, "/identity")).toEqual(ok(30));
  await receipted(cart, await counted());
});

test("doctor has nothing to say about a sidecar that Istio's agent started", async () => {
  const said = await diagnose();
  // The health address, which has no entries in it, is the one that speaks plain HTTP.
  expect(said.filter((line) => !/: good: /.test(line))).toEqual([
    expect.stringMatching(
      /^the exporter's certificate: warning: plain HTTP: right behind a sidecar/,
    ),
  ]);
  expect(said.join("\n")).toMatch(/every request is an entry: good: Envoy forwarded \d+ requests/);
});

test("an update that is applied reaches the sidecar, and a removal ends the recording", async () => {
  rmSync(at("meshseal.yaml"));
  const [init = ""] = README().filter((line) => line.includes(" init "));
  const line = (words: string): string => README().find((one) => one.includes(words)) ?? "";
  shell(`${init} --delivery best-effort`);
  expect(shell(line("kubectl apply"))).toContain("meshseal configured");
  await loaded((found) => found[0]?.settings?.["delivery"] === "best-effort");
  expect(await send(10, "/updated")).toEqual(ok(10));
  await receipted(cart, await counted());
  shell(`kubectl delete -f ${at("meshseal.yaml")}`);
  await loaded((found) => found.length === 0);
  expect(await send(5, "/removed")).toEqual(ok(5));
});

test("a WasmPlugin for releases before 1.30 goes the same way", async () => {
  rmSync(at("meshseal.yaml"));
  const [init = ""] = README().filter((line) => line.includes(" init "));
  shell(`${init} --istio-version 1.29`);
  expect(shell(`kubectl apply -f ${at("meshseal.yaml")}`)).toContain(
    "wasmplugin.extensions.istio.io/meshseal created",
  );
  await loaded((found) => found.length === 1);
  expect(await plugins(own)).toEqual([]);
  const before = await counted();
  expect(await send(20, "/by-wasm-plugin")).toEqual(ok(20));
  await until(
    async () => (await counted()) >= before + 20,
    () => cart.log(),
  );
  await receipted(cart, await counted());
  shell(`kubectl delete -f ${at("meshseal.yaml")}`);
  await loaded((found) => found.length === 0);
});

test("then all of it is in the log, and verified", async () => {
  for (const proxy of [web, cart, own]) await proxy.stop();
  expect(await exporter.stop()).toBe(0);
  const report = await checkLog(at("data"));
  expect(report.gaps.count).toBe(0);
  const entries = entriesOf(at("data"));
  const text = (entry: (typeof entries)[number], field: number): string =>
    Buffer.from(bytesOf(entry, field) ?? []).toString();
  const under = (prefix: string): typeof entries =>
    entries.filter((entry) => text(entry, F_PATH).startsWith(prefix));
  expect(under("/identity")).toHaveLength(30);
  expect(under("/updated")).toHaveLength(10);
  expect(under("/by-wasm-plugin")).toHaveLength(20);
  expect(under("/removed")).toHaveLength(0);
  for (const entry of under("/identity")) {
    expect(text(entry, F_PEER_PRINCIPAL)).toBe("spiffe://cluster.local/ns/shop/sa/web");
    expect(text(entry, F_LOCAL_PRINCIPAL)).toBe("spiffe://cluster.local/ns/shop/sa/cart");
  }
  // Each chain is bound to the workload that sent it, as the exporter's sidecar says.
  const senders = entries.map((entry) => text(entry, F_SENDER_NAME)).filter(Boolean);
  expect(new Set(senders)).toEqual(new Set(["spiffe://cluster.local/ns/shop/sa/cart"]));
  expect(readFileSync(at("data/log/checkpoint"), "utf8")).toMatch(
    /^meshseal-0\.meshseal\.meshseal-system\/meshseal\n/,
  );
});
