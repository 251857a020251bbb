/**
 * Schedules of take-overs, in a process of its own so that several run side by side: `take-over-run.ts ACK FIRST COUNT` prints the sum
 * of what happened as JSON, or fails with the seed of the schedule that went wrong.
 */
import { simulate } from "./take-over.ts";

const [ack, first, count] = process.argv.slice(2);
if (ack !== "store" && ack !== "wal") throw new Error("ACK must be store or wal");
const sum = { receipted: 0, entries: 0, deaths: 0, takeOvers: 0, fenced: 0 };
for (let seed = Number(first); seed < Number(first) + Number(count); seed++) {
  const { faults, ...counts } = await simulate(seed, ack);
  if (faults.length > 0) throw new Error(`seed ${seed}: ${faults.join("; ")}`);
  for (const key of Object.keys(sum) as (keyof typeof sum)[]) sum[key] += counts[key];
}
console.log(JSON.stringify(sum));
