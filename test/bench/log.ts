/**
 * The log's speed beside Tessera's POSIX driver, in turn on the same machine and disk: entries a second that are receipted
 * only when durable, CPU an entry, waits at half that load, memory, and `verify` beside Tessera's fsck on the same log.
 *
 *     npm run bench:log [-- --json] [--rounds 3] [--chains 64] [--entries 3072000] [--per-batch 432] [--bytes 300]
 *                       [--connections 64] [--cpus 0,1] [--no-peers] [--no-verify] [--dir DIR]
 *
 * A batch is as large as a filter's under load (its default `batchBytes`). CPU is that of the exporter's process, all threads, from
 * the first batch until everything is in tiles and signed. Both are warm when the clock starts, and measured for about as long:
 * Tessera's program runs for three seconds before its eight, and here as many seconds' entries come before the ones that count (a
 * shorter run measures V8's compiler). Directories are removed at the end only: ext4 goes round inodes that were deleted within the
 * last minutes, one by one, at each file it makes.
 */
import { type ChildProcess, execFileSync, fork, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { request } from "undici";
import { ENTRY_PREFIX_BYTES } from "../../record/wire.ts";
import { type Exporter, startExporter } from "../support/exporter.ts";
import { type Checks, check } from "./checks.ts";
import { median, percentile, spreadOf } from "./figures.ts";
import type { Make, Send, Sent } from "./load.ts";
import { findPeers, type Peers } from "./peers.ts";
import { cpuMicros, peakMebibytes, residentMebibytes } from "./process.ts";

const { values: options } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    rounds: { type: "string", default: "3" },
    chains: { type: "string", default: "64" },
    entries: { type: "string", default: "3072000" },
    "per-batch": { type: "string" },
    bytes: { type: "string", default: "300" },
    connections: { type: "string", default: "64" },
    seconds: { type: "string", default: "8" },
    cpus: { type: "string" },
    "no-peers": { type: "boolean", default: false },
    "no-verify": { type: "boolean", default: false },
    dir: { type: "string" },
  },
});
/** What a filter sends at once: its default `batchBytes`. */
const FILTER_BATCH_BYTES = 131_072;
/** About three seconds of it. */
const WARM_ENTRIES = 1_536_000;
const WARM_CHAINS = 64;
const rounds = Number(options.rounds);
const chains = Number(options.chains);
const entryBytes = Number(options.bytes);
const perBatch = Number(
  options["per-batch"] ?? Math.floor(FILTER_BATCH_BYTES / (ENTRY_PREFIX_BYTES + entryBytes)),
);
const connections = Number(options.connections);
const perChain = Math.max(1, Math.round(Number(options.entries) / chains / perBatch));
/** More than this and batches are made while they are sent: the client then is no measure of speed. */
const MAX_HELD_BYTES = 1.5 * 2 ** 30;
const isLazy = chains * perChain * perBatch * entryBytes > MAX_HELD_BYTES;
const SETTLE_MS = 60_000;
const root = options.dir ?? tmpdir();
/** Directories to remove at the end. */
const used: string[] = [];

type Round = {
  perSecond: number;
  cpu: number;
  /** CPU of the client, which has the same cores, an entry. */
  clientCpu: number;
  ackP50: number;
  ackP99: number;
  checkpointP99: number;
  rss: number;
  peak: number;
  startMs: number;
};
type Peer = { entriesPerSecond: number; cpuPerEntryUs: number; ackP99Ms: number };

const say = (line: string): void => console.error(line);

class Load {
  readonly #child: ChildProcess = fork(join(import.meta.dirname, "load.ts"), {
    execArgv: ["--import", import.meta.resolve("tsx"), "--max-old-space-size=8192"],
  });

  make(wanted: Make): Promise<unknown> {
    return this.#ask(wanted);
  }

  send(wanted: Send): Promise<Sent> {
    return this.#ask(wanted) as Promise<Sent>;
  }

  end(): void {
    this.#child.kill();
  }

  #ask(message: Make | Send): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const onExit = (): void => reject(new Error("the client has ended"));
      this.#child.once("exit", onExit);
      this.#child.once("message", (answer) => {
        this.#child.off("exit", onExit);
        resolve(answer);
      });
      this.#child.send(message);
    });
  }
}

