/** Istio's control plane without Kubernetes, a registry, and an Envoy between them: what stands around the filter in a mesh. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { goTool } from "./go-tools.ts";
import { type RunningEnvoy, runEnvoy, until } from "./run-envoy.ts";

export type Service = { readonly address: string; readonly stop: () => Promise<void> };

/** A registry in memory. */
export function startRegistry(): Promise<Service> {
  return start(["registry"], "registry on ").then(({ address, stop }) => ({ address, stop }));
}

export type ControlPlane = Service & {
  /** Makes `resources` what Istio holds, and resolves when it has read them. */
  readonly apply: (resources: string) => Promise<void>;
  readonly log: () => string;
};

/** `kube`: Services and their endpoints; `mesh`: meshConfig; `resources`: Istio's own. All YAML. */
export async function startControlPlane(
  dir: string,
  config: { kube: string; mesh: string; resources: string },
): Promise<ControlPlane> {
  const files = {
    config: join(dir, "config.yaml"),
    kube: join(dir, "kube.yaml"),
    mesh: join(dir, "mesh.yaml"),
  };
  const modules = join(dir, "modules");
  mkdirSync(modules, { recursive: true });
  writeFileSync(files.config, config.resources);
  writeFileSync(files.kube, config.kube);
  writeFileSync(files.mesh, config.mesh);
  const args = [
    "xds",
    "--config",
    files.config,
    "--kube",
    files.kube,
    "--mesh",
    files.mesh,
    "--modules",
    modules,
  ];
  const { address, stop, lines, said } = await start(args, "xds on ");
  return {
    address,
    stop,
    log: () => said.join("\n"),
    apply: async (resources) => {
      const before = lines.length;
      writeFileSync(`${files.config}.new`, resources);
      renameSync(`${files.config}.new`, files.config);
      await until(
        () => lines.slice(before).some((line) => line.startsWith("config ")),
        () => said.slice(-10).join("\n"),
      );
    },
  };
}

/** An Envoy that Istio configures: `workload` is its labels, by which plugins choose it. */
export async function startProxy(
  dir: string,
  xds: string,
  workload: {
    readonly namespace: string;
    readonly name: string;
    readonly labels: Readonly<Record<string, string>>;
    readonly kind?: "sidecar" | "router";
  },
): Promise<RunningEnvoy> {
  mkdirSync(dir, { recursive: true });
  const { namespace, name, labels, kind = "sidecar" } = workload;
  const [host, port] = xds.split(":");
  const bootstrap = {
    admin: { address: { socket_address: { address: "127.0.0.1", port_value: 0 } } },
    node: {
      id: `${kind}~127.0.0.1~${name}.${namespace}~${namespace}.svc.cluster.local`,
      cluster: `${name}.${namespace}`,
      metadata: {
        NAMESPACE: namespace,
        LABELS: labels,
        ISTIO_VERSION: "1.31.0",
        INTERCEPTION_MODE: "NONE",
        CLUSTER_ID: "Kubernetes",
      },
    },
    dynamic_resources: {
      ads_config: {
        api_type: "GRPC",
        transport_api_version: "V3",
        grpc_services: [{ envoy_grpc: { cluster_name: "xds" } }],
      },
      lds_config: { ads: {}, resource_api_version: "V3" },
      cds_config: { ads: {}, resource_api_version: "V3" },
    },
    static_resources: {
      clusters: [
        {
          name: "xds",
          type: "STATIC",
          typed_extension_protocol_options: {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
              "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
              explicit_http_config: { http2_protocol_options: {} },
            },
          },
          load_assignment: {
            cluster_name: "xds",
            endpoints: [
              {
                lb_endpoints: [
                  {
                    endpoint: {
                      address: { socket_address: { address: host, port_value: Number(port) } },
                    },
                  },
                ],
              },
            ],
          },
        },
      ],
    },
  };
  const file = join(dir, "envoy.json");
  writeFileSync(file, JSON.stringify(bootstrap));
  return runEnvoy(file, dir);
}

/** A port of loopback that nothing listens on. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

export function scratchDir(name: string): { dir: string; remove: () => void } {
  const dir = mkdtempSync(join(tmpdir(), `meshseal-${name}-`));
  return { dir, remove: () => rmSync(dir, { recursive: true, force: true }) };
}

async function start(
  args: readonly string[],
  word: string,
): Promise<Service & { lines: string[]; said: string[] }> {
  const child: ChildProcess = spawn(goTool("meshseal-istio"), args, {
    // Its end of stdin tells it that the test is over, whatever happened to the test.
    stdio: ["pipe", "pipe", "pipe"],
    // A plain Envoy has none of Istio's own filters.
    env: {
      ...process.env,
      PILOT_ENABLE_ALPN_FILTER: "false",
      PILOT_ENABLE_METADATA_EXCHANGE: "false",
    },
  });
  const lines: string[] = [];
  const said: string[] = [];
  if (child.stdout === null || child.stderr === null) throw new Error("no pipes");
  createInterface({ input: child.stdout }).on("line", (line) => {
    lines.push(line);
    said.push(line);
  });
  createInterface({ input: child.stderr }).on("line", (line) => said.push(line));
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  await until(
    () => child.exitCode !== null || lines.some((line) => line.startsWith(word)),
    () => said.slice(-20).join("\n"),
  );
  const address = lines.find((line) => line.startsWith(word))?.slice(word.length);
  if (address === undefined) throw new Error(`it ended: ${said.slice(-20).join("\n")}`);
  return {
    address,
    lines,
    said,
    stop: async () => {
      child.stdin?.end();
      await ended;
    },
  };
}
