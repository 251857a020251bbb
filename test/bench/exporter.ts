/**
 * How many entries a second one exporter takes durably: each batch is answered with its receipt after fsync, and a
 * chain sends its next batch only then. Batches are made before the clock starts; the client shares the machine.
 *
 *     npm run bench -- exporter [--rounds 3] [--chains 64] [--batches 40] [--per-batch 200] [--bytes 300]
 */
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Pool } from "undici";
import { BATCH_PATH, BATCH_TYPE, RECEIPT_HEADER } from "../../record/wire.ts";
import { makeChain } from "../support/chains.ts";
import { startExporter } from "../support/exporter.ts";
import { checkLog } from "../support/log.ts";
import { median, spread } from "./figures.ts";
import { cpuMicros, peakMebibytes } from "./process.ts";

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "3" },
    chains: { type: "string", default: "64" },
    batches: { type: "string", default: "40" },
    "per-batch": { type: "string", default: "200" },
    bytes: { type: "string", default: "300" },
  },
});
const rounds = Number(options.rounds);
const chains = Number(options.chains);
const batches = Number(options.batches);
const perBatch = Number(options["per-batch"]);
const entries = chains * batches * perBatch;

type Round = { perSecond: number; cpu: number; p50: number; p99: number; memory: number };

async function sendChain(pool: Pool, made: readonly Uint8Array[], waits: number[]): Promise<void> {
  for (const body of made) {
    const sent = performance.now();
    const answer = await pool.request({
      method: "POST",
      path: BATCH_PATH,
      headers: { "content-type": BATCH_TYPE },
      body: Buffer.from(body.buffer, body.byteOffset, body.byteLength),
    });
    const text = await answer.body.text();
    if (answer.statusCode !== 200 || answer.headers[RECEIPT_HEADER] === undefined) {
      throw new Error(`the exporter answered ${answer.statusCode}: ${text}`);
    }
    waits.push(performance.now() - sent);
  }
}

async function measure(): Promise<Round> {
  const entryBytes = Number(options.bytes);
  const made = Array.from({ length: chains }, () => makeChain({ batches, perBatch, entryBytes }));
  const exporter = await startExporter({});
  const pool = new Pool(exporter.url, { connections: Math.min(chains, 256) });
  const waits: number[] = [];
  const cpuBefore = cpuMicros(exporter.pid);
  const started = performance.now();
  await Promise.all(made.map((chain) => sendChain(pool, chain, waits)));
  const seconds = (performance.now() - started) / 1000;
  // What is receipted is durable; what it costs until it is in tiles and signed counts as CPU all the same.
  await sleep(2000);
  const cpu = (cpuMicros(exporter.pid) - cpuBefore) / entries;
  const memory = peakMebibytes(exporter.pid);
  await pool.close();
  await exporter.stop();
  const report = await checkLog(exporter.dir);
  if (report.treeSize < entries) throw new Error(`${report.treeSize} of ${entries} are in the log`);
  waits.sort((a, b) => a - b);
  const at = (share: number): number => waits[Math.floor(waits.length * share)] ?? Number.NaN;
  return { perSecond: entries / seconds, cpu, p50: at(0.5), p99: at(0.99), memory };
}

const results: Round[] = [];
for (let round = 1; round <= rounds; round++) {
  const figures = await measure();
  results.push(figures);
  const { perSecond, cpu, p50, p99, memory } = figures;
  console.error(
    `round ${round}/${rounds}  ${Math.round(perSecond)} entries/s  ${cpu.toFixed(2)} us CPU an entry  ` +
      `receipt p50 ${p50.toFixed(0)} ms p99 ${p99.toFixed(0)} ms  ${memory.toFixed(0)} MiB`,
  );
}
console.log(
  `\nexporter: ${entries} entries of ${options.bytes} bytes, ${chains} chains, ${perBatch} a batch`,
);
console.log(`  entries a second, durable  ${spread(results.map((round) => round.perSecond))}`);
console.log(`  CPU an entry, us           ${spread(results.map((round) => round.cpu))}`);
console.log(`  receipt p50, ms            ${spread(results.map((round) => round.p50))}`);
console.log(`  receipt p99, ms            ${spread(results.map((round) => round.p99))}`);
console.log(
  `  peak memory, MiB           ${median(results.map((round) => round.memory)).toFixed(0)}`,
);
