/**
 * Reads manifests before they are applied: does each name that one of them uses exist, and does Istio or Envoy Gateway treat
 * them as they seem to say? `kubectl apply` and `istioctl validate` pass most of what is found here.
 */
import type { Check, Outcome } from "./check.ts";
import { gatewayPolicy } from "./gateway.ts";
import { findClusters, findPlugins, isObject, listAt, objectAt, walk } from "./plugins.ts";
import { nameOf, nameSpaceOf, type Resource, readResources } from "./resources.ts";
import {
  bad,
  clusterOf,
  good,
  type Images,
  judgeCapabilities,
  judgeDigest,
  judgeFailurePolicy,
  judgeSettings,
  warning,
} from "./rules.ts";

export type ManifestOptions = Images & {
  readonly files: readonly string[];
  /** Istio's root namespace. */
  readonly rootNamespace: string;
};

/** One check for each resource that is about the filter, and one for each Envoy configuration. */
export function manifestChecks(options: ManifestOptions): Check[] {
  const resources = readResources(options.files);
  const checks: Check[] = [];
  const add = (name: string, outcomes: readonly Outcome[]): void => {
    const problems = outcomes.filter(({ status }) => status !== "good");
    for (const outcome of problems.length > 0 ? problems : [good("as it should be.")])
      checks.push({ name, run: async () => outcome });
  };
  for (const resource of resources) {
    const kind = String(resource["kind"] ?? "");
    const name = `${kind} ${nameOf(resource)}`;
    if (kind === "WasmPlugin" || kind === "TrafficExtension") {
      if (isOurs(resource)) add(name, istioPlugin(resource, resources, options));
    } else if (kind === "EnvoyExtensionPolicy") {
      if (isOurs(resource)) add(name, gatewayPolicy(resource, resources, options));
    } else if (kind === "Telemetry") add(name, telemetry(resource, resources));
    else if (kind === "") {
      const plugins = findPlugins(resource);
      const clusters = new Set(resources.flatMap((one) => [...findClusters(one)]));
      for (const plugin of plugins) {
        add(`Envoy's configuration, ${plugin.name}`, [
          judgeFailurePolicy(plugin),
          judgeCapabilities(plugin, options.modules),
          judgeSettings(plugin, options.modules),
          clusters.has(clusterOf(plugin))
            ? good("")
            : bad(
                `there is no cluster "${clusterOf(plugin)}" in these files: nothing can be sent.`,
              ),
        ]);
      }
    }
  }
  const overlap = twice(resources, options.rootNamespace);
  if (overlap !== null)
    checks.push({ name: "each request is recorded once", run: async () => overlap });
  if (checks.length === 0)
    checks.push({
      name: "manifests",
      run: async () => bad("nothing in these files is about a Meshseal filter."),
    });
  return checks;
}

function istioPlugin(
  resource: Resource,
  all: readonly Resource[],
  options: ManifestOptions,
): Outcome[] {
  const spec = objectAt(resource, "spec") ?? {};
  const wasm = resource["kind"] === "TrafficExtension" ? (objectAt(spec, "wasm") ?? {}) : spec;
  const settings = objectAt(wasm, "pluginConfig") ?? {};
  const strategy = String(wasm["failStrategy"] ?? "FAIL_CLOSE").replace(
    "FAIL_CLOSE",
    "FAIL_CLOSED",
  );
  const plugin = { name: "", settings, failurePolicy: strategy, capabilities: null, file: "" };
  return [
    judgeFailurePolicy(plugin),
    judgeSettings(plugin, options.modules),
    judgeDigest(String(wasm["url"] ?? ""), wasm["sha256"], options),
    verification(wasm),
    placement(spec, nameSpaceOf(resource), options.rootNamespace),
    istioCluster(clusterOf(plugin), all),
    itself(resource, spec, all, options.rootNamespace),
  ];
}

function verification(wasm: Record<string, unknown>): Outcome {
  return wasm["verificationKey"] === undefined
    ? good("")
    : warning("verificationKey does nothing: Istio never implemented it. sha256 is what holds.");
}

function placement(spec: Record<string, unknown>, namespace: string, root: string): Outcome {
  const matches = listAt(spec, "match").filter(isObject);
  const hasTargets = listAt(spec, "targetRefs").length > 0 || isObject(spec["targetRef"]);
  const labels = objectAt(objectAt(spec, "selector"), "matchLabels");
  if (hasTargets && labels !== null)
    return bad("selector and targetRefs exclude each other: Istio refuses it.");
  if (hasTargets && matches.length > 0) {
    return bad(
      "targetRefs with match: a waypoint counts as SERVER with port 0 and a gateway as CLIENT, so one of them never records. Leave match out.",
    );
  }
  const isGateway =
    labels !== null &&
    Object.entries(labels).some(([key, value]) => /gateway/i.test(`${key}=${String(value)}`));
  if (isGateway && matches.length > 0 && matches.every((match) => match["mode"] === "SERVER")) {
    return bad(
      "mode SERVER at a gateway: a gateway counts as CLIENT, so it never records. Leave match out.",
    );
  }
  if (
    !hasTargets &&
    !isGateway &&
    matches.every((match) => match["mode"] === undefined || match["mode"] === "CLIENT_AND_SERVER")
  ) {
    return warning(
      "no mode: at sidecars each call inside the mesh is recorded by both sides. mode: SERVER records it once.",
    );
  }
  const refs = listAt(spec, "targetRefs").filter(isObject);
  if (refs.some((ref) => ref["kind"] === "GatewayClass") && namespace !== root) {
    return bad(`a GatewayClass can be targeted from Istio's root namespace ${root} only.`);
  }
  return good("");
}

