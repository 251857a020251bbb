/**
 * What `meshseal init istio` writes: the filter for sidecars, gateways and waypoints, which Istio matches differently.
 *
 * Istio: https://istio.io/latest/docs/reference/config/proxy_extensions/ (WasmPlugin, TrafficExtension). A gateway counts as
 * CLIENT; a waypoint counts as SERVER and is matched with port 0 and by targetRefs only, so there no `match` is written.
 */
import { imageFor, pluginSettings, type Setup, serviceHost } from "./setup.ts";

export type IstioSetup = Setup & {
  /** TrafficExtension is there from Istio 1.30 on; a WasmPlugin is understood by all, FAIL_RELOAD from 1.27 on. */
  readonly kind: "TrafficExtension" | "WasmPlugin";
  /** FAIL_RELOAD unless the release is older than 1.27. */
  readonly failStrategy: "FAIL_RELOAD" | "FAIL_CLOSE";
  /** Istio's root namespace: what stands there without a selector holds for the whole mesh. */
  readonly rootNamespace: string;
  /** Namespaces whose sidecars record, each with its delivery; the root namespace is the whole mesh. */
  readonly namespaces: readonly { readonly name: string; readonly delivery: string }[];
  /** Gateways and waypoints (both are Gateway resources), `namespace/name`. */
  readonly gateways: readonly { readonly namespace: string; readonly name: string }[];
  /** Gateways of Istio's older kind, by one label of their Pods. */
  readonly gatewayLabels: readonly {
    readonly namespace: string;
    readonly label: string;
    readonly value: string;
  }[];
  /** Which side of a sidecar records. Both would write each call inside the mesh twice. */
  readonly side: "SERVER" | "CLIENT" | "CLIENT_AND_SERVER";
};

/** Istio's name of the cluster for a Service: direction, port, subset, host. */
export function istioCluster(setup: Pick<Setup, "service" | "exporterNamespace" | "port">): string {
  return `outbound|${setup.port}||${serviceHost(setup)}`;
}

/** Returns the manifest, one YAML document for each place. */
export function istioManifest(setup: IstioSetup): string {
  const documents = [
    ...setup.namespaces.map(({ name, delivery }) =>
      plugin(setup, {
        name: "meshseal",
        namespace: name,
        delivery,
        where:
          name === setup.rootNamespace
            ? "every sidecar in the mesh"
            : `every sidecar in the namespace ${name}`,
        match: `  match:\n    - mode: ${setup.side}\n`,
      }),
    ),
    ...setup.gateways.map(({ namespace, name }) =>
      plugin(setup, {
        name: `meshseal-${name}`,
        namespace,
        delivery: setup.delivery,
        where: `the gateway or waypoint ${name}`,
        match: `  targetRefs:\n    - group: gateway.networking.k8s.io\n      kind: Gateway\n      name: ${name}\n`,
      }),
    ),
    ...setup.gatewayLabels.map(({ namespace, label, value }) =>
      plugin(setup, {
        name: `meshseal-${value}`,
        namespace,
        delivery: setup.delivery,
        where: `the gateway with the label ${label}=${value}`,
        match: `  selector:\n    matchLabels:\n      ${JSON.stringify(label)}: ${JSON.stringify(value)}\n`,
      }),
    ),
    ...reach(setup),
    ...exclusion(setup),
  ];
  const head = `# The Meshseal filter in Istio's proxies. Written by: meshseal init istio
`;
  return head + documents.join("---\n");
}

/**
 * Returns settings for Istio itself (istioctl -f, or meshConfig in its chart). Named as a provider, the exporter's cluster is
 * sent also to gateways that get only those clusters that their routes refer to (PILOT_FILTER_GATEWAY_CLUSTER_CONFIG).
 */
export function istioMeshConfig(setup: Setup): string {
  return `# Merge this into Istio's own settings: istioctl install -f, or meshConfig in the istiod chart.
# The provider is not used for access logs. Its name is what puts the exporter's cluster into every gateway, also where
# PILOT_FILTER_GATEWAY_CLUSTER_CONFIG leaves out clusters that no route refers to.
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
spec:
  meshConfig:
    extensionProviders:
      - name: meshseal
        envoyHttpAls:
          service: ${serviceHost(setup)}
          port: ${setup.port}
`;
}

type Place = {
  readonly name: string;
  readonly namespace: string;
  readonly delivery: string;
  readonly where: string;
  readonly match: string;
};

