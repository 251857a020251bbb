/**
 * The demonstration: real requests through a real Envoy become a verified, signed log; then one byte is flipped in a copy
 * and verification names the entry. People read stdout; progress goes to stderr; --json prints one object and nothing else.
 */
import { spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { SingleBar } from "cli-progress";
import { Command, InvalidArgumentError, Option } from "commander";
import type { VerifyReport } from "../../exporter/audit/report.ts";
import { tilePath } from "../../exporter/log/tile.ts";
import { type Exporter, startExporter } from "../../test/support/exporter.ts";
import { fail, ROOT } from "../setup.mjs";
import { type Envoy, startEnvoy } from "./envoy.ts";
import { attack, type BucketSummary, isSafe, namedIn, printBucket, watch } from "./in-bucket.ts";
import { runLoad } from "./load.ts";
import type { Outside } from "./outside.ts";
import { startUpstream, type Upstream } from "./upstream.ts";

/** With --store s3: three bundles and some entries more. */
const LEAST_REQUESTS = 800;

/** Time for the last entries to be receipted. */
const SETTLE_MS = 15_000;

type Flags = {
  seconds: number;
  rate: number;
  data?: string;
  killExporter: number;
  keepRunning?: boolean;
  store?: "s3";
  json?: boolean;
};

type Summary = {
  sent: number;
  envoyCounted: number;
  requestEntries: number;
  gaps: number;
  chains: VerifyReport["chains"];
  treeSize: number;
  root: string;
  verified: boolean;
  /** Of a log in a directory. */
  tamper?: { flippedIndex: number; namedIndex: number };
  /** Of a log in a bucket. */
  bucket?: BucketSummary;
  exporterKills: number;
  dir: string;
};

function whole(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (Number.isInteger(value) && value >= least && value <= most) return value;
    throw new InvalidArgumentError(`It must be a whole number from ${least} to ${most}.`);
  };
}

const program = new Command("npm run demo --")
  .description("Real requests through a real Envoy become a verified, signed log.")
  .option("--seconds <n>", "how long to send", whole(1, 3600), 8)
  .option("--rate <n>", "requests a second", whole(1, 5000), 200)
  .option("--data <dir>", "where the log goes: new or empty (default: a new directory)")
  .option(
    "--kill-exporter <n>",
    "kill the exporter with -9 and restart it n times during the load",
    whole(0, 20),
    0,
  )
  .option("--keep-running", "leave all running until ctrl-C")
  .addOption(
    new Option(
      "--store <s3>",
      "keep the log in a bucket of a real S3 server with object lock, with witness and time stamps, and attack it: needs Go once",
    ).choices(["s3"]),
  )
  .option("--json", "print one JSON object on stdout and nothing else")
  .parse();
const flags = program.opts<Flags>();

function say(text: string): void {
  console.error(`meshseal: ${text}`);
}

function dataDir(): string {
  if (flags.data === undefined) return mkdtempSync(join(tmpdir(), "meshseal-demo-"));
  const dir = resolve(process.env["INIT_CWD"] ?? ".", flags.data);
  if (existsSync(dir) && readdirSync(dir).length > 0)
    fail(`--data ${flags.data} is not empty: give a new or empty directory.`);
  mkdirSync(dir, { recursive: true });
  return dir;
}

/** Kills the exporter `times` times, evenly over the load, and starts it again where it was. */
async function killAgainAndAgain(
  first: Exporter,
  times: number,
  args: readonly string[],
): Promise<Exporter> {
  let exporter = first;
  const port = Number(new URL(first.url).port);
  for (let i = 0; i < times; i++) {
    await sleep((flags.seconds * 1000) / (times + 1));
    await exporter.kill();
    say(`exporter killed with -9 (${i + 1} of ${times}), starting it again ...`);
    exporter = await startExporter({ dir: exporter.dir, port, args });
  }
  return exporter;
}

function verify(dir: string): { status: number | null; report: VerifyReport } {
  const args = [
    "scripts/meshseal.mjs",
    "verify",
    dir,
    "--key",
    `@${join(data, "log.vkey")}`,
    "--json",
  ];
  const run = spawnSync(process.execPath, args, {
    cwd: ROOT,
    encoding: "utf8",
    maxBuffer: 1 << 28,
  });
  if (run.stdout === "") throw new Error(`verify ended with ${run.status}: ${run.stderr}`);
  return { status: run.status, report: JSON.parse(run.stdout) as VerifyReport };
}