/** Waits until all `entries` are below a checkpoint. */
async function settled(exporter: Exporter, entries: number): Promise<void> {
  for (const end = Date.now() + SETTLE_MS; ; ) {
    const answer = await request(`${exporter.url}/log/checkpoint`);
    const size = Number((await answer.body.text()).split("\n")[1]);
    if (size >= entries) return;
    if (Date.now() > end) throw new Error(`the checkpoint has ${size} of ${entries} entries`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function measure(load: Load): Promise<Round & { exporter: Exporter }> {
  const dir = mkdtempSync(join(root, "meshseal-bench-"));
  used.push(dir);
  const exporter = await startExporter({ dir });
  if (options.cpus !== undefined) pin(exporter.pid, options.cpus);
  const port = Number(exporter.address.split(":").at(-1));
  const batchesEach = Math.ceil(WARM_ENTRIES / WARM_CHAINS / perBatch);
  const warm = { chains: WARM_CHAINS, batches: batchesEach, perBatch, entryBytes, isLazy: false };
  await load.make(warm);
  const warmed = await load.send({ port, connections, rate: 0 });
  await load.make({ chains, batches: perChain, perBatch, entryBytes, isLazy });
  await settled(exporter, warmed.entries);
  const cpuBefore = cpuMicros(exporter.pid);
  const fast = await load.send({ port, connections, rate: 0 });
  await settled(exporter, warmed.entries + fast.entries);
  const cpu = (cpuMicros(exporter.pid) - cpuBefore) / fast.entries;
  const clientCpu = fast.cpu / fast.entries;
  const rss = residentMebibytes(exporter.pid);
  const perSecond = fast.entries / fast.seconds;
  // Half that load, for the waits: long enough for some checkpoints.
  const rate = perSecond / perBatch / 2;
  const wanted = Math.max(1, Math.round(rate * Number(options.seconds)));
  const few = Math.min(chains, wanted);
  const batches = Math.round(wanted / few);
  await load.make({ chains: few, batches, perBatch, entryBytes, isLazy: false });
  const half = await load.send({ port, connections, rate });
  const peak = peakMebibytes(exporter.pid);
  await exporter.stop();
  // What the log itself takes to start, without the runtime and its TypeScript loader.
  const restarted = await startExporter({ dir });
  const recovered = restarted.logged.find(({ msg }) => msg === "log recovered");
  const startMs = Number(recovered?.["ms"]);
  await restarted.stop();
  return {
    exporter,
    perSecond,
    cpu,
    clientCpu,
    ackP50: percentile(half.ackMs, 0.5),
    ackP99: percentile(half.ackMs, 0.99),
    checkpointP99: percentile(half.checkpointMs, 0.99),
    rss,
    peak,
    startMs,
  };
}

function measurePeer({ tesseraposix }: Peers): Peer {
  const dir = mkdtempSync(join(root, "meshseal-peer-"));
  const args = [`-dir=${dir}`, `-entry=${entryBytes}`, `-duration=${options.seconds}s`];
  used.push(dir);
  const answer = execFileSync(tesseraposix, args, { encoding: "utf8" });
  return JSON.parse(answer) as Peer;
}

function pin(pid: number, to: string): void {
  const run = spawnSync("taskset", ["-a", "-p", "-c", to, String(pid)], { encoding: "utf8" });
  if (run.status !== 0) throw new Error(`taskset: ${run.stderr}`);
}

const peers = options["no-peers"] ? null : findPeers();
if (peers === null && !options["no-peers"]) say("No Go here: Tessera is left out.");
const load = new Load();
const ours: Round[] = [];
const theirs: Peer[] = [];
const checks: Checks[] = [];
for (let round = 1; round <= rounds; round++) {
  const { exporter, ...mine } = await measure(load);
  ours.push(mine);
  say(
    `round ${round}/${rounds}  ${Math.round(mine.perSecond)} entries/s  ${mine.cpu.toFixed(2)} us CPU an entry (the client ${mine.clientCpu.toFixed(2)})  at half load: ` +
      `receipt p50 ${mine.ackP50.toFixed(1)} p99 ${mine.ackP99.toFixed(1)} ms, checkpoint p99 ${mine.checkpointP99.toFixed(0)} ms  ` +
      `RSS ${mine.rss.toFixed(0)} MiB, peak ${mine.peak.toFixed(0)}  start ${mine.startMs.toFixed(0)} ms`,
  );
  if (peers !== null) {
    const peer = measurePeer(peers);
    theirs.push(peer);
    say(
      `             tessera ${Math.round(peer.entriesPerSecond)} entries/s  ${peer.cpuPerEntryUs.toFixed(2)} us CPU an entry  receipt p99 ${peer.ackP99Ms.toFixed(1)} ms`,
    );
  }
  if (!options["no-verify"]) {
    const size = Number(
      readFileSync(join(exporter.dir, "log/checkpoint"), "utf8").split("\n")[1] ?? 0,
    );
    const checked = await check(exporter.dir, size, peers);
    checks.push(checked);
    say(
      `             verify ${Math.round(checked.verify)} entries/s (${checked.verifyPeak.toFixed(0)} MiB, ${((checked.verifyCpu * 1e6) / size).toFixed(2)} us CPU an entry), fsck ${Math.round(checked.fsck)} entries/s, of ${size}`,
    );
  }
}
load.end();
for (const dir of used) rmSync(dir, { recursive: true });

const all = {
  entriesPerSecond: ours.map((round) => round.perSecond),
  tesseraEntriesPerSecond: theirs.map((peer) => peer.entriesPerSecond),
  ratio: theirs.map((peer, i) => (ours[i]?.perSecond ?? Number.NaN) / peer.entriesPerSecond),
  cpuPerEntryUs: ours.map((round) => round.cpu),
  clientCpuPerEntryUs: ours.map((round) => round.clientCpu),
  tesseraCpuPerEntryUs: theirs.map((peer) => peer.cpuPerEntryUs),
  ackP50Ms: ours.map((round) => round.ackP50),
  ackP99Ms: ours.map((round) => round.ackP99),
  checkpointP99Ms: ours.map((round) => round.checkpointP99),
  rssMiB: ours.map((round) => round.rss),
  peakRssMiB: ours.map((round) => round.peak),
  startMs: ours.map((round) => round.startMs),
  verifyEntriesPerSecond: checks.map((one) => one.verify),
  fsckEntriesPerSecond: checks.map((one) => one.fsck),
};
const medians = Object.fromEntries(
  Object.entries(all).map(([name, figures]) => [name, round3(median(figures))]),
);
const spreads = Object.fromEntries(
  Object.entries(all).map(([name, figures]) => [name, spreadOf(figures).map(round3)]),
);
const entries = chains * perChain * perBatch;
const versions = {
  node: process.version,
  ...peers?.versions,
  cpu: cpus()[0]?.model ?? "",
  cores: cpus().length,
};
const summary = { ...medians, spreads, versions, rounds, entries, chains, perBatch, entryBytes };
if (options.json) console.log(JSON.stringify(summary, null, 2));
else {
  console.log(`\n${entries} entries of ${entryBytes} bytes, ${chains} chains, ${perBatch} a batch`);
  for (const [name, [least, most]] of Object.entries(spreads)) {
    console.log(`  ${name.padEnd(24)} ${medians[name]} (${least} to ${most})`);
  }
}

/** A figure with three significant decimals, or null of nothing. */
function round3(figure: number): number | null {
  return Number.isFinite(figure) ? Math.round(figure * 1000) / 1000 : null;
}
