/**
 * What a kubelet and Kubernetes' controllers would do, for tests with an API server alone: Pods that are said to run, the endpoints
 * of their Services, and the command of a container.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import type { ApiServer } from "./api-server.ts";
import { compiledMain } from "./compiled.ts";
import { type Process, run } from "./process.ts";
import { until } from "./run-envoy.ts";

export type Pod = {
  readonly namespace: string;
  readonly name: string;
  readonly serviceAccount: string;
  readonly labels: Readonly<Record<string, string>>;
  /** An address that is its own, of 10.77.0.10 to 15. */
  readonly ip: string;
};

/** The exporter of the chart, and a workload that calls others. */
export const EXPORTER: Pod = {
  namespace: "meshseal-system",
  name: "meshseal-0",
  serviceAccount: "meshseal",
  labels: { "app.kubernetes.io/name": "meshseal", "app.kubernetes.io/instance": "meshseal" },
  ip: "10.77.0.10",
};
export const WEB: Pod = {
  namespace: "shop",
  name: "web-1",
  serviceAccount: "web",
  labels: { app: "web" },
  ip: "10.77.0.12",
};

/** Makes the Pod and its service account, as a controller would, and says that it runs, as a kubelet would. */
export function makePod(api: ApiServer, pod: Pod, hasSidecar = true): void {
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
    metadata: {
      namespace,
      name,
      labels: { ...labels, ...(hasSidecar ? { "security.istio.io/tlsMode": "istio" } : {}) },
    },
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

type Container = {
  readonly args: readonly string[];
  readonly env: readonly { readonly name: string; readonly value?: string }[];
};

/**
 * Runs what the container of the chart's StatefulSet runs, with its settings file from the API server. Only its two places, the
 * volume and the health address, are the test's own.
 */
export async function startExporterPod(dir: string, api: ApiServer, pod: Pod): Promise<Process> {
  const get = (kind: string, ...output: string[]): string => {
    const { status, out } = api.kubectl(["get", kind, "meshseal", "-n", pod.namespace, ...output]);
    if (status !== 0) throw new Error(out);
    return out;
  };
  const { template } = parse(get("statefulset", "-o", "yaml")).spec;
  const isInjected = template.metadata.labels["sidecar.istio.io/inject"] === "true";
  makePod(api, { ...pod, labels: template.metadata.labels }, isInjected);
  makeEndpoints(api, pod, "meshseal", [
    { name: "http-batches", port: 7700 },
    { name: "http-health", port: 7701 },
  ]);
  writeFileSync(
    join(dir, "meshseal.json"),
    get("configmap", "-o", "jsonpath={.data.meshseal\\.json}"),
  );
  const container = template.spec.containers[0] as Container;
  const env = Object.fromEntries(
    container.env.map(({ name, value }) => [
      name,
      value?.replace("$(POD_NAME)", pod.name) ?? pod.name,
    ]),
  );
  const args = container.args.map((arg) => arg.replace("/config/", `${dir}/`));
  const places = ["--data", join(dir, "data"), "--health-listen", `${pod.ip}:7701`];
  const exporter = run(process.execPath, [compiledMain(), ...args, ...places], dir, env);
  await until(
    () => exporter.said().includes('"msg":"listening"') || exporter.hasEnded(),
    exporter.said,
  );
  return exporter;
}