/** Flips one bit of one entry in a copy of the log. Returns its index. */
function tamper(copy: string, treeSize: number): number {
  const index = Math.floor(treeSize / 2);
  const tile = Math.floor(index / 256);
  const width = Math.min(256, treeSize - tile * 256);
  const file = join(copy, "log", tilePath({ level: "entries", index: tile, width }));
  const bytes = readFileSync(file);
  let at = 0;
  for (let i = 0; i < index % 256; i++) at += 2 + bytes.readUInt16BE(at);
  // The last byte of the entry, behind its length.
  const last = at + 1 + bytes.readUInt16BE(at);
  bytes.writeUInt8(bytes.readUInt8(last) ^ 1, last);
  writeFileSync(file, bytes);
  return index;
}

async function sendLoad(
  envoy: Envoy,
  upstream: Upstream,
  { seconds, rate }: { seconds: number; rate: number },
): Promise<number> {
  const total = seconds * rate;
  const bar =
    process.stderr.isTTY && !flags.json
      ? new SingleBar({
          format: "  {bar} {value} requests",
          stream: process.stderr,
          clearOnComplete: true,
        })
      : null;
  bar?.start(total, 0);
  const sent = await runLoad({
    port: envoy.port,
    upstream,
    seconds,
    rate,
    onProgress: (now) => bar?.update(Math.min(now, total)),
  });
  bar?.stop();
  return sent;
}

const data = dataDir();
const work = mkdtempSync(join(tmpdir(), "meshseal-demo-run-"));
const stops: (() => Promise<unknown>)[] = [];
async function stopAll(): Promise<void> {
  for (const stop of stops.splice(0).reverse()) await stop();
}
process.once("SIGINT", () => void stopAll().then(() => process.exit(130)));
process.once("SIGTERM", () => void stopAll().then(() => process.exit(143)));

async function main(): Promise<Summary> {
  const upstream = await startUpstream();
  stops.push(upstream.stop);
  let outside: Outside | null = null;
  if (flags.store === "s3") {
    if (flags.seconds * flags.rate < LEAST_REQUESTS)
      fail(
        `--store s3 needs ${LEAST_REQUESTS} requests or more: a bundle is locked when it is full.`,
      );
    say("starting an S3 server with object lock, a time stamp authority and a witness ...");
    outside = await (await import("./outside.ts")).startOutside(data);
    stops.push(outside.stop);
  }
  const args = outside?.args ?? [];
  say("starting the exporter ...");
  let exporter = await startExporter({ dir: data, args });
  stops.push(() => exporter.stop());
  say("starting Envoy with the filter, 2 workers ...");
  const envoy = await startEnvoy({
    dir: work,
    upstreamPort: upstream.port,
    exporterPort: Number(new URL(exporter.url).port),
  });
  stops.push(envoy.stop);
  say(
    `sending ${flags.rate} requests a second for ${flags.seconds} seconds: GET, POST, 404, denied, reset, aborted; HTTP/1.1 and HTTP/2 ...`,
  );
  const [sent, alive] = await Promise.all([
    sendLoad(envoy, upstream, flags),
    killAgainAndAgain(exporter, flags.killExporter, args),
  ]);
  const lastRequest = Date.now();
  exporter = alive;
  say("waiting until every entry is receipted ...");
  const isSettled = await envoy.settled(SETTLE_MS);
  const envoyCounted = await envoy.stat("http.edge.downstream_rq_total");
  if (!isSettled)
    say(
      `not all entries were receipted within ${SETTLE_MS / 1000} s: the log will be short of them.`,
    );
  if (flags.keepRunning) {
    console.error(`
Running until ctrl-C:
  Envoy      http://127.0.0.1:${envoy.port}   (admin http://127.0.0.1:${envoy.adminPort})
  exporter   ${exporter.url}   (log ${exporter.url}/log/, ${exporter.url}/readyz, ${exporter.url}/metrics)
  data       ${data}`);
    await new Promise((done) => process.once("SIGINT", done));
  }
  if (outside !== null)
    return await inBucket({ outside, exporter, envoy, upstream, sent, envoyCounted, lastRequest });
  await envoy.stop();
  await exporter.stop();
  await upstream.stop();
  stops.length = 0;
  say("verifying the log ...");
  const { report } = verify(data);
  const copy = join(work, "tampered");
  cpSync(join(data, "log"), join(copy, "log"), { recursive: true });
  const flippedIndex = tamper(copy, report.treeSize);
  const { report: after } = verify(copy);
  const namedIndex = after.verdict === "tampered" ? (after.findings[0]?.index ?? -1) : -1;
  return { ...summaryOf(report, sent, envoyCounted), tamper: { flippedIndex, namedIndex } };
}

