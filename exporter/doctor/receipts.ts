/** Do entries that wait in a running Envoy get their receipts, and if not, who says no: read from Envoy's own counters over some seconds. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Admin } from "./admin.ts";
import type { Outcome } from "./check.ts";
import { bad, good, unknown, warning } from "./rules.ts";

/** So long a batch may take: a tick, its time limit and a pause after a failure. */
export const WATCH_MS = 12_000;
const PAUSE_MS = 250;

type Stats = ReadonlyMap<string, number>;

const own = (stats: Stats, name: string): number => stats.get(`wasmcustom.meshseal_${name}`) ?? 0;
const receipted = (stats: Stats): number => own(stats, "receipted_entries");
const waiting = (stats: Stats): number =>
  own(stats, "entries") - receipted(stats) - own(stats, "lost_entries");

/** Watches until something is receipted or nothing waits any more; then what is between first and last is judged. */
export async function receipts(
  admin: Admin,
  cluster: string,
  watchMs: number = WATCH_MS,
): Promise<Outcome> {
  const first = await read(admin, cluster);
  if (own(first, "entries") === 0) return unknown("no entry was made yet.");
  const until = Date.now() + watchMs;
  let last = first;
  while (waiting(last) > 0 && receipted(last) === receipted(first) && Date.now() < until) {
    await sleep(PAUSE_MS);
    last = await read(admin, cluster);
  }
  if (waiting(last) > 0 && receipted(last) === receipted(first)) {
    return bad(whyNot(cluster, first, last));
  }
  const lost = own(last, "lost_entries");
  const missing = own(last, "gap_requests");
  if (lost > 0) {
    return bad(
      `${lost} entries were lost with chains that the exporter refused for good: its log and quarantine say why.`,
    );
  }
  if (missing > 0) {
    return warning(
      `${missing} requests are counted as missing, since the buffer was full while the exporter was away.`,
    );
  }
  return good(`${receipted(last)} of ${own(last, "entries")} entries are receipted.`);
}

/** Envoy writes ":" as "_" in names; Istio ends a cluster's with ";". */
const stemOf = (cluster: string): string => `cluster.${cluster.replaceAll(":", "_")}`;

/** Envoy's counters; of a cluster that keeps none, as in Istio's proxies, those of its hosts under the same names. */
async function read(admin: Admin, cluster: string): Promise<Stats> {
  const stats = await admin.statsNow();
  const stem = stemOf(cluster);
  if ([stem, `${stem};`].some((name) => stats.has(`${name}.upstream_rq_total`))) return stats;
  const hosts = (await admin.clustersNow()).get(cluster);
  for (const name of ["cx_connect_fail", "rq_timeout", "rq_total"])
    stats.set(`${stem}.upstream_${name}`, hosts?.get(name) ?? 0);
  return stats;
}

function whyNot(cluster: string, first: Stats, last: Stats): string {
  const stem = stemOf(cluster);
  const of = (stats: Stats, stat: string): number =>
    stats.get(`${stem}.${stat}`) ?? stats.get(`${stem};.${stat}`) ?? 0;
  const rose = (...names: string[]): boolean =>
    names.some((name) => of(last, name) > of(first, name));
  const entries = `${waiting(last)} entries wait`;
  if (
    rose(
      "ssl.connection_error",
      "ssl.fail_verify_error",
      "ssl.fail_verify_no_cert",
      "ssl.fail_verify_san",
    )
  ) {
    return `${entries}: TLS with the exporter fails. Compare the certificates of "${cluster}" with --tls-client-ca and --tls-cert of the exporter.`;
  }
  if (rose("upstream_cx_connect_fail", "upstream_cx_none_healthy", "upstream_cx_connect_timeout")) {
    return `${entries}: no connection to the exporter. It does not listen where "${cluster}" points, or a NetworkPolicy is in between.`;
  }
  if (rose("upstream_rq_403")) {
    return `${entries}: the exporter answers 403. This proxy's identity may not write: see the exporter's --access file, or its senders.`;
  }
  if (rose("upstream_cx_destroy_remote_with_active_rq", "upstream_rq_rx_reset")) {
    return `${entries}: the exporter cuts the connections. Does it speak TLS, and "${cluster}" does not (or the other way round)?`;
  }
  if (own(last, "refusals") > own(first, "refusals")) {
    return `${entries}: the exporter refuses the batches. Its log says why, in lines with "refusal".`;
  }
  if (rose("upstream_rq_503", "upstream_rq_429")) {
    return `${entries}: the exporter answers, and takes no batches now. Ask its /readyz why.`;
  }
  if (rose("upstream_rq_timeout")) {
    return `${entries}: the exporter does not answer in time. Is its disk slow, or the machine overloaded?`;
  }
  if (rose("upstream_rq_total", "upstream_rq_completed")) {
    return `${entries}: what answers at "${cluster}" gives no receipts. Is it a Meshseal exporter? If it is, may this proxy write there (--access, istio.principals of the chart)?`;
  }
  return `${entries}, and no batch was sent. Does the filter's "cluster" setting name a cluster that Envoy has, and is proxy_http_call allowed?`;
}
