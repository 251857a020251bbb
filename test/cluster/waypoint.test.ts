/**
 * A waypoint of an ambient mesh with traffic: istiod configures it, Istio's agent starts it, and requests come as ztunnel sends
 * them, by CONNECT in mutual TLS (HBONE). Who called is known from the tunnel only.
 */

import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { connect } from "node:http2";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { initCommand } from "../../exporter/cli/init.ts";
import { pushCommand } from "../../exporter/cli/push.ts";
import { runChecks } from "../../exporter/doctor/check.ts";
import { meshChecks } from "../../exporter/doctor/mesh.ts";
import { findPlugins } from "../../exporter/doctor/plugins.ts";
import { bytesOf, uintOf } from "../../record/codec.ts";
import { F_PATH, F_PEER_AUTH, F_PEER_PRINCIPAL, PEER_TUNNEL } from "../../record/fields.ts";
import { type Service, scratchDir, startRegistry } from "../support/control-plane.ts";
import { helm } from "../support/helm.ts";
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
import { type RunningEnvoy, receipted, until } from "../support/run-envoy.ts";

const PORT = 8080;
const WAYPOINT: Pod = {
  namespace: "shop",
  name: "waypoint-1",
  serviceAccount: "waypoint",
  labels: { "gateway.networking.k8s.io/gateway-name": "waypoint" },
  ip: "10.77.0.13",
};
const CART: Pod = {
  namespace: "shop",
  name: "cart-1",
  serviceAccount: "cart",
  labels: { app: "cart" },
  ip: "10.77.0.14",
};

const scratch = scratchDir("waypoint");
const at = (name: string): string => join(scratch.dir, name);
const stops: (() => unknown)[] = [];
let istio: Istio;
let registry: Service;
let exporter: Process;
let waypoint: RunningEnvoy;
let vip = "";

function apply(...objects: object[]): void {
  for (const object of objects) {
    const { status, out } = istio.api.kubectl(["apply", "-f", "-"], JSON.stringify(object));
    expect(status, out).toBe(0);
  }
}

const service = (name: string, spec: object, labels = {}): object => ({
  apiVersion: "v1",
  kind: "Service",
  metadata: { namespace: "shop", name, labels },
  spec,
});

/** Istio's own Envoy has filters for the metadata of peers at a waypoint; a plain Envoy has not. */
const WITHOUT_METADATA = {
  apiVersion: "networking.istio.io/v1alpha3",
  kind: "EnvoyFilter",
  metadata: { namespace: "shop", name: "plain-envoy" },
  spec: {
    targetRefs: [{ group: "gateway.networking.k8s.io", kind: "Gateway", name: "waypoint" }],
    configPatches: ["waypoint_downstream_peer_metadata", "waypoint_upstream_peer_metadata"].map(
      (name) => ({
        applyTo: "HTTP_FILTER",
        match: {
          listener: {
            filterChain: {
              filter: {
                name: "envoy.filters.network.http_connection_manager",
                subFilter: { name },
              },
            },
          },
        },
        patch: { operation: "REMOVE" },
      }),
    ),
  },
};

/** One request to the Service's address, through the waypoint, with web's workload certificate. */
async function send(path: string): Promise<string> {
  const pem = (name: string): Buffer => readFileSync(at(`web/${name}`));
  const session = connect(`https://${WAYPOINT.ip}:15008`, {
    cert: pem("cert-chain.pem"),
    key: pem("key.pem"),
    ca: pem("root-cert.pem"),
    // A workload has a SPIFFE name and no host name.
    checkServerIdentity: () => undefined,
  });
  try {
    await new Promise((done, failed) => session.once("connect", done).once("error", failed));
    const tunnel = session.request({ ":method": "CONNECT", ":authority": `${vip}:${PORT}` });
    const opened = once(tunnel, "response");
    // An end of ours would close the tunnel before the answer, and an end of theirs is a reset.
    tunnel.write(`GET ${path} HTTP/1.1\r\nhost: cart.shop\r\n\r\n`);
    const [headers] = (await opened) as [Record<string, unknown>];
    let said = headers[":status"] === 200 ? "" : `CONNECT: ${headers[":status"]}\n`;
    for await (const part of tunnel) {
      said += String(part);
      if (said.includes("\r\n\r\n")) break;
    }
    return said;
  } finally {
    session.destroy();
  }
}

async function until200(path: string): Promise<void> {
  let said = "";
  await until(
    async () => {
      said = await send(path).catch(String);
      return said.startsWith("HTTP/1.1 200");
    },
    () => `${said}\n${waypoint.log()}\n${istio.log()}`,
  );
}

