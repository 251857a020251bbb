/**
 * Looks at a running Envoy through its admin address: is the filter there, may it do what it needs, does it reach the exporter,
 * and do entries come where Envoy counts requests. https://www.envoyproxy.io/docs/envoy/latest/operations/admin
 */
import { readFileSync } from "node:fs";
import { Admin } from "./admin.ts";
import type { Check, Outcome } from "./check.ts";
import {
  findClusters,
  findPlugins,
  findRefusals,
  hasDefaultDeny,
  isObject,
  listAt,
  objectAt,
  type Plugin,
} from "./plugins.ts";
import { receipts } from "./receipts.ts";
import { recorded } from "./requests.ts";
import {
  bad,
  clusterOf,
  good,
  judgeCapabilities,
  judgeFailurePolicy,
  judgeSettings,
  type Modules,
  unknown,
  warning,
} from "./rules.ts";

export type EnvoyOptions = {
  /** `http://127.0.0.1:9901`; Istio's proxies have 127.0.0.1:15000. */
  readonly admin: string;
  readonly modules: Modules;
  /** Envoy's log, for the words in which the filter refused something. */
  readonly logFile?: string;
  /** How long to wait for a receipt of what waits. */
  readonly watchMs?: number;
};

const OLDEST_MINOR = 36;
const DAY_MS = 86_400_000;
/** Certificates of meshes live a day or less: only the last hour is late. */
const CERTIFICATE_LATE_MS = 3_600_000;
const CLOCK_WARNING_MS = 2_000;
const CLOCK_BAD_MS = 60_000;

/** Returns the checks, in the order in which they are best read. */
export function envoyChecks(options: EnvoyOptions): Check[] {
  const admin = new Admin(options.admin);
  const plugins = async (): Promise<Plugin[]> => findPlugins(await admin.dump());
  /** Judges each plugin and returns the worst. */
  const each =
    (judge: (plugin: Plugin) => Outcome | Promise<Outcome>) => async (): Promise<Outcome> => {
      const outcomes: Outcome[] = [];
      for (const plugin of await plugins()) {
        const outcome = await judge(plugin);
        outcomes.push({
          ...outcome,
          message: plugin.name === "" ? outcome.message : `${plugin.name}: ${outcome.message}`,
        });
      }
      const rank = ["bad", "unknown", "warning", "good"];
      outcomes.sort((a, b) => rank.indexOf(a.status) - rank.indexOf(b.status));
      return outcomes[0] ?? unknown("there is no filter to look at.");
    };
  return [
    { name: "Envoy answers", run: () => answers(admin, options.admin) },
    { name: "the filter is loaded", run: () => loaded(admin, options) },
    { name: "what happens after a trap", run: each(judgeFailurePolicy) },
    { name: "capabilities", run: each((plugin) => judgeCapabilities(plugin, options.modules)) },
    {
      name: "the filter's settings",
      run: each((plugin) => judgeSettings(plugin, options.modules)),
    },
    { name: "the exporter's cluster", run: each((plugin) => cluster(admin, clusterOf(plugin))) },
    {
      name: "batches are receipted",
      run: each((plugin) => receipts(admin, clusterOf(plugin), options.watchMs)),
    },
    {
      name: "every request is an entry",
      run: async () => recorded(admin, (await plugins()).map(clusterOf)),
    },
    { name: "Envoy's certificates", run: () => certificates(admin) },
    { name: "Envoy's clock", run: () => clock(admin) },
  ];
}

async function answers(admin: Admin, url: string): Promise<Outcome> {
  let info: unknown;
  try {
    info = await admin.json("/server_info");
  } catch (error) {
    return bad(
      `no Envoy's admin address at ${url}: ${reasonOf(error)}. For a Pod: kubectl port-forward <pod> 15000 (Istio) or 19000 (Envoy Gateway).`,
    );
  }
  const version = /\/(1\.(\d+)\.\d+)/.exec(String(isObject(info) ? info["version"] : ""));
  const state = String(isObject(info) ? info["state"] : "");
  if (version === null) return unknown(`its version cannot be read; state ${state}.`);
  if (Number(version[2]) < OLDEST_MINOR)
    return bad(
      `Envoy ${version[1]} is older than 1.${OLDEST_MINOR}, the oldest that the filter is tested with.`,
    );
  if (state === "LIVE") return good(`Envoy ${version[1]} is live.`);
  return state === "DRAINING"
    ? warning(`Envoy ${version[1]} is draining: it will stop.`)
    : bad(
        `Envoy ${version[1]} is ${state}: its listeners wait for something, often for the filter's module. See its log.`,
      );
}

