/** What the exporter counts, in Prometheus' form. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { ScrubStatus } from "./audit/scrub.ts";
import type { Standing } from "./standing.ts";
import type { MirrorStatus } from "./store/mirror.ts";

export type Metrics = {
  readonly registry: Registry;
  readonly batches: Counter<"outcome">;
  readonly entries: Counter<"outcome">;
  readonly receiptSeconds: Histogram;
};

/** What is read when someone asks. */
export type Gauges = {
  readonly treeSize: () => number;
  readonly unpublished: () => number;
  readonly chains: () => number;
  readonly silentChains: () => number;
  readonly checkpointAgeSeconds: () => number;
  /** Of a log in a bucket. */
  readonly standing: Pick<
    Standing,
    "isImmutable" | "isBridged" | "walSecondsLeft" | "foreign"
  > | null;
};

function addGauge(registry: Registry, name: string, help: string, read: () => number): void {
  new Gauge({
    name,
    help,
    registers: [registry],
    collect() {
      this.set(read());
    },
  });
}

/** How the self-audit stands, as `meshseal_scrub_*`. */
export function addScrubGauges(registry: Registry, read: () => ScrubStatus): void {
  const gauges: [string, string, (status: ScrubStatus) => number][] = [
    ["findings", "Files of the log that are missing or wrong.", ({ findings }) => findings.length],
    ["passes", "Times that every byte of the log was re-read.", ({ passes }) => passes],
    ["position", "Entries re-read in the pass under way.", ({ position }) => position],
    [
      "oldest_unverified_seconds",
      "Age of the last reading of the byte that waits for the longest, at most.",
      ({ oldestUnverifiedSeconds }) => oldestUnverifiedSeconds,
    ],
  ];
  for (const [name, help, of] of gauges) {
    addGauge(registry, `meshseal_scrub_${name}`, help, () => of(read()));
  }
}

/** How the mirror stands, as `meshseal_mirror_*`. */
export function addMirrorGauges(registry: Registry, read: () => MirrorStatus): void {
  const gauges: [string, string, (status: MirrorStatus) => number][] = [
    ["lag_seconds", "Time since the mirror was as the log is.", ({ lagSeconds }) => lagSeconds],
    ["lag_entries", "Entries that the mirror does not have.", ({ lagEntries }) => lagEntries],
  ];
  for (const [name, help, of] of gauges) {
    addGauge(registry, `meshseal_mirror_${name}`, help, () => of(read()));
  }
}

export function createMetrics(gauges: Gauges): Metrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const gauge = (name: string, help: string, read: () => number): void =>
    addGauge(registry, name, help, read);
  gauge("meshseal_tree_size", "Leaves below the newest checkpoint.", gauges.treeSize);
  gauge(
    "meshseal_unpublished_entries",
    "Durable entries that wait for a checkpoint.",
    gauges.unpublished,
  );
  gauge("meshseal_chains", "Chains that the log holds.", gauges.chains);
  gauge(
    "meshseal_silent_chains",
    "Chains without a close that have sent nothing for longer than --silent-after-seconds, and for less than a day.",
    gauges.silentChains,
  );
  gauge(
    "meshseal_checkpoint_age_seconds",
    "Age of the newest checkpoint.",
    gauges.checkpointAgeSeconds,
  );
  const { standing } = gauges;
  if (standing !== null) {
    gauge(
      "meshseal_store_immutable",
      "1 if the bucket was seen to keep what is locked, 0 if not.",
      () => Number(standing.isImmutable),
    );
    gauge("meshseal_store_away", "1 while the bucket does not answer and the WAL bridges it.", () =>
      Number(standing.isBridged),
    );
    gauge(
      "meshseal_store_foreign_objects",
      "Files in whose place somebody else's bytes were, since the start: run verify.",
      () => standing.foreign,
    );
    gauge(
      "meshseal_wal_seconds_left",
      "Until the WAL is full at the present rate, if the bucket stays away.",
      () => standing.walSecondsLeft,
    );
  }
  return {
    registry,
    batches: new Counter({
      name: "meshseal_batches_total",
      help: "Batches by outcome: receipted, or the word of the refusal.",
      labelNames: ["outcome"],
      registers,
    }),
    entries: new Counter({
      name: "meshseal_entries_total",
      help: "Entries by outcome: added, or skipped since the log had them.",
      labelNames: ["outcome"],
      registers,
    }),
    receiptSeconds: new Histogram({
      name: "meshseal_receipt_seconds",
      help: "Time from a batch's arrival to its receipt.",
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
      registers,
    }),
  };
}
