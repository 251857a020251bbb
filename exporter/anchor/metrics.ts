/** What the anchors count, in Prometheus' form. */
import { Counter, Gauge, Histogram, type Registry } from "prom-client";
import type { AnchorState } from "./runner.ts";

export type AnchorMetrics = {
  readonly attempts: Counter<"anchor" | "outcome">;
  readonly witnesses: Counter<"witness" | "outcome">;
  readonly seconds: Histogram;
  readonly clock: Gauge<"anchor">;
};

/** `ages` gives each anchor's state with its age in seconds, and if that is too much. */
export function anchorMetrics(
  registry: Registry,
  ages: () => readonly { state: AnchorState; ageSeconds: number; isLate: boolean }[],
): AnchorMetrics {
  const registers = [registry];
  const gauge = (
    name: string,
    help: string,
    value: (age: ReturnType<typeof ages>[number]) => number,
  ): void => {
    new Gauge({
      name,
      help,
      registers,
      labelNames: ["anchor"],
      collect() {
        for (const age of ages()) this.set({ anchor: age.state.name }, value(age));
      },
    });
  };
  gauge(
    "meshseal_anchor_age_seconds",
    "Time since the first checkpoint that the anchor does not cover; 0 if it covers all.",
    ({ ageSeconds }) => ageSeconds,
  );
  gauge(
    "meshseal_anchor_late",
    "1 where that is more than the configuration allows.",
    ({ isLate }) => Number(isLate),
  );
  gauge(
    "meshseal_anchor_size",
    "Entries that the anchor has seen a checkpoint over.",
    ({ state }) => state.size,
  );
  gauge(
    "meshseal_anchor_pending",
    "Proofs that are not complete yet.",
    ({ state }) => state.pending,
  );
  gauge(
    "meshseal_anchor_alarm",
    "1 where an outsider contradicts the log: it was rolled back, or forked.",
    ({ state }) => Number(state.isAlarm),
  );
  return {
    attempts: new Counter({
      name: "meshseal_anchor_attempts_total",
      help: "Attempts by outcome: proved, failed.",
      labelNames: ["anchor", "outcome"],
      registers,
    }),
    witnesses: new Counter({
      name: "meshseal_witness_requests_total",
      help: "Requests to single witnesses and peers by outcome: cosigned, failed.",
      labelNames: ["witness", "outcome"],
      registers,
    }),
    clock: new Gauge({
      name: "meshseal_anchor_clock_seconds",
      help: "By how much a time stamp authority's clock is ahead of this one; 0 where it cannot be told apart.",
      labelNames: ["anchor"],
      registers,
    }),
    seconds: new Histogram({
      name: "meshseal_anchor_seconds",
      help: "Time from an entry to the first outsider's proof over it, by the times in a sample of entries.",
      buckets: [1, 2, 5, 10, 20, 30, 40, 50, 60, 90, 120, 300, 600, 3600],
      registers,
    }),
  };
}
