/**
 * Finds our filter in what Envoy or a manifest says of itself: pure functions over parsed JSON or YAML, of which nothing is
 * believed. Envoy: admin `/config_dump` (envoy/admin/v3/config_dump.proto) and bootstraps, which hold the same messages.
 */

export type Plugin = {
  readonly name: string;
  /** The filter's settings, or null where they are no JSON object. */
  readonly settings: Readonly<Record<string, unknown>> | null;
  /** FAIL_RELOAD, FAIL_CLOSED, FAIL_OPEN, or "" where nothing is said. */
  readonly failurePolicy: string;
  /** Names that are allowed, or null where nothing is restricted. */
  readonly capabilities: readonly string[] | null;
  /** Path of the module's file, or "" where it comes from elsewhere. */
  readonly file: string;
};

const MAX_NODES = 5_000_000;

/** Calls `visit` with every object in `root`. What is nested deeper than a configuration can be ends the walk. */
export function walk(root: unknown, visit: (object: Record<string, unknown>) => void): void {
  const stack: unknown[] = [root];
  for (let nodes = 0; stack.length > 0 && nodes < MAX_NODES; nodes++) {
    const value = stack.pop();
    if (Array.isArray(value)) for (const item of value) stack.push(item);
    else if (isObject(value)) {
      visit(value);
      for (const item of Object.values(value)) stack.push(item);
    }
  }
}

/** Returns the Wasm filters and access loggers that are Meshseal by name, by settings or by file, each once. */
export function findPlugins(root: unknown): Plugin[] {
  const found = new Map<string, Plugin>();
  walk(root, (object) => {
    const type = textOf(object["@type"]);
    if (!/\.wasm\.v3\.(Wasm|WasmAccessLog)$/.test(type) || !isObject(object["config"])) return;
    const plugin = readPlugin(object["config"]);
    if (isOurs(plugin)) found.set(JSON.stringify(plugin), plugin);
  });
  return [...found.values()];
}

function isOurs({ name, settings, file }: Plugin): boolean {
  return (
    /meshseal/i.test(name) ||
    /meshseal/i.test(file) ||
    (settings !== null && "moduleDigest" in settings)
  );
}

function readPlugin(config: Record<string, unknown>): Plugin {
  const vm = objectAt(config, "vm_config");
  // Envoy 1.40 moved it from the plugin to its VM (source/extensions/common/wasm/plugin.cc); where both are, the VM's counts.
  const key = "capability_restriction_config";
  const restriction = objectAt(vm, key) ?? objectAt(config, key);
  const allowed = restriction?.["allowed_capabilities"];
  const code = objectAt(objectAt(vm, "code"), "local");
  return {
    name: textOf(config["name"]) || textOf(config["root_id"]),
    settings: settingsOf(config["configuration"]),
    failurePolicy:
      textOf(config["failure_policy"]) || (config["fail_open"] === true ? "FAIL_OPEN" : ""),
    capabilities:
      isObject(allowed) && Object.keys(allowed).length > 0 ? Object.keys(allowed) : null,
    file: textOf(code?.["filename"]),
  };
}

/** A StringValue with JSON in it, or a Struct, as EnvoyExtensionPolicy and others give it. */
function settingsOf(configuration: unknown): Record<string, unknown> | null {
  if (!isObject(configuration)) return configuration === undefined ? {} : null;
  const { value } = configuration;
  if (isObject(value)) return value;
  if (typeof value !== "string") return Object.keys(configuration).length === 0 ? {} : null;
  try {
    const parsed: unknown = JSON.parse(value);
    return isObject(parsed) ? parsed : null;
  } catch {
    return null;
  }
}

/** Returns the names of all clusters, static and dynamic. */
export function findClusters(root: unknown): Set<string> {
  const names = new Set<string>();
  walk(root, (object) => {
    for (const key of ["static_clusters", "dynamic_active_clusters", "dynamic_warming_clusters"]) {
      for (const item of listAt(object, key)) {
        const name = objectAt(item, "cluster")?.["name"];
        if (typeof name === "string") names.add(name);
      }
    }
    // A bootstrap, or a file for CDS.
    for (const item of [...listAt(object, "clusters"), ...listAt(object, "resources")]) {
      if (isObject(item) && typeof item["name"] === "string" && isCluster(item))
        names.add(item["name"]);
    }
  });
  return names;
}

function isCluster(item: Record<string, unknown>): boolean {
  const type = item["@type"];
  return type === undefined
    ? "load_assignment" in item || "type" in item || "cluster_type" in item
    : textOf(type).endsWith(".Cluster");
}

/** Why listeners or extensions were refused, in Envoy's words. */
export function findRefusals(root: unknown): string[] {
  const found: string[] = [];
  walk(root, (object) => {
    const error = objectAt(object, "error_state");
    if (error && typeof error["details"] === "string") found.push(error["details"]);
  });
  return found;
}

/** Tells if Istio's agent put its refuse-all filter in the module's place (pkg/wasm/convert.go). */
export function hasDefaultDeny(root: unknown): "deny" | "allow" | null {
  let found: "deny" | "allow" | null = null;
  walk(root, (object) => {
    const prefix = object["rules_stat_prefix"];
    if (prefix === "wasm-default-deny") found = "deny";
    else if (prefix === "wasm-default-allow") found ??= "allow";
  });
  return found;
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function objectAt(value: unknown, key: string): Record<string, unknown> | null {
  const found = isObject(value) ? value[key] : undefined;
  return isObject(found) ? found : null;
}

export function listAt(value: unknown, key: string): unknown[] {
  const found = isObject(value) ? value[key] : undefined;
  return Array.isArray(found) ? found : [];
}

/** The value if it is a text, else "". */
export function textOf(value: unknown): string {
  return typeof value === "string" ? value : "";
}