async function loaded(admin: Admin, { logFile }: EnvoyOptions): Promise<Outcome> {
  const dump = await admin.dump();
  const refusals = [...new Set(findRefusals(dump))];
  const said = logFile === undefined ? "" : ownWords(logFile);
  const wasm = refusals.find((text) => /wasm|meshseal/i.test(text));
  const deny = hasDefaultDeny(dump);
  if (deny === "deny") {
    return bad(
      'Istio\'s agent could not fetch the module and refuses every request in its place: check url, sha256 and imagePullSecret of the plugin, and the log of istio-proxy for "wasm".',
    );
  }
  if (deny === "allow") {
    return bad(
      "Istio's agent could not fetch the module and lets every request through unrecorded in its place (FAIL_OPEN): check url, sha256 and imagePullSecret, and set FAIL_RELOAD.",
    );
  }
  if (wasm !== undefined) {
    const why =
      said ||
      (/Unable to create Wasm/.test(wasm)
        ? "The module's file is missing, or the filter refused its settings: Envoy's log says which, in a line that begins with \"meshseal:\" (give it with --envoy-log)."
        : "");
    return bad(`Envoy refused it: ${wasm.slice(0, 300)}. ${why}`);
  }
  const found = findPlugins(dump);
  const failures = await discoveryFailures(admin);
  if (found.length === 0 && failures > 0) {
    return bad(
      `Envoy refused the filter that its control plane sent, ${failures} times: the module cannot be used, or the filter refuses its settings. ${said || 'Envoy\'s log says which, in a line with "meshseal:" (give it with --envoy-log).'}`,
    );
  }
  if (found.length === 0) {
    const other = refusals[0];
    if (other !== undefined)
      return bad(
        `no Meshseal filter is there, and Envoy refused a configuration: ${other.slice(0, 300)}`,
      );
    return bad(
      "no listener of this Envoy has a Meshseal filter. Istio: does the selector, the namespace or targetRefs of the plugin match this proxy, and its mode? A gateway is CLIENT, a waypoint needs targetRefs. Envoy Gateway: does the policy's targetRef exist?",
    );
  }
  const stats = await admin.stats();
  const active = [...stats].find(([name]) =>
    /^wasm\.envoy\.wasm\.runtime\.v8\.active$/.test(name),
  )?.[1];
  if (active === 0)
    return bad(`the filter is configured, and no VM runs it: the module did not load. ${said}`);
  if (failures > 0) {
    return warning(
      `it is configured, and Envoy refused an update of it ${failures} times since it started: is what runs what you applied last? ${said}`,
    );
  }
  return good(
    `${found.length === 1 ? "it is" : `${found.length} are`} configured${active === undefined ? "" : `, ${active} VMs run`}.`,
  );
}

/** Istio sends the filter as an extension of its own (ECDS); what Envoy refuses there is in no dump, only counted. */
async function discoveryFailures(admin: Admin): Promise<number> {
  let failures = 0;
  for (const [name, value] of await admin.stats()) {
    if (/^extension_config_discovery\..*meshseal.*\.config_fail$/.test(name)) failures += value;
  }
  return failures;
}

/** The newest lines of our own in Envoy's log. */
function ownWords(file: string): string {
  try {
    const lines = readFileSync(file, "utf8").split("\n");
    const ours = lines
      .filter((line) => /wasm log .*meshseal: .*(refused|cannot|allow)/.test(line))
      .at(-1);
    const host = lines.filter((line) => /\bwasm\b.*\b[Ff]ailed\b/.test(line)).at(-1);
    const said =
      ours?.replace(/^.*?wasm log [^:]*: /, "") ?? host?.replace(/^.*?\] \[[^\]]*\] /, "");
    return said === undefined ? "" : `Its log says: ${said.slice(0, 400)}`;
  } catch {
    return "";
  }
}

