/**
 * `meshseal verify` beside Tessera's fsck, which only hashes, in turn on one log that is made once.
 *
 *     npm run bench:verify [-- --json] [--rounds 7] [--entries 1000000] [--chains 64] [--per-batch 200] [--bytes 300]
 *                          [--log DIR] [--no-peers]
 *
 * With --log the log is kept there, and taken as it is where one is there already.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { newSigner } from "../../exporter/log/note.ts";
import { makeLog } from "../support/make-log.ts";
import { ChainMaker } from "./batches.ts";
import { type Checks, check } from "./checks.ts";
import { median, spreadOf } from "./figures.ts";
import { findPeers } from "./peers.ts";

const { values: options } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    rounds: { type: "string", default: "7" },
    entries: { type: "string", default: "1000000" },
    chains: { type: "string", default: "64" },
    "per-batch": { type: "string", default: "200" },
    bytes: { type: "string", default: "300" },
    log: { type: "string" },
    "no-peers": { type: "boolean", default: false },
  },
});
const rounds = Number(options.rounds);
const perBatch = Number(options["per-batch"]);

/** Batches of all chains in turn. */
function* batches(): Generator<Buffer> {
  const makers = Array.from(
    { length: Number(options.chains) },
    () => new ChainMaker(Number(options.bytes)),
  );
  for (let left = Number(options.entries); ; ) {
    for (const maker of makers) {
      if (left <= 0) return;
      yield maker.next(Math.min(perBatch, left));
      left -= perBatch;
    }
  }
}

const peers = options["no-peers"] ? null : findPeers();
const dir = options.log ?? mkdtempSync(join(tmpdir(), "meshseal-verify-"));
const checkpoint = join(dir, "log/checkpoint");
if (!existsSync(checkpoint)) {
  await makeLog(dir, newSigner("bench.test/log", Buffer.alloc(32, 1)), batches());
}
const entries = Number(readFileSync(checkpoint, "utf8").split("\n")[1]);
const checks: Checks[] = [];
for (let round = 1; round <= rounds; round++) {
  const checked = await check(dir, entries, peers);
  checks.push(checked);
  console.error(
    `round ${round}/${rounds}  verify ${Math.round(checked.verify)} entries/s, fsck ${Math.round(checked.fsck)}, ratio ${(checked.verify / checked.fsck).toFixed(2)}; ` +
      `verify ${checked.verifyPeak.toFixed(0)} MiB, ${((checked.verifyCpu * 1e6) / entries).toFixed(2)} us CPU an entry`,
  );
}
if (options.log === undefined) rmSync(dir, { recursive: true });

const all = {
  verifyEntriesPerSecond: checks.map(({ verify }) => verify),
  fsckEntriesPerSecond: checks.map(({ fsck }) => fsck),
  ratio: checks.map(({ verify, fsck }) => verify / fsck),
  peakRssMiB: checks.map(({ verifyPeak }) => verifyPeak),
  cpuPerEntryUs: checks.map(({ verifyCpu }) => (verifyCpu * 1e6) / entries),
};
const summary = Object.fromEntries(
  Object.entries(all).map(([name, figures]) => [
    name,
    { median: median(figures), spread: spreadOf(figures) },
  ]),
);
const versions = { node: process.version, ...peers?.versions, cpu: cpus()[0]?.model ?? "" };
if (options.json)
  console.log(JSON.stringify({ ...summary, entries, rounds, versions, cores: cpus().length }));
else {
  for (const [name, { median: middle, spread }] of Object.entries(summary)) {
    const [least, most] = spread.map((figure) => figure.toFixed(2));
    console.log(`  ${name.padEnd(24)} ${middle.toFixed(2)} (${least} to ${most})`);
  }
}
