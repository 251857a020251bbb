/**
 * Istio as a cluster runs it, in the network that `npm run test:cluster` makes: istiod with its certificate authority, reading an
 * API server; and for each Pod that a test makes, Istio's agent with an Envoy below it.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { request } from "undici";
import { stringify } from "yaml";
import { findEnvoy } from "../../scripts/envoy.mjs";
import { type ApiServer, startApiServer } from "./api-server.ts";
import { freePort } from "./control-plane.ts";
import { goTool, moduleDir } from "./go-tools.ts";
import type { Pod } from "./kubelet.ts";
import { run } from "./process.ts";
import { type RunningEnvoy, runningEnvoy, until } from "./run-envoy.ts";

const ISTIOD_IP = "10.77.0.2";
const XDS = `${ISTIOD_IP}:15012`;

export type Istio = {
  readonly api: ApiServer;
  /** The authority's certificate, as istiod writes it into each namespace. */
  readonly root: string;
  readonly log: () => string;
  readonly stop: () => Promise<void>;
};

export type IstioOptions = {
  /** istiod's environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** More of meshConfig. */
  readonly mesh?: object;
};

/** Starts an API server with Istio's CRDs as istioctl installs them, and istiod. */
export async function startIstio(
  dir: string,
  namespaces: readonly string[],
  { env = {}, mesh = {} }: IstioOptions = {},
): Promise<Istio> {
  const api = await startApiServer(dir);
  const must = (args: readonly string[], input?: string): void => {
    const { status, out } = api.kubectl(args, input);
    if (status !== 0) throw new Error(out);
  };
  const generated = spawnSync(
    goTool("istioctl"),
    ["manifest", "generate", "--set", "profile=minimal"],
    { encoding: "utf8", maxBuffer: 1 << 26 },
  );
  const crds = generated.stdout
    .split(/^---$/m)
    .filter((text) => /^kind: CustomResourceDefinition$/m.test(text));
  must(["apply", "--server-side", "-f", "-"], crds.join("---"));
  // The Gateway API's, of the release that this Istio is built with.
  const gateways = join(moduleDir("sigs.k8s.io/gateway-api", "istio"), "config/crd/standard");
  must(["apply", "--server-side", "-f", gateways]);
  must(["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
  for (const name of ["istio-system", ...namespaces]) must(["create", "namespace", name]);
  writeFileSync(
    join(dir, "mesh.yaml"),
    // Istio's own metrics need a filter that a plain Envoy has not.
    stringify({ rootNamespace: "istio-system", defaultProviders: {}, ...mesh }),
  );
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
      ...env,
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
  return {
    api,
    root,
    log: istiod.said,
    stop: async () => {
      await istiod.stop();
      await api.stop();
    },
  };
}

/**
 * Starts what the container istio-proxy starts: Istio's agent, which gets a certificate from istiod for its service account's
 * token, fetches modules, and starts Envoy with Istio's own bootstrap.
 */
export async function startAgent(
  dir: string,
  { api, root }: Istio,
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
  put("var/run/secrets/istio/root-cert.pem", root);
  put(
    "etc/istio/pod/labels",
    Object.entries(labels)
      .map(([key, value]) => `${key}=${JSON.stringify(value)}\n`)
      .join(""),
  );
  // Istio's own bootstrap; its two listeners for probes stay at the Pod's address, and what only Istio's Envoy has is left out.
  put(
    "bootstrap.json",
    bootstrap()
      .replaceAll("{{ .wildcard }}", ip)
      .replaceAll("{{- if .metadata_discovery }}", "{{- if false }}"),
  );
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
      // Newer ones keep a tunnel's peer in a class of Istio's own Envoy, older ones in Envoy's own text.
      ...(kind === "waypoint" ? { ISTIO_META_ISTIO_VERSION: "1.29.1" } : {}),
      // Where tests find the certificate.
      OUTPUT_CERTS: dir,
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
  return runningEnvoy(admin, agent.said, async () => {
    await agent.stop();
  });
}

/** From the module that the programs are built from. */
function bootstrap(): string {
  const module = moduleDir("istio.io/istio", "istio");
  return readFileSync(join(module, "tools/packaging/common/envoy_bootstrap.json"), "utf8");
}
