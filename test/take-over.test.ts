import { execFile } from "node:child_process";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import type { Outcome } from "./support/take-over.ts";

/** In all: three to four minutes of CPU. MESHSEAL_SCHEDULES=1000 for a quick look, MESHSEAL_SEED to begin elsewhere. */
const SCHEDULES = Number(process.env["MESHSEAL_SCHEDULES"] ?? 10_000);
const FIRST = Number(process.env["MESHSEAL_SEED"] ?? 1);
const LIMIT_MS = 900_000;

const RUN = fileURLToPath(new URL("./support/take-over-run.ts", import.meta.url));

type Counts = Omit<Outcome, "faults">;

/** Runs `schedules` on all cores, and returns what happened in all of them. Rejects with the seed of one that went wrong. */
async function run(ack: "store" | "wal", schedules: number): Promise<Counts> {
  const each = Math.ceil(schedules / availableParallelism());
  const runs: Promise<Counts>[] = [];
  for (let done = 0; done < schedules; done += each) {
    const args = [ack, FIRST + done, Math.min(each, schedules - done)].map(String);
    const child = promisify(execFile)(process.execPath, ["--import", "tsx", RUN, ...args]);
    runs.push(child.then(({ stdout }) => JSON.parse(stdout) as Counts));
  }
  const sum = { receipted: 0, entries: 0, deaths: 0, takeOvers: 0, fenced: 0 };
  for (const counts of await Promise.all(runs))
    for (const key of Object.keys(sum) as (keyof typeof sum)[]) sum[key] += counts[key];
  console.log(`${schedules} schedules: ${JSON.stringify(sum)}`);
  return sum;
}

test(
  "receipts that wait for the store: exporters take over from each other, one tree, nothing receipted is lost",
  async () => {
    const { receipted, deaths, takeOvers, fenced } = await run("store", SCHEDULES * 0.8);
    // The schedules are of the kind that is meant: processes die, and others that only stood still are fenced off.
    for (const count of [receipted, deaths, takeOvers, fenced]) {
      expect(count).toBeGreaterThan(SCHEDULES / 10);
    }
  },
  LIMIT_MS,
);

test(
  "receipts that wait for the WAL: killed and started again on its disk, one tree, nothing receipted is lost",
  async () => {
    const { receipted, deaths, takeOvers } = await run("wal", SCHEDULES * 0.2);
    for (const count of [receipted, deaths, takeOvers])
      expect(count).toBeGreaterThan(SCHEDULES / 10);
  },
  LIMIT_MS,
);
