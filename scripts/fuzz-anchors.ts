/**
 * Fuzzes the parsers of what outsiders send, each for as long as is wanted:
 *
 *     npx tsx scripts/fuzz-anchors.ts [--minutes 5] [--target ots] [--seed n]
 *
 * Ends the moment that something is wrong, with the input in base64. Prints how far inputs came, and the slowest one.
 */
import { parseArgs } from "node:util";
import { anchorTargets, mutate } from "../test/support/anchor-fuzz.ts";
import { randomFrom } from "../test/support/random.ts";

/** An input that takes longer is an attack. */
const MAX_MS = 1000;
/** Inputs that came far are mutated further, so many of them. */
const MAX_SEEDS = 500;

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "5" },
    target: { type: "string" },
    seed: { type: "string" },
  },
});
const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 31));
console.error(`seed ${seed}`);
const random = randomFrom(seed);
for (const { name, seeds, judge } of await anchorTargets()) {
  if (values.target !== undefined && values.target !== name) continue;
  const end = Date.now() + Number(values.minutes) * 60_000;
  const outcomes = new Map<string, number>();
  // What each was made from, so that a judge knows what it must be about.
  const pool = seeds.map((good) => ({ input: good, good }));
  let inputs = 0;
  let slowest = 0;
  for (; inputs % 256 !== 0 || Date.now() < end; inputs++) {
    const from = pool[Math.floor(random() * pool.length)] as (typeof pool)[0];
    const input = mutate(from.input, seeds, random);
    const began = performance.now();
    let outcome: string;
    try {
      outcome = judge(input, from.good);
    } catch (error) {
      console.error(`${name}: ${input.toString("base64")} from ${from.good.toString("base64")}`);
      throw error;
    }
    const took = performance.now() - began;
    slowest = Math.max(slowest, took);
    if (took > MAX_MS) throw new Error(`${name}: ${took} ms for ${input.toString("base64")}`);
    if (!outcomes.has(outcome) && pool.length < MAX_SEEDS) pool.push({ input, good: from.good });
    outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  }
  const found = Object.fromEntries([...outcomes].sort((a, b) => b[1] - a[1]).slice(0, 20));
  console.log(JSON.stringify({ name, inputs, slowestMs: Math.round(slowest), outcomes: found }));
}
