/** What the filter counts, as Envoy's own stats: `wasmcustom.<name>`. Shared by all workers of a proxy. */
import { proxy_increment_metric } from "@solo-io/proxy-runtime/assembly/imports";
import { defineMetric } from "./host";

const COUNTER: i32 = 0;
const GAUGE: i32 = 1;

/** One stat. A host that does not define it makes it silent: counting never stops recording. */
export class Metric {
  id: u32 = u32.MAX_VALUE;
  kind: i32;
  name: string;
  constructor(kind: i32, name: string) {
    this.kind = kind;
    this.name = name;
  }
  define(): void {
    if (this.id === u32.MAX_VALUE) this.id = defineMetric(this.kind, this.name);
  }
  add(count: i64): void {
    if (this.id !== u32.MAX_VALUE && count !== 0) proxy_increment_metric(this.id, count);
  }
}

export const entries = new Metric(COUNTER, "meshseal_entries");
export const requests = new Metric(COUNTER, "meshseal_requests");
export const receiptedEntries = new Metric(COUNTER, "meshseal_receipted_entries");
export const lostEntries = new Metric(COUNTER, "meshseal_lost_entries");
export const gapRequests = new Metric(COUNTER, "meshseal_gap_requests");
export const chains = new Metric(COUNTER, "meshseal_chains");
export const batchesSent = new Metric(COUNTER, "meshseal_batches_sent");
export const batchesReceipted = new Metric(COUNTER, "meshseal_batches_receipted");
export const refusals = new Metric(COUNTER, "meshseal_refusals");
export const sendFailures = new Metric(COUNTER, "meshseal_send_failures");
export const bufferedBytes = new Metric(GAUGE, "meshseal_buffered_bytes");

/** Defines all of them, once a VM. */
export function define(): void {
  entries.define();
  requests.define();
  receiptedEntries.define();
  lostEntries.define();
  gapRequests.define();
  chains.define();
  batchesSent.define();
  batchesReceipted.define();
  refusals.define();
  sendFailures.define();
  bufferedBytes.define();
}