/** What is the same of a log in a directory and in a bucket. */
function summaryOf(report: VerifyReport, sent: number, envoyCounted: number): Summary {
  return {
    sent,
    envoyCounted,
    requestEntries: report.entries["request"] ?? 0,
    gaps: report.gaps.count,
    chains: report.chains,
    treeSize: report.treeSize,
    root: report.root,
    verified: report.verdict === "verified",
    exporterKills: flags.killExporter,
    dir: data,
  };
}

/** The rest of the way of a log in a bucket: watched until outsiders have it, attacked, and gone on with. */
async function inBucket(run: {
  outside: Outside;
  exporter: Exporter;
  envoy: Envoy;
  upstream: Upstream;
  sent: number;
  envoyCounted: number;
  lastRequest: number;
}): Promise<Summary> {
  const { outside, exporter, envoy, upstream, sent, envoyCounted, lastRequest } = run;
  say("waiting until witness, time stamp authority and bucket have all of it ...");
  const { seconds, immutable } = await watch(outside, exporter, lastRequest);
  await exporter.stop();
  say("trying everything against it that the exporter's own credentials could ...");
  const { report, attempts, verifiedAfter, planted } = await attack(
    outside,
    ({ attempt, outcome }) => say(`  ${outcome.padEnd(9)} ${attempt}`),
  );
  say("going on with locked objects planted where the next files will be ...");
  const port = Number(new URL(exporter.url).port);
  const again = await startExporter({ dir: data, port, args: outside.args });
  stops.push(() => again.stop());
  const sentMore = await sendLoad(envoy, upstream, { seconds: 3, rate: 200 });
  await envoy.settled(SETTLE_MS);
  await envoy.stop();
  await again.stop();
  say("verifying the log ...");
  const last = await outside.verify();
  await upstream.stop();
  await outside.stop();
  stops.length = 0;
  return {
    ...summaryOf(report, sent, envoyCounted),
    bucket: {
      server: outside.server.name,
      witness: outside.witness,
      seconds,
      immutable,
      attempts,
      verifiedAfter,
      planted: {
        paths: planted,
        sent: sent + sentMore,
        requestEntries: last.entries["request"] ?? 0,
        named: namedIn(last),
      },
      verify: outside.command,
    },
  };
}

function print(summary: Summary): void {
  const {
    sent,
    envoyCounted,
    requestEntries,
    gaps,
    chains,
    treeSize,
    root,
    verified,
    tamper: found,
    bucket,
  } = summary;
  const dir = relative(ROOT, data).startsWith("..") ? data : relative(ROOT, data);
  const vkey = readFileSync(join(data, "log.vkey"), "utf8").trim();
  console.log(`
  requests sent          ${sent}
  requests Envoy counted ${envoyCounted}
  requests in the log    ${requestEntries}${gaps > 0 ? `  (and ${gaps} counted as missing)` : ""}
  entries in all         ${treeSize}

  chains (one a worker, one Envoy's main thread, one a start of the exporter)`);
  for (const { chain, first, last, state } of chains)
    console.log(`    ${chain}  seq ${first} to ${last}  ${state}`);
  console.log(`
  checkpoint             ${treeSize} entries, root ${root}
  ${verified ? "VERIFIED" : "NOT VERIFIED"}               by ${vkey}`);
  if (bucket !== undefined) printBucket(bucket);
  if (found === undefined) return;
  console.log(`
  Then one bit of entry ${found.flippedIndex} was flipped in a copy of the log:
  ${found.namedIndex === found.flippedIndex ? "TAMPERED" : "NOT FOUND"}               entry ${found.namedIndex} is not the one in the tree

  The log is in ${dir}/log, its key in ${dir}/log.vkey. Try next:

    npm run -s meshseal -- verify ${dir} --key @${dir}/log.vkey
    npm run -s meshseal -- show ${found.flippedIndex} --log ${dir}
    npm run demo -- --kill-exporter 2
`);
}

try {
  const summary = await main();
  if (flags.json) console.log(JSON.stringify(summary));
  else print(summary);
  const { sent, envoyCounted, requestEntries, verified, tamper: found, bucket } = summary;
  const isEqual = sent === envoyCounted && envoyCounted === requestEntries;
  const isFound = found === undefined || found.flippedIndex === found.namedIndex;
  const isHeld = bucket === undefined || isSafe(bucket);
  if (!isEqual || !verified || !isFound || !isHeld) process.exitCode = 1;
} catch (error) {
  await stopAll();
  fail(error instanceof Error ? error.message : String(error));
}
