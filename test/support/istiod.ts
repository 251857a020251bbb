/**
 * Istio as a cluster runs it, in the network that `npm run test:cluster` makes: istiod with its certificate authority, reading an API server; and for each Pod that
 * a test makes, Istio's agent with an Envoy below it. There is no kubelet and no controller: the test does what they would.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { request } from "undici";
import { stringify } from "yaml";
import { findEnvoy } from "../../scripts/envoy.mjs";
import type { ApiServer } from "./api-server.ts";
import { freePort } from "./control-plane.ts";
import { goTool, moduleDir } from "./go-tools.ts";
import { type RunningEnvoy, runningEnvoy, until } from "./run-envoy.ts";

const ISTIOD_IP = "10.77.0.2";
const XDS = `${ISTIOD_IP}:15012`;

export type Istiod = {
  /** The authority's certificate, as istiod writes it into each namespace. */
  readonly root: string;
  readonly log: () => string;
  readonly stop: () => Promise<void>;
};

/** Starts istiod against this API server; `mesh` is its meshConfig. */
export async function startIstiod(dir: string, api: ApiServer, mesh: object): Promise<Istiod> {
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, "mesh.yaml"), stringify(mesh));
  const istiod = run(
    goTool("istiod"),
    [
      ...["discovery", "--kubeconfig", api.kubeconfig, "--registries", "Kubernetes"],
      ...["--meshConfig", join(dir, "mesh.yaml"), "--ctrlz_port", "0"],
      ...["--httpAddr", `${ISTIOD_IP}:8080`, "--httpsAddr", "", "--grpcAddr", ""],
      ...["--secureGRPCAddr", XDS, "--monitoringAddr", `${ISTIOD_IP}:15014`],
    ],
    dir,
    {
      POD_NAME: "istiod-0",
      POD_NAMESPACE: "istio-system",
      VALIDATION_WEBHOOK_CONFIG_NAME: "",
      INJECTION_WEBHOOK_CONFIG_NAME: "",
      // A plain Envoy has none of Istio's own filters.
      PILOT_ENABLE_ALPN_FILTER: "false",
      PILOT_ENABLE_METADATA_EXCHANGE: "false",
    },
  );
  let root = "";
  await until(
    async () => {
      const ready = await request(`http://${ISTIOD_IP}:8080/ready`).catch(() => null);
      await ready?.body.dump();
      const config = api.kubectl([
        ...["get", "configmap", "istio-ca-root-cert", "-n", "istio-system"],
        ...["-o", "jsonpath={.data.root-cert\\.pem}"],
      ]);
      root = config.status === 0 ? config.out : "";
      return ready?.statusCode === 200 && root !== "";
    },
    () => istiod.said(),
  );
  return { root, log: istiod.said, stop: istiod.stop };
}

export type Pod = {
  readonly namespace: string;
  readonly name: string;
  readonly serviceAccount: string;
  readonly labels: Readonly<Record<string, string>>;
  /** An address that is its own, of 10.77.0.10 to 15. */
  readonly ip: string;
};

/** Makes the Pod and its service account, as a controller would, and says that it runs, as a kubelet would. */
export function makePod(api: ApiServer, pod: Pod): void {
  const { namespace, name, ip, labels, serviceAccount } = pod;
  const account = { apiVersion: "v1", kind: "ServiceAccount" };
  const must = (args: readonly string[], input?: object): void => {
    const { status, out } = api.kubectl(args, input && JSON.stringify(input));
    if (status !== 0) throw new Error(`kubectl ${args.join(" ")}: ${out}`);
  };
  must(["apply", "-f", "-"], { ...account, metadata: { namespace, name: serviceAccount } });
  must(["apply", "-f", "-"], {
    apiVersion: "v1",
    kind: "Pod",
    // What the injector adds: with it other sidecars speak mutual TLS to this one.
    metadata: { namespace, name, labels: { ...labels, "security.istio.io/tlsMode": "istio" } },
    spec: {
      serviceAccountName: serviceAccount,
      nodeName: "node-1",
      containers: [{ name: "app", image: "app" }],
    },
  });
  const status = {
    phase: "Running",
    podIP: ip,
    podIPs: [{ ip }],
    conditions: [{ type: "Ready", status: "True" }],
  };
  must([
    ...["patch", "pod", name, "-n", namespace, "--subresource", "status"],
    ...["--type", "merge", "-p", JSON.stringify({ status })],
  ]);
}