async function cluster(admin: Admin, name: string): Promise<Outcome> {
  const names = findClusters(await admin.dump());
  if (!names.has(name)) {
    const like = [...names].filter((other) => /meshseal/.test(other));
    const near =
      like.length > 0
        ? ` There is ${like.slice(0, 3).join(", ")}: is that what "cluster" should say?`
        : "";
    const istio = name.startsWith("outbound|")
      ? " In Istio: is the exporter's Service there with that port, and does no Sidecar's egress or exportTo hide it from this proxy? A waypoint or gateway has it by the EnvoyFilter that meshseal init istio --gateway writes (Istio 1.30), or as an extension provider (--mesh-config)."
      : "";
    return bad(`Envoy has no cluster "${name}": nothing can be sent.${near}${istio}`);
  }
  const statuses = listAt(await admin.json("/clusters?format=json"), "cluster_statuses");
  const status = statuses.find((one) => isObject(one) && one["name"] === name);
  const hosts = listAt(status, "host_statuses");
  if (hosts.length === 0)
    return bad(
      `the cluster "${name}" has no endpoint: does the exporter run, is it ready, and does its name resolve?`,
    );
  const healthy = hosts.filter((host) => {
    const health = objectAt(host, "health_status");
    return (
      !health?.["failed_active_health_check"] &&
      !health?.["failed_outlier_check"] &&
      String(health?.["eds_health_status"] ?? "HEALTHY") === "HEALTHY"
    );
  });
  if (healthy.length === 0)
    return bad(
      `none of the ${hosts.length} endpoints of "${name}" is healthy: ask the exporter's /readyz why.`,
    );
  return good(`"${name}" has ${healthy.length} endpoint${healthy.length > 1 ? "s" : ""}.`);
}

async function certificates(admin: Admin): Promise<Outcome> {
  const ends: number[] = [];
  for (const entry of listAt(await admin.json("/certs"), "certificates")) {
    for (const certificate of [...listAt(entry, "cert_chain"), ...listAt(entry, "ca_cert")]) {
      const end = Date.parse(String(isObject(certificate) ? certificate["expiration_time"] : ""));
      if (!Number.isNaN(end)) ends.push(end);
    }
  }
  if (ends.length === 0) return good("none are in use.");
  const left = Math.min(...ends) - Date.now();
  if (left < 0)
    return bad(
      `one ended on ${new Date(Math.min(...ends)).toISOString()}: connections that need it fail.`,
    );
  if (left < CERTIFICATE_LATE_MS)
    return warning(`one ends in ${Math.ceil(left / 60_000)} minutes, and was not replaced yet.`);
  return good(`${ends.length}, the first ends in ${(left / DAY_MS).toFixed(1)} days.`);
}

async function clock(admin: Admin): Promise<Outcome> {
  const before = Date.now();
  const { date } = await admin.text("/ready").catch(() => admin.text("/server_info"));
  const theirs = Date.parse(date ?? "");
  if (Number.isNaN(theirs)) return unknown("it does not say the time.");
  // The header has whole seconds.
  const off = theirs + 500 - (before + Date.now()) / 2;
  if (Math.abs(off) > CLOCK_BAD_MS)
    return bad(
      `it is ${Math.round(Math.abs(off) / 1000)} s ${off > 0 ? "ahead of" : "behind"} this machine's: entries carry that time. Use NTP on both.`,
    );
  if (Math.abs(off) > CLOCK_WARNING_MS)
    return warning(
      `it is ${(Math.abs(off) / 1000).toFixed(1)} s ${off > 0 ? "ahead of" : "behind"} this machine's.`,
    );
  return good("within 2 s of this machine's.");
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.message || String((error as { code?: unknown }).code ?? error.name);
}
