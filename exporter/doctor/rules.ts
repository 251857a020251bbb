/** What must hold of one plugin wherever it is found: in a running Envoy, in a bootstrap, or in a manifest. */
import type { Module } from "../install/module.ts";
import type { Outcome } from "./check.ts";
import type { Plugin } from "./plugins.ts";

export const good = (message: string): Outcome => ({ status: "good", message });
export const warning = (message: string): Outcome => ({ status: "warning", message });
export const bad = (message: string): Outcome => ({ status: "bad", message });
export const unknown = (message: string): Outcome => ({ status: "unknown", message });

/** The plain build and the enforcing one. */
export type Modules = readonly [Module, Module];

/** What an image of the filter may be. */
export type Images = {
  readonly modules: Modules;
  /** Digests of these modules' manifests in all forms that push makes, without "sha256:". */
  readonly manifestDigests: readonly string[];
};

/** What the filter takes where its settings name no cluster: filter/config.ts. */
const DEFAULT_CLUSTER = "meshseal";

export function clusterOf({ settings }: Plugin): string {
  const cluster = settings?.["cluster"];
  return typeof cluster === "string" ? cluster : DEFAULT_CLUSTER;
}

export function judgeFailurePolicy({ failurePolicy }: Pick<Plugin, "failurePolicy">): Outcome {
  if (failurePolicy === "FAIL_RELOAD")
    return good("after a trap the next request starts a new VM.");
  if (failurePolicy === "FAIL_OPEN") {
    return bad(
      "it is FAIL_OPEN: after one trap a worker lets every request through unrecorded, and nothing says so. Set FAIL_RELOAD.",
    );
  }
  return warning(
    "it is FAIL_CLOSED: after one trap a worker answers 503 until Envoy is restarted. FAIL_RELOAD starts anew (Envoy 1.36, Istio 1.27).",
  );
}

/** The build that a plugin has: the one whose digest it names, else by what it is asked to do. */
export function moduleOf({ settings }: Plugin, [plain, enforcing]: Modules): Module {
  const isEnforcing =
    settings?.["moduleDigest"] === enforcing.sha256 || settings?.["delivery"] === "enforced";
  return isEnforcing ? enforcing : plain;
}

export function judgeCapabilities(plugin: Plugin, modules: Modules): Outcome {
  const { capabilities } = plugin;
  const module = moduleOf(plugin, modules);
  if (capabilities === null) return good("nothing is restricted.");
  const missing = module.capabilities.filter((name) => !capabilities.includes(name));
  if (missing.length > 0) {
    return bad(
      `capability_restriction_config lacks ${missing.join(", ")}: such a call fails silently. Add ${missing.length > 1 ? "them" : "it"}, or write the list anew with meshseal init envoy.`,
    );
  }
  const spare = capabilities.filter((name) => !module.capabilities.includes(name));
  return spare.length > 0
    ? warning(`the list also allows ${spare.join(", ")}, which the module does not use.`)
    : good(`just the ${capabilities.length} that the module uses are allowed.`);
}

export function judgeSettings(plugin: Plugin, modules: Modules): Outcome {
  const { settings } = plugin;
  const module = moduleOf(plugin, modules);
  if (settings === null)
    return bad(
      "the filter's settings are no JSON object: it refuses them, and Envoy keeps the configuration it had.",
    );
  const digest = settings["moduleDigest"];
  if (digest === undefined) {
    return warning(
      "moduleDigest is not set: the log's first entry will not say which module made it. meshseal init writes it.",
    );
  }
  if (digest !== module.sha256 && digest !== modules[0].sha256) {
    return warning(
      `moduleDigest is ${String(digest).slice(0, 64)}, and the module of this version is ${module.sha256}: another version is in use, or the manifest was not written anew after an update.`,
    );
  }
  if (settings["delivery"] === "enforced" && digest === modules[0].sha256) {
    return bad(
      "delivery is enforced, and the module is the build that cannot refuse: it refuses these settings. Use the enforcing build, as meshseal init does.",
    );
  }
  return good(`module ${module.sha256.slice(0, 16)}… is named in the log.`);
}

/** The address of a module in a manifest, and the digest that it must have. */
export function judgeDigest(
  url: string,
  sha256: unknown,
  { modules, manifestDigests }: Images,
): Outcome {
  if (url === "") return bad("url is missing.");
  if (sha256 === undefined || sha256 === "") {
    return url.startsWith("http:") || url.startsWith("https:")
      ? bad("sha256 is missing: Envoy refuses a module from an http address without it.")
      : bad(
          "sha256 is missing: whoever can move the tag can put another module into every proxy. meshseal init writes it.",
        );
  }
  const isModule = modules.some((module) => module.sha256 === sha256);
  if (/^(https?|file):/.test(url)) {
    if (isModule) return good("");
    if (manifestDigests.includes(String(sha256)))
      return bad(
        `sha256 is an image's, and ${url.slice(0, 100)} is a file: it must be the module's, ${modules[0].sha256}.`,
      );
  } else {
    if (manifestDigests.includes(String(sha256))) return good("");
    if (isModule)
      return bad(
        "sha256 is the module's; for an image it must be that of the image's manifest, as meshseal push prints it: the module would not be fetched.",
      );
  }
  return warning(
    `sha256 is not that of this version's filter: right for another version or a build of your own; otherwise write the manifest anew with meshseal init.`,
  );
}
