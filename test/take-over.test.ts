import { expect, test } from "vitest";
import { type Outcome, simulate } from "./support/take-over.ts";

/** In all; MESHSEAL_SCHEDULES=10000 is a run of some minutes. MESHSEAL_SEED to begin elsewhere. */
const SCHEDULES = Number(process.env["MESHSEAL_SCHEDULES"] ?? 1000);
const FIRST = Number(process.env["MESHSEAL_SEED"] ?? 1);

async function run(ack: "store" | "wal", schedules: number): Promise<Omit<Outcome, "faults">> {
  const sum = { receipted: 0, entries: 0, deaths: 0, takeOvers: 0, fenced: 0 };
  for (let seed = FIRST; seed < FIRST + schedules; seed++) {
    const { faults, ...counts } = await simulate(seed, ack);
    if (faults.length > 0) throw new Error(`seed ${seed}: ${faults.join("; ")}`);
    for (const key of Object.keys(sum) as (keyof typeof sum)[]) sum[key] += counts[key];
  }
  console.log(`${schedules} schedules: ${JSON.stringify(sum)}`);
  return sum;
}

test("receipts that wait for the store: exporters take over from each other, one tree, nothing receipted is lost", async () => {
  const { receipted, deaths, takeOvers, fenced } = await run("store", SCHEDULES * 0.8);
  // The schedules are of the kind that is meant: processes die, and others that only stood still are fenced off.
  for (const count of [receipted, deaths, takeOvers, fenced]) {
    expect(count).toBeGreaterThan(SCHEDULES / 10);
  }
}, 900_000);

test("receipts that wait for the WAL: killed and started again on its disk, one tree, nothing receipted is lost", async () => {
  const { receipted, deaths, takeOvers } = await run("wal", SCHEDULES * 0.2);
  for (const count of [receipted, deaths, takeOvers]) expect(count).toBeGreaterThan(SCHEDULES / 10);
}, 900_000);
