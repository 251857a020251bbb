/**
 * Looks at a running Envoy through its admin address: is the filter there, may it do what it needs, does it reach the exporter,
 * and do entries come where Envoy counts requests. https://www.envoyproxy.io/docs/envoy/latest/operations/admin
 */
import { readFileSync } from "node:fs";
import { request } from "undici";
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
};

const TIMEOUT_MS = 10_000;
const MAX_PAGE_BYTES = 256 << 20;
const OLDEST_MINOR = 36;
const DAY_MS = 86_400_000;
/** Certificates of meshes live a day or less: only the last hour is late. */
const CERTIFICATE_LATE_MS = 3_600_000;
const CLOCK_WARNING_MS = 2_000;
const CLOCK_BAD_MS = 60_000;

class Admin {
  readonly #base: string;
  readonly #pages = new Map<string, Promise<unknown>>();

  constructor(base: string) {
    this.#base = base.replace(/\/$/, "");
  }

  async text(path: string): Promise<{ text: string; date: string | undefined }> {
    const answer = await request(`${this.#base}${path}`, {
      headersTimeout: TIMEOUT_MS,
      bodyTimeout: TIMEOUT_MS,
    });
    const parts: Buffer[] = [];
    let bytes = 0;
    for await (const part of answer.body as AsyncIterable<Buffer>) {
      bytes += part.length;
      if (bytes > MAX_PAGE_BYTES) throw new Error(`${path} has more than ${MAX_PAGE_BYTES} bytes`);
      parts.push(part);
    }
    if (answer.statusCode !== 200)
      throw new Error(`${this.#base}${path} answers ${answer.statusCode}`);
    const { date } = answer.headers;
    return {
      text: Buffer.concat(parts).toString("utf8"),
      date: typeof date === "string" ? date : undefined,
    };
  }

  /** A page is read once for all checks: they speak of one moment. */
  json(path: string): Promise<unknown> {
    const page =
      this.#pages.get(path) ?? this.text(path).then(({ text }) => JSON.parse(text) as unknown);
    this.#pages.set(path, page);
    return page;
  }

  async stats(): Promise<Map<string, number>> {
    const stats = listAt(await this.json("/stats?format=json"), "stats");
    return new Map(
      stats.flatMap((stat) =>
        isObject(stat) && typeof stat["name"] === "string" && typeof stat["value"] === "number"
          ? [[stat["name"], stat["value"]] as const]
          : [],
      ),
    );
  }

  dump(): Promise<unknown> {
    return this.json("/config_dump");
  }
}

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
    { name: "batches are receipted", run: each((plugin) => receipted(admin, clusterOf(plugin))) },
    { name: "every request is an entry", run: () => recorded(admin) },
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
  return good(
    `${found.length === 1 ? "it is" : `${found.length} are`} configured${active === undefined ? "" : `, ${active} VMs run`}.`,
  );
}

/** The newest lines of our own in Envoy's log. */
function ownWords(file: string): string {
  try {
    const lines = readFileSync(file, "utf8")
      .split("\n")
      .filter((line) => /meshseal: (configuration refused|the )|wasm.*(Failed|failed)/.test(line));
    const last = lines.at(-1)?.replace(/^.*?(meshseal: |wasm)/, "$1");
    return last === undefined ? "" : `Its log says: ${last.slice(0, 400)}`;
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
      ? " In Istio: is the exporter's Service there with that port, and does no Sidecar's egress or exportTo hide it from this proxy? For gateways declare it as an extension provider (meshseal init istio --mesh-config)."
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

async function receipted(admin: Admin, name: string): Promise<Outcome> {
  const stats = await admin.stats();
  const own = (stat: string): number => stats.get(`wasmcustom.meshseal_${stat}`) ?? 0;
  // Envoy writes ":" as "_" in names; Istio ends a cluster's with ";".
  const stem = `cluster.${name.replaceAll(":", "_")}`;
  const of = (stat: string): number =>
    stats.get(`${stem}.${stat}`) ?? stats.get(`${stem};.${stat}`) ?? 0;
  const entries = own("entries");
  if (entries === 0) return unknown("no entry was made yet.");
  if (own("batches_receipted") > 0) {
    const lost = own("lost_entries");
    const missing = own("gap_requests");
    if (lost > 0)
      return bad(
        `${lost} entries were lost with chains that the exporter refused for good: its log and quarantine say why.`,
      );
    if (missing > 0)
      return warning(
        `${missing} requests are counted as missing, since the buffer was full while the exporter was away.`,
      );
    return good(`${own("receipted_entries")} of ${entries} entries are receipted.`);
  }
  if (
    of("ssl.connection_error") +
      of("ssl.fail_verify_error") +
      of("ssl.fail_verify_no_cert") +
      of("ssl.fail_verify_san") >
    0
  ) {
    return bad(
      `TLS with the exporter fails: compare the certificates of "${name}" with --tls-client-ca and --tls-cert of the exporter.`,
    );
  }
  if (of("upstream_cx_connect_fail") > 0)
    return bad(
      `no connection to the exporter: it does not listen where "${name}" points, or a NetworkPolicy is in between.`,
    );
  if (of("upstream_cx_total") > 0 && of("upstream_rq_total") > 0) {
    if (of("upstream_rq_403") > 0)
      return bad(
        "the exporter answers 403: this proxy's identity may not write. See the exporter's --access file, or its senders setting.",
      );
    if (of("upstream_rq_4xx") + own("refusals") > 0)
      return bad('the exporter refuses the batches: its log says why, in lines with "refusal".');
    if (of("upstream_rq_5xx") > 0)
      return bad("the exporter answers, and takes no batches now: ask its /readyz why.");
    if (of("upstream_cx_destroy_remote_with_active_rq") > 0)
      return bad(
        `the exporter cuts the connections: does it speak TLS, and "${name}" does not (or the other way round)?`,
      );
    return bad(`what answers at "${name}" gives no receipts: is it a Meshseal exporter?`);
  }
  return bad(
    `${entries} entries wait, and no batch was sent: does the filter's "cluster" setting name a cluster that Envoy has?`,
  );
}

async function recorded(admin: Admin): Promise<Outcome> {
  const stats = await admin.stats();
  let counted = 0;
  for (const [name, value] of stats) {
    if (/^http\.(?!admin\.|async-client\.).*\.downstream_rq_total$/.test(name)) counted += value;
  }
  const entries = stats.get("wasmcustom.meshseal_requests");
  if (entries === undefined) {
    return counted === 0
      ? unknown("no request came yet.")
      : bad(
          `Envoy counted ${counted} requests, and the filter none: it is not loaded, or in none of the listeners that took them.`,
        );
  }
  if (counted === 0) return unknown("no request came yet.");
  if (entries === 0)
    return bad(
      `Envoy counted ${counted} requests, and the filter made no entry: is it in the listeners that took them, and is proxy_on_log allowed?`,
    );
  if (entries < counted)
    return warning(
      `Envoy counted ${counted} requests at all its listeners, the filter ${entries}: some listeners have no filter, or requests are still open. meshseal coverage says more.`,
    );
  return good(`Envoy counted ${counted} requests, the filter ${entries}.`);
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
