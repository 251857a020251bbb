/**
 * The README's part about Istio on the real components: its commands as they stand there, against etcd, an API server and
 * istiod. Where a Pod would start, the test starts its command: the exporter's, Istio's agents' and their Envoys'.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { join } from "node:path";
import { request } from "undici";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parse } from "yaml";
import { runChecks } from "../../exporter/doctor/check.ts";
import { meshChecks } from "../../exporter/doctor/mesh.ts";
import { findPlugins } from "../../exporter/doctor/plugins.ts";
import { bytesOf } from "../../record/codec.ts";
import { F_LOCAL_PRINCIPAL, F_PATH, F_PEER_PRINCIPAL, F_SENDER_NAME } from "../../record/fields.ts";
import { type ApiServer, startApiServer } from "../support/api-server.ts";
import { compiledMain } from "../support/compiled.ts";
import { type Service, scratchDir, startRegistry } from "../support/control-plane.ts";
import { goTool } from "../support/go-tools.ts";
import {
  type Istiod,
  makeEndpoints,
  makePod,
  type Pod,
  startAgent,
  startIstiod,
} from "../support/istiod.ts";
import { checkLog, entriesOf } from "../support/log.ts";
import { commandsUnder } from "../support/readme.ts";
import { type RunningEnvoy, receipted, until } from "../support/run-envoy.ts";

const ROOT = new URL("../../", import.meta.url).pathname;
const PORT = 8080;

const EXPORTER: Pod = {
  namespace: "meshseal-system",
  name: "meshseal-0",
  serviceAccount: "meshseal",
  labels: { "app.kubernetes.io/name": "meshseal", "app.kubernetes.io/instance": "meshseal" },
  ip: "10.77.0.10",
};
const CART: Pod = {
  namespace: "shop",
  name: "cart-1",
  serviceAccount: "cart",
  labels: { app: "cart" },
  ip: "10.77.0.11",
};
const WEB: Pod = {
  namespace: "shop",
  name: "web-1",
  serviceAccount: "web",
  labels: { app: "web" },
  ip: "10.77.0.12",
};

const scratch = scratchDir("istiod");
const at = (name: string): string => join(scratch.dir, name);
const stops: (() => unknown)[] = [];
let api: ApiServer;
let registry: Service;
let istiod: Istiod;
let exporter: { stop: () => Promise<number | null>; said: () => string };
let own: RunningEnvoy;
let cart: RunningEnvoy;
let web: RunningEnvoy;

function apply(...objects: object[]): void {
  for (const object of objects) {
    const { status, out } = api.kubectl(["apply", "-f", "-"], JSON.stringify(object));
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
      KUBECONFIG: api.kubeconfig,
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
    () => `${JSON.stringify(found)}\n${cart.log()}\n${istiod.log()}`,
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
  api = await startApiServer(scratch.dir);
  stops.push(api.stop);
  // What istioctl installs: its CRDs are those that the API server gets.
  const generated = spawnSync(
    goTool("istioctl"),
    ["manifest", "generate", "--set", "profile=minimal"],
    { encoding: "utf8", maxBuffer: 1 << 26 },
  );
  writeFileSync(at("istio.yaml"), generated.stdout);
  const crds = generated.stdout
    .split(/^---$/m)
    .filter((text) => /^kind: CustomResourceDefinition$/m.test(text));
  expect(crds.length).toBeGreaterThan(10);
  const applied = api.kubectl(["apply", "--server-side", "-f", "-"], crds.join("---"));
  expect(applied.status, applied.out).toBe(0);
  const served = api.kubectl([
    ...["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"],
  ]);
  expect(served.status, served.out).toBe(0);
  for (const name of ["istio-system", "shop"])
    expect(api.kubectl(["create", "namespace", name]).status).toBe(0);
  registry = await startRegistry();
  stops.push(registry.stop);
  istiod = await startIstiod(at("istiod"), api, {
    rootNamespace: "istio-system",
    // Istio's own metrics need a filter that a plain Envoy has not.
    defaultProviders: {},
  });
  stops.push(istiod.stop);
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
  const bound = api.kubectl([
    ...["patch", "sidecars.networking.istio.io", "meshseal", "-n", EXPORTER.namespace],
    ...["--type", "json", "-p"],
    JSON.stringify([{ op: "add", path: "/spec/ingress/0/bind", value: EXPORTER.ip }]),
  ]);
  expect(bound.status, bound.out).toBe(0);
  const set = parse(
    api.kubectl(["get", "statefulset", "meshseal", "-n", "meshseal-system", "-o", "yaml"]).out,
  );
  const template = set.spec.template;
  makePod(api, { ...EXPORTER, labels: template.metadata.labels });
  makeEndpoints(api, EXPORTER, "meshseal", [
    { name: "http-batches", port: 7700 },
    { name: "http-health", port: 7701 },
  ]);
  makePod(api, CART);
  makeEndpoints(api, CART, "cart", [{ name: "http", port: PORT }]);
  makePod(api, WEB);
  exporter = await startContainer(template.spec.containers[0]);
  stops.push(exporter.stop);
  own = await startAgent(at("own"), api, istiod, EXPORTER);
  stops.push(own.stop);
  cart = await startAgent(at("cart"), api, istiod, CART);
  stops.push(cart.stop);
  web = await startAgent(at("web"), api, istiod, WEB);
  stops.push(web.stop);
  await until(
    async () => (await send(1).catch(() => [0]))[0] === 200,
    () => `${cart.log()}\n${web.log()}`,
  );
}, 300_000);

/** Runs what the container runs, with its settings file from the API server; only the two places are this test's own. */
async function startContainer(container: {
  args: string[];
  env: { name: string; value?: string }[];
}): Promise<typeof exporter> {
  const config = api.kubectl([
    ...["get", "configmap", "meshseal", "-n", "meshseal-system"],
    ...["-o", "jsonpath={.data.meshseal\\.json}"],
  ]);
  writeFileSync(at("meshseal.json"), config.out);
  const args = container.args.map((arg) => arg.replace("/config/", `${scratch.dir}/`));
  const env = Object.fromEntries(
    container.env.map(({ name, value }) => [
      name,
      value?.replace("$(POD_NAME)", EXPORTER.name) ?? EXPORTER.name,
    ]),
  );
  const places = ["--data", at("data"), "--health-listen", `${EXPORTER.ip}:7701`];
  const child: ChildProcess = spawn(process.execPath, [compiledMain(), ...args, ...places], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "inherit", "pipe"],
  });
  let said = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  const ended = new Promise<number | null>((done) => child.once("exit", (code) => done(code)));
  await until(
    () => said.includes('"msg":"listening"') || child.exitCode !== null,
    () => said,
  );
  return {
    said: () => said,
    stop: () => {
      child.kill("SIGTERM");
      return ended;
    },
  };
}

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
