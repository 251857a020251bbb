/**
 * Envoy's CPU per request: without filter, with a filter that does nothing, with ours, and with Envoy's own file, gRPC
 * and OpenTelemetry access loggers carrying the same facts. All variants in turn, `--rounds` times, so that what else the
 * machine does falls on all alike; figures are medians over the rounds, with the spread.
 *
 *     npm run bench -- envoy [--rounds 5] [--requests 150000] [--only none,meshseal]
 *
 * utime + stime of the Envoy process before and after (proc(5)): a Linux clock tick is 10 ms, so fewer than 50,000
 * requests say little. Exporter, receivers and upstream are processes of their own and are not counted.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { request } from "undici";
import { findEnvoy } from "../../scripts/envoy.mjs";
import { startExporter } from "../support/exporter.ts";
import { median, spread } from "./figures.ts";
import { cpuMicros } from "./process.ts";
import {
  bootstrap,
  type Files,
  type Ports,
  upstreamBootstrap,
  VARIANTS,
  type Variant,
} from "./variants.ts";

const PATHS = { direct: "/direct", proxied: "/cart/42" } as const;

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    requests: { type: "string", default: "150000" },
    only: { type: "string", default: VARIANTS.join(",") },
  },
});
const rounds = Number(options.rounds);
const requests = Number(options.requests);
const variants = VARIANTS.filter((variant) => options.only.split(",").includes(variant));

const dir = mkdtempSync(join(tmpdir(), "meshseal-bench-"));
const envoy: string = await findEnvoy({ version: "1.40" });
const children: ChildProcess[] = [];

function start(command: string, args: readonly string[]): ChildProcess {
  const child = spawn(command, args, { cwd: dir, stdio: ["ignore", "pipe", "ignore"] });
  children.push(child);
  return child;
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGTERM");
  await ended;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

async function startEnvoy(name: string, config: unknown, admin: number): Promise<ChildProcess> {
  const file = join(dir, `${name}.json`);
  writeFileSync(file, JSON.stringify(config));
  const level = ["--log-level", "error", "--disable-hot-restart"];
  const child = start(envoy, ["-c", file, "--concurrency", "1", ...level]);
  for (let tries = 0; tries < 200; tries++) {
    const answer = await request(`http://127.0.0.1:${admin}/ready`).catch(() => null);
    if ((await answer?.body.text())?.startsWith("LIVE")) return child;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`Envoy did not start with ${file}`);
}

function load(port: number, path: string, count: number): void {
  const args = ["-n", String(count), "-c", "16", "--h1", "-H", "user-agent: bench/1.0"];
  const out = execFileSync("h2load", [...args, `http://127.0.0.1:${port}${path}`]).toString();
  const done = Number(/(\d+) succeeded/.exec(out)?.[1]);
  if (done !== count) throw new Error(`h2load: ${done} of ${count} requests succeeded`);
}

async function measure(variant: Variant, ports: Ports, files: Files): Promise<Map<string, number>> {
  const child = await startEnvoy(variant, bootstrap(variant, ports, files), ports.admin);
  const figures = new Map<string, number>();
  for (const [name, path] of Object.entries(PATHS)) {
    load(ports.listener, path, Math.min(20_000, requests));
    const before = cpuMicros(child.pid ?? 0);
    load(ports.listener, path, requests);
    figures.set(name, (cpuMicros(child.pid ?? 0) - before) / requests);
  }
  await stop(child);
  rmSync(files.accessLog, { force: true });
  return figures;
}

function print(name: keyof typeof PATHS, results: Map<Variant, Map<string, number>[]>): void {
  const figuresOf = (variant: Variant): number[] =>
    (results.get(variant) ?? []).map((round) => round.get(name) ?? Number.NaN);
  const base = median(figuresOf("none"));
  console.log(
    `\n${name}: Envoy's CPU per request, microseconds, median of ${rounds} (least to most)`,
  );
  for (const variant of variants) {
    const figures = figuresOf(variant);
    const added = median(figures) - base;
    const ratio =
      variant === "none" ? "" : `+${added.toFixed(1)}  x${(median(figures) / base).toFixed(2)}`;
    console.log(`  ${variant.padEnd(9)} ${spread(figures).padEnd(24)} ${ratio}`);
  }
  const ours = median(figuresOf("meshseal")) - base;
  for (const variant of ["file", "grpc", "otel"] as const) {
    const theirs = median(figuresOf(variant)) - base;
    if (variants.includes(variant) && variants.includes("meshseal")) {
      console.log(`  meshseal adds ${(ours / theirs).toFixed(2)} of what ${variant} adds`);
    }
  }
}

try {
  execFileSync("h2load", ["--version"]);
} catch {
  console.error("meshseal: the benchmark needs h2load: apt-get install nghttp2-client");
  process.exit(1);
}
const exporter = await startExporter({});
try {
  const noop = join(dir, "noop.wasm");
  const asc = ["node_modules/assemblyscript/bin/asc.js", "test/bench/noop.as.ts", "-o", noop];
  const flags = ["-O3", "--runtime", "stub", "--noAssert", "--exportStart", "_initialize"];
  execFileSync(process.execPath, [...asc, ...flags, "--use", "abort=test/bench/noop.as/abort"]);
  const sink = start(process.execPath, [
    "--import",
    import.meta.resolve("tsx"),
    join(import.meta.dirname, "sink.ts"),
  ]);
  const sinkPort = await new Promise<number>((resolve) =>
    sink.stdout?.once("data", (data) => resolve(Number(data))),
  );
  const [listener, admin, upstream, upstreamAdmin] = await Promise.all(
    Array.from({ length: 4 }, freePort),
  );
  const ports = {
    listener: listener ?? 0,
    admin: admin ?? 0,
    upstream: upstream ?? 0,
    exporter: Number(new URL(exporter.url).port),
    sink: sinkPort,
  };
  const files = {
    ours: join(process.cwd(), "build/filter.wasm"),
    noop,
    accessLog: join(dir, "access.log"),
  };
  await startEnvoy(
    "upstream",
    upstreamBootstrap(ports.upstream, upstreamAdmin ?? 0),
    upstreamAdmin ?? 0,
  );

  const results = new Map<Variant, Map<string, number>[]>(variants.map((variant) => [variant, []]));
  for (let round = 1; round <= rounds; round++) {
    for (const variant of variants) {
      const figures = await measure(variant, ports, files);
      results.get(variant)?.push(figures);
      const said = [...figures]
        .map(([name, micros]) => `${name} ${micros.toFixed(1)} us`)
        .join("  ");
      console.error(`round ${round}/${rounds}  ${variant.padEnd(9)} ${said}`);
    }
  }
  for (const name of ["direct", "proxied"] as const) print(name, results);
} finally {
  await Promise.all(children.map(stop));
  await exporter.stop();
  rmSync(dir, { recursive: true, force: true });
}