beforeAll(async () => {
  for (const name of ["web", "waypoint"]) mkdirSync(at(name), { recursive: true });
  istio = await startIstio(scratch.dir, ["shop"], {
    env: {
      PILOT_ENABLE_AMBIENT: "true",
      PILOT_ENABLE_GATEWAY_API_DEPLOYMENT_CONTROLLER: "false",
    },
  });
  stops.push(istio.stop);
  registry = await startRegistry();
  stops.push(registry.stop);
  const reference = `oci://${registry.address}/team/meshseal-filter`;
  await pushCommand().parseAsync([reference, "--json"], { from: "user" });
  helm(istio.api, "install", "meshseal", "deploy/helm/meshseal", "--set", "senders=anonymous");
  const upstream: Server = createServer((_asked, answer) => answer.end("ok\n"));
  await new Promise<void>((done) => upstream.listen(PORT, CART.ip, done));
  stops.push(() => upstream.close());
  apply(
    service(
      "cart",
      { selector: CART.labels, ports: [{ name: "http", port: PORT }] },
      { "istio.io/use-waypoint": "waypoint" },
    ),
    service("waypoint", {
      selector: WAYPOINT.labels,
      ports: [{ name: "mesh", port: 15008, appProtocol: "hbone" }],
    }),
    {
      apiVersion: "gateway.networking.k8s.io/v1",
      kind: "Gateway",
      metadata: { namespace: "shop", name: "waypoint" },
      spec: {
        gatewayClassName: "istio-waypoint",
        listeners: [{ name: "mesh", port: 15008, protocol: "HBONE" }],
      },
    },
    WITHOUT_METADATA,
  );
  vip = istio.api.kubectl([
    ...["get", "service", "cart", "-n", "shop", "-o", "jsonpath={.spec.clusterIP}"],
  ]).out;
  for (const pod of [CART, WEB, WAYPOINT]) makePod(istio.api, pod, false);
  makeEndpoints(istio.api, CART, "cart", [{ name: "http", port: PORT }]);
  makeEndpoints(istio.api, WAYPOINT, "waypoint", [{ name: "mesh", port: 15008 }]);
  exporter = await startExporterPod(scratch.dir, istio.api, EXPORTER);
  stops.push(exporter.stop);
  // Only for its certificate: this Pod has no sidecar in an ambient mesh.
  const web = await startAgent(at("web"), istio, WEB);
  await web.stop();
  waypoint = await startAgent(at("waypoint"), istio, WAYPOINT, "waypoint");
  stops.push(waypoint.stop);
}, 900_000);

afterAll(async () => {
  for (const stop of stops.reverse()) await stop();
  scratch.remove();
}, 300_000);

test("a waypoint passes requests before there is a filter", async () => {
  await until200("/before");
}, 120_000);

test("what init writes for a waypoint records there, and doctor is content", async () => {
  let manifest = "";
  const command = initCommand((printed) => {
    manifest += printed;
  });
  const image = ["--image", `oci://${registry.address}/team/meshseal-filter`];
  await command.parseAsync(["istio", ...image, "--gateway", "shop/waypoint"], { from: "user" });
  writeFileSync(at("meshseal.yaml"), manifest);
  const applied = istio.api.kubectl(["apply", "-f", at("meshseal.yaml")]);
  expect(applied.status, applied.out).toBe(0);
  await until(
    async () => findPlugins(JSON.parse(await waypoint.page("/config_dump"))).length === 1,
    () => `${waypoint.log()}\n${istio.log()}`,
  );
  await until200("/settling");
  for (let i = 0; i < 20; i++) expect(await send(`/by-waypoint/${i}`)).toMatch(/^HTTP\/1.1 200/);
  await receipted(waypoint, 20);
  const results = await runChecks(await meshChecks({ envoy: waypoint.admin, watchMs: 5000 }));
  expect(results.filter(({ status }) => status === "bad" || status === "unknown")).toEqual([]);
}, 180_000);

test("then each entry says who called, and that the tunnel says so", async () => {
  await waypoint.stop();
  await exporter.stop();
  const report = await checkLog(at("data"));
  expect(report.gaps.count).toBe(0);
  const found = entriesOf(at("data")).filter((entry) =>
    Buffer.from(bytesOf(entry, F_PATH) ?? [])
      .toString()
      .startsWith("/by-waypoint/"),
  );
  expect(found).toHaveLength(20);
  for (const entry of found) {
    const peer = Buffer.from(bytesOf(entry, F_PEER_PRINCIPAL) ?? []).toString();
    expect(peer).toBe("spiffe://cluster.local/ns/shop/sa/web");
    expect(uintOf(entry, F_PEER_AUTH)).toBe(PEER_TUNNEL);
  }
}, 120_000);
