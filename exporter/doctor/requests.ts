/**
 * Does each request that a running Envoy took have its entry: the filter's count beside Envoy's own. Istio's proxies keep no
 * counts of their listeners (stats_matcher in Istio's bootstrap); there what they forwarded is compared, of `/clusters`.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { Admin } from "./admin.ts";
import type { Outcome } from "./check.ts";
import { bad, good, unknown, warning } from "./rules.ts";

/** Longer than the filter's ticks as they are by default. */
const SETTLE_MS = 2_000;

type Counts = {
  readonly counted: number;
  /** What was counted: "counted" at the listeners, or "forwarded". */
  readonly verb: string;
  readonly entries: number | undefined;
};

/** `exporters`: clusters that batches are sent to. */
export async function recorded(admin: Admin, exporters: readonly string[]): Promise<Outcome> {
  const { counted, entries, verb } = await settled(admin, exporters);
  if (counted === 0) return unknown("no request came yet.");
  if (entries === undefined) {
    return bad(
      `Envoy ${verb} ${counted} requests, and the filter none: it is not loaded, or in none of the listeners that took them.`,
    );
  }
  if (entries === 0)
    return bad(
      `Envoy ${verb} ${counted} requests, and the filter made no entry: is it in the listeners that took them, and is proxy_on_log allowed?`,
    );
  if (entries < counted)
    return warning(
      `Envoy ${verb} ${counted} requests at all its listeners, the filter ${entries}: some listeners have no filter, some came before it was there, or requests are still open. meshseal coverage says more.`,
    );
  return good(`Envoy ${verb} ${counted} requests, the filter ${entries}.`);
}

/** The filter brings its counts at its ticks, so a difference is looked at again. */
async function settled(admin: Admin, exporters: readonly string[]): Promise<Counts> {
  for (const end = Date.now() + SETTLE_MS; ; await delay(SETTLE_MS / 10)) {
    const found = await counts(admin, exporters);
    if ((found.entries ?? 0) >= found.counted || Date.now() > end) return found;
  }
}

async function counts(admin: Admin, exporters: readonly string[]): Promise<Counts> {
  const stats = await admin.statsNow();
  const entries = stats.get("wasmcustom.meshseal_requests");
  let counted = 0;
  let isKept = false;
  for (const [name, value] of stats) {
    if (!/^http\.(?!admin\.|async-client\.).*\.downstream_rq_total$/.test(name)) continue;
    counted += value;
    isKept = true;
  }
  if (isKept) return { counted, entries, verb: "counted" };
  const clusters = await admin.clustersNow();
  // A sidecar or waypoint ("inbound-vip|") is asked for what it serves; a gateway has nothing inbound.
  const inbound = [...clusters.keys()].filter((name) => /^inbound(-vip)?\|/.test(name));
  const outbound = [...clusters.keys()].filter(
    (name) => name.startsWith("outbound|") && !exporters.includes(name),
  );
  for (const name of inbound.length > 0 ? inbound : outbound)
    counted += clusters.get(name)?.get("rq_total") ?? 0;
  return { counted, entries, verb: "forwarded" };
}