function plugin(setup: IstioSetup, { name, namespace, delivery, where, match }: Place): string {
  const image = imageFor(setup, delivery);
  const wasm = `url: ${image.reference}
# Digest of the image's manifest: what is fetched must be this. Without it the tag decides, and a tag can be moved.
sha256: "${image.manifestSha256}"
imagePullPolicy: IfNotPresent
${setup.pullSecret === undefined ? "" : `imagePullSecret: ${setup.pullSecret}\n`}${
  setup.failStrategy === "FAIL_RELOAD"
    ? "# After a trap the next request starts a new VM and a new chain. FAIL_OPEN would leave the worker unaudited for ever.\n"
    : "# This release has no FAIL_RELOAD. FAIL_OPEN would leave the worker unaudited for ever after one trap.\n"
}failStrategy: ${setup.failStrategy}
type: HTTP
${environment(setup)}pluginConfig:
${pluginSettings(setup, istioCluster(setup), delivery)
  .map(([key, value]) => `  ${key}: ${value}\n`)
  .join("")}`;
  const isNew = setup.kind === "TrafficExtension";
  return `# Records at ${where}.
apiVersion: extensions.istio.io/v1alpha1
kind: ${setup.kind}
metadata:
  name: ${name}
  namespace: ${namespace}
  labels:
    app.kubernetes.io/name: meshseal
    app.kubernetes.io/component: filter
spec:
${match}  # First in line, so that what later filters refuse is seen too.
  phase: AUTHN
  priority: 1000
${isNew ? "  wasm:\n" : ""}${indent(wasm, isNew ? 4 : 2)}`;
}

/** The key reaches the VM from the environment of the proxy's container, never through the manifest. */
function environment({ keyVariable }: IstioSetup): string {
  if (keyVariable === undefined) return "";
  return `vmConfig:\n  env:\n    - name: ${keyVariable}\n      valueFrom: HOST\n`;
}

/**
 * A waypoint has only the clusters of its own Services and of those that its routes name, and so have gateways with
 * PILOT_FILTER_GATEWAY_CLUSTER_CONFIG. An EnvoyFilter's annotation adds others (pilot/pkg/model/envoyfilter.go), from Istio 1.30 on.
 */
function reach(setup: IstioSetup): string[] {
  if (setup.kind !== "TrafficExtension") return [];
  const host = serviceHost(setup);
  const places = [
    ...setup.gateways.map(({ namespace, name }) => ({
      ...{ namespace, name },
      where: `  targetRefs:\n    - group: gateway.networking.k8s.io\n      kind: Gateway\n      name: ${name}\n`,
    })),
    ...setup.gatewayLabels.map(({ namespace, label, value }) => ({
      ...{ namespace, name: value },
      where: `  workloadSelector:\n    labels:\n      ${JSON.stringify(label)}: ${JSON.stringify(value)}\n`,
    })),
  ];
  return places.map(
    ({
      namespace,
      name,
      where,
    }) => `# Gives ${name} the exporter's cluster, although no route names it. It changes nothing else.
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata:
  name: meshseal-cluster-${name}
  namespace: ${namespace}
  annotations:
    envoyfilter.istio.io/referenced-services: ${setup.exporterNamespace}/${host}
spec:
${where}`,
  );
}

/** The exporter's own sidecar must not record the batches it is sent: each would make a new one. */
function exclusion(setup: IstioSetup): string[] {
  const names = setup.namespaces
    .filter(({ name }) => name === setup.rootNamespace || name === setup.exporterNamespace)
    .flatMap(({ name }) => {
      const id = `${name}.meshseal`;
      return setup.kind === "TrafficExtension"
        ? [`extensions.istio.io/trafficextension/${id}`]
        : [
            `extensions.istio.io/wasmplugin/${id}`,
            `extensions.istio.io/trafficextension/${id}~istio-translated-wasmplugin`,
          ];
    });
  if (names.length === 0) return [];
  const patches = names.map(
    (name) => `    - applyTo: HTTP_FILTER
      match:
        listener:
          filterChain:
            filter:
              name: envoy.filters.network.http_connection_manager
              subFilter:
                name: ${name}
      patch:
        operation: REMOVE
`,
  );
  return [
    `# The exporter's own sidecar, if it has one, records nothing: each batch would make an entry, and that the next batch.
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata:
  name: meshseal-not-itself
  namespace: ${setup.exporterNamespace}
spec:
  workloadSelector:
    labels:
      app.kubernetes.io/name: meshseal
  configPatches:
${patches.join("")}`,
  ];
}

function indent(text: string, spaces: number): string {
  return text.replaceAll(/^(?=.)/gm, " ".repeat(spaces));
}