/** `direction|port|subset|host`; checked against the Service, ServiceEntry or EnvoyFilter that is in the files, if one is. */
function istioCluster(name: string, all: readonly Resource[]): Outcome {
  const [, port, host = ""] = /^outbound\|(\d{1,5})\|\|([a-z0-9.-]+)$/.exec(name) ?? [];
  const own = new Set(all.flatMap((resource) => [...findClusters(resource)]));
  walk(
    all.filter(({ kind }) => kind === "EnvoyFilter"),
    (object) => {
      const value = objectAt(objectAt(object, "patch"), "value");
      if (object["applyTo"] === "CLUSTER" && typeof value?.["name"] === "string")
        own.add(value["name"]);
    },
  );
  if (own.has(name)) return good("");
  if (port === undefined)
    return bad(
      `the cluster "${name}" is no name that Istio gives: it must be like outbound|7700||meshseal.meshseal-system.svc.cluster.local.`,
    );
  const entries = all.filter(
    (one) => one["kind"] === "ServiceEntry" && listAt(one["spec"], "hosts").includes(host),
  );
  const [service, namespace] = /^([^.]+)\.([^.]+)\.svc\./.exec(host)?.slice(1) ?? [];
  const services = all.filter(
    (one) =>
      one["kind"] === "Service" &&
      nameOf(one).endsWith(`/${service}`) &&
      ["", namespace].includes(nameSpaceOf(one)),
  );
  const found = [...entries, ...services];
  if (found.length === 0) {
    const hasOther = all.some((one) => one["kind"] === "Service" || one["kind"] === "ServiceEntry");
    return hasOther
      ? bad(
          `no Service or ServiceEntry in these files is ${host}: the cluster "${name}" would not exist.`,
        )
      : good("");
  }
  const ports = found
    .flatMap((one) => listAt(one["spec"], "ports"))
    .map((one) => (isObject(one) ? (one["port"] ?? one["number"]) : undefined));
  return ports.includes(Number(port))
    ? good("")
    : bad(`${host} has no port ${port}: it has ${ports.join(", ")}.`);
}

/** A plugin for the whole mesh is also in the exporter's own sidecar. */
function itself(
  resource: Resource,
  spec: Record<string, unknown>,
  all: readonly Resource[],
  root: string,
): Outcome {
  const isWide =
    nameSpaceOf(resource) === root &&
    spec["selector"] === undefined &&
    listAt(spec, "targetRefs").length === 0;
  if (!isWide) return good("");
  const plugin = `${nameSpaceOf(resource)}.${nameOf(resource).split("/").at(-1)}`;
  let isExcluded = false;
  walk(
    all.filter(({ kind }) => kind === "EnvoyFilter"),
    (object) => {
      if (object["operation"] === "REMOVE")
        isExcluded ||= JSON.stringify(all).includes(`/${plugin}`);
    },
  );
  return isExcluded
    ? good("")
    : warning(
        "for the whole mesh, and nothing takes it out of the exporter's own sidecar: each batch would make an entry, for ever. meshseal init writes the EnvoyFilter for that.",
      );
}

/** Istio says nothing of a provider that does not exist. */
function telemetry(resource: Resource, all: readonly Resource[]): Outcome[] {
  const known = new Set(["prometheus", "stackdriver", "envoy", "otel"]);
  let hasMesh = false;
  walk(all, (object) => {
    for (const provider of listAt(object, "extensionProviders")) {
      hasMesh = true;
      if (isObject(provider)) known.add(String(provider["name"]));
    }
  });
  const named: string[] = [];
  walk(resource["spec"], (object) => {
    for (const provider of listAt(object, "providers"))
      if (isObject(provider)) named.push(String(provider["name"]));
  });
  if (!hasMesh) return [good("")];
  return named.map((name) =>
    known.has(name)
      ? good("")
      : bad(
          `the provider "${name}" is in no extensionProviders: Istio leaves it out without a word.`,
        ),
  );
}

function twice(resources: readonly Resource[], root: string): Outcome | null {
  const plugins = resources.filter(
    (one) => (one["kind"] === "WasmPlugin" || one["kind"] === "TrafficExtension") && isOurs(one),
  );
  const plain = plugins.filter(
    (one) =>
      objectAt(one, "spec")?.["selector"] === undefined &&
      listAt(one["spec"], "targetRefs").length === 0,
  );
  const kinds = new Set(plugins.map((one) => one["kind"]));
  if (kinds.size > 1)
    return bad(
      "a WasmPlugin and a TrafficExtension are both there: a request would be recorded twice. Keep one kind.",
    );
  const wide = plain.filter((one) => nameSpaceOf(one) === root);
  if (wide.length > 0 && plain.length > wide.length)
    return bad(
      "one plugin is for the whole mesh and another for a namespace: requests there would be recorded twice. Keep one.",
    );
  const spaces = plain.map(nameSpaceOf);
  const again = spaces.find((space, at) => spaces.indexOf(space) !== at);
  return again === undefined
    ? null
    : bad(`two plugins are for the namespace ${again}: requests there would be recorded twice.`);
}

function isOurs(resource: Resource): boolean {
  return /meshseal/i.test(JSON.stringify(resource));
}
