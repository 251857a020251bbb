/**
 * What the filter counts, as Envoy's own stats: `wasmcustom.<name>`, shared by all workers of a proxy. A host call each,
 * so counts are kept here and go out at each tick and each answer. docs/filter.md lists them with their units.
 */
import {
  proxy_increment_metric,
  proxy_record_metric,
} from "@solo-io/proxy-runtime/assembly/imports";
import { defineMetric, OK } from "./host";

const COUNTER: i32 = 0;
const GAUGE: i32 = 1;
const HISTOGRAM: i32 = 2;

/** One stat. A host that does not define it makes it silent: counting never stops recording. */
export class Metric {
  id: u32 = u32.MAX_VALUE;
  kind: i32;
  name: string;
  pending: i64 = 0;
  constructor(kind: i32, name: string) {
    this.kind = kind;
    this.name = name;
  }
  define(): void {
    if (this.id === u32.MAX_VALUE) this.id = defineMetric(this.kind, this.name);
  }
  add(count: i64): void {
    this.pending += count;
  }
  flush(): void {
    if (this.pending === 0 || this.id === u32.MAX_VALUE) return;
    if (proxy_increment_metric(this.id, this.pending) === OK) this.pending = 0;
  }
  /** One value of a histogram. */
  record(value: u64): void {
    if (this.id !== u32.MAX_VALUE) proxy_record_metric(this.id, value);
  }
  /** Makes what this VM adds to a gauge `value`. */
  set(value: i64): void {
    this.pending += value - this.own;
    this.own = value;
  }
  own: i64 = 0;
}

const ALL: Metric[] = [];

function metric(kind: i32, name: string): Metric {
  const one = new Metric(kind, "meshseal_" + name);
  ALL.push(one);
  return one;
}

export const entries: Metric = metric(COUNTER, "entries");
export const bytes: Metric = metric(COUNTER, "bytes");
export const requests: Metric = metric(COUNTER, "requests");
export const receiptedEntries: Metric = metric(COUNTER, "receipted_entries");
export const lostEntries: Metric = metric(COUNTER, "lost_entries");
export const spilledEntries: Metric = metric(COUNTER, "spilled_entries");
export const gapRequests: Metric = metric(COUNTER, "gap_requests");
export const gapBufferFull: Metric = metric(COUNTER, "gap_buffer_full");
export const gapHostFailed: Metric = metric(COUNTER, "gap_host_failed");
export const gapBestEffort: Metric = metric(COUNTER, "gap_best_effort");
export const enforcedRefusals: Metric = metric(COUNTER, "enforced_refusals");
export const chains: Metric = metric(COUNTER, "chains");
export const signatures: Metric = metric(COUNTER, "signatures");
export const batchesSent: Metric = metric(COUNTER, "batches_sent");
export const batchesReceipted: Metric = metric(COUNTER, "batches_receipted");
export const refusals: Metric = metric(COUNTER, "refusals");
export const badReceipts: Metric = metric(COUNTER, "bad_receipts");
export const sendFailures: Metric = metric(COUNTER, "send_failures");
export const bufferedBytes: Metric = metric(GAUGE, "buffered_bytes");
export const bufferBytes: Metric = metric(GAUGE, "buffer_bytes");
export const unreceiptedMs: Metric = metric(GAUGE, "unreceipted_ms");
export const receiptMs: Metric = metric(HISTOGRAM, "receipt_ms");
export const hashNs: Metric = metric(HISTOGRAM, "hash_ns");

/** Defines all of them, once a VM. */
export function define(): void {
  for (let i = 0; i < ALL.length; i++) ALL[i].define();
}

/** Hands out what was counted since the last time. */
export function flush(): void {
  for (let i = 0; i < ALL.length; i++) unchecked(ALL[i]).flush();
}
