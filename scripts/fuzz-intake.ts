/**
 * Fuzzes an exporter's intake for as long as is wanted, and verifies its log at the end:
 *
 *     npx tsx scripts/fuzz-intake.ts [--minutes 60] [--seed n]
 */
import { parseArgs } from "node:util";
import { startExporter } from "../test/support/exporter.ts";
import { checkFuzzedLog, fuzzIntake } from "../test/support/fuzz.ts";
import { randomFrom } from "../test/support/random.ts";

const { values } = parseArgs({
  options: { minutes: { type: "string", default: "60" }, seed: { type: "string" } },
});
const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 31));
console.error(`seed ${seed}`);
const exporter = await startExporter({ args: ["--log-level", "info"] });
const began = Date.now();
let told = 0;
const result = await fuzzIntake({
  url: exporter.url,
  pid: exporter.pid,
  random: randomFrom(seed),
  until: began + Number(values.minutes) * 60_000,
  maxGrowthMiB: 400,
  onProgress: (sofar) => {
    if (Date.now() - told < 60_000) return;
    told = Date.now();
    console.error(JSON.stringify({ minutes: Math.round((told - began) / 60_000), ...sofar }));
  },
});
const code = await exporter.stop();
if (code !== 0) throw new Error(`the exporter ended with ${code}`);
const report = await checkFuzzedLog(exporter.dir);
console.log(
  JSON.stringify({ seed, ...result, verdict: report.verdict, treeSize: report.treeSize }),
);