/** What the endpoint controller makes of a Service and a Pod that is ready: one address for each of its ports. */
export function makeEndpoints(
  api: ApiServer,
  pod: Pod,
  service: string,
  ports: readonly { name: string; port: number }[],
): void {
  const { status, out } = api.kubectl(
    ["apply", "-f", "-"],
    JSON.stringify({
      apiVersion: "discovery.k8s.io/v1",
      kind: "EndpointSlice",
      metadata: {
        name: `${service}-1`,
        namespace: pod.namespace,
        labels: { "kubernetes.io/service-name": service },
      },
      addressType: "IPv4",
      endpoints: [
        {
          addresses: [pod.ip],
          conditions: { ready: true },
          targetRef: { kind: "Pod", namespace: pod.namespace, name: pod.name },
        },
      ],
      ports: ports.map(({ name, port }) => ({ name, port, protocol: "TCP" })),
    }),
  );
  if (status !== 0) throw new Error(out);
}

/**
 * Starts what the container istio-proxy starts: Istio's agent, which gets a certificate from istiod for its service account's
 * token, fetches modules, and starts Envoy with Istio's own bootstrap.
 */
export async function startAgent(
  dir: string,
  api: ApiServer,
  istiod: Istiod,
  pod: Pod,
  kind: "sidecar" | "router" | "waypoint" = "sidecar",
): Promise<RunningEnvoy> {
  const { namespace, name, ip, labels, serviceAccount } = pod;
  const token = api.kubectl([
    ...["create", "token", serviceAccount, "-n", namespace, "--audience", "istio-ca"],
  ]);
  if (token.status !== 0) throw new Error(token.out);
  const put = (path: string, text: string): void => {
    mkdirSync(join(dir, path, ".."), { recursive: true });
    writeFileSync(join(dir, path), text, { mode: 0o600 });
  };
  put("var/run/secrets/tokens/istio-token", token.out.trim());
  put("var/run/secrets/istio/root-cert.pem", istiod.root);
  put(
    "etc/istio/pod/labels",
    Object.entries(labels)
      .map(([key, value]) => `${key}=${JSON.stringify(value)}\n`)
      .join(""),
  );
  // Istio's own bootstrap; its two listeners for probes stay at the Pod's address.
  put("bootstrap.json", bootstrap().replaceAll("{{ .wildcard }}", ip));
  const adminPort = await freePort();
  const agent = run(
    goTool("istio-agent"),
    [
      ...["proxy", kind, "--domain", `${namespace}.svc.cluster.local`, "--log_target", "stderr"],
      ...["--proxyLogLevel", "warning,wasm:info", "--templateFile", join(dir, "bootstrap.json")],
    ],
    dir,
    {
      POD_NAME: name,
      POD_NAMESPACE: namespace,
      SERVICE_ACCOUNT: serviceAccount,
      INSTANCE_IP: ip,
      ISTIO_META_CLUSTER_ID: "Kubernetes",
      // No packets are redirected here: each listener binds its own port.
      ISTIO_META_INTERCEPTION_MODE: "NONE",
      ISTIOD_SAN: "istiod.istio-system.svc",
      // Otherwise it asks the addresses where clouds keep their metadata.
      CLOUD_PLATFORM: "none",
      MINIMUM_DRAIN_DURATION: "1s",
      PROXY_CONFIG: stringify({
        discoveryAddress: XDS,
        binaryPath: await findEnvoy({ version: "1.40" }),
        configPath: "./etc/istio/proxy",
        proxyAdminPort: adminPort,
        statusPort: await freePort(),
        concurrency: 1,
        // How long a listener that was replaced lives on: 45 s where nothing is said.
        drainDuration: "2s",
        terminationDrainDuration: "2s",
      }),
    },
  );
  const admin = `http://127.0.0.1:${adminPort}`;
  await until(
    async () => {
      if (agent.hasEnded()) throw new Error(`the agent of ${name} ended: ${agent.said()}`);
      const ready = await request(`${admin}/ready`).catch(() => null);
      await ready?.body.dump();
      return ready?.statusCode === 200;
    },
    () => agent.said(),
  );
  return runningEnvoy(admin, agent.said, agent.stop);
}

/** From the module that the programs are built from. */
function bootstrap(): string {
  const module = moduleDir("istio.io/istio", "istio");
  return readFileSync(join(module, "tools/packaging/common/envoy_bootstrap.json"), "utf8");
}

type Process = {
  readonly said: () => string;
  readonly hasEnded: () => boolean;
  readonly stop: () => Promise<void>;
};

function run(
  command: string,
  args: readonly string[],
  cwd: string,
  env: Readonly<Record<string, string>>,
): Process {
  const child: ChildProcess = spawn(command, args, {
    cwd,
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const lines: string[] = [];
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding("utf8").on("data", (text: string) => lines.push(text));
  const ended = new Promise<void>((resolve) => {
    child.once("exit", () => resolve());
    child.once("error", () => resolve());
  });
  return {
    said: () => lines.join("").slice(-6000),
    hasEnded: () => child.exitCode !== null || child.signalCode !== null,
    stop: () => {
      child.kill("SIGTERM");
      return ended;
    },
  };
}
