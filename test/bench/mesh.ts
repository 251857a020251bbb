/**
 * The processes of a benchmark: one Envoy a variant, all at the same time, with one worker each; an upstream that is an Envoy too, an
 * exporter and a receiver for Envoy's own loggers. Loopback only, on ports that were free.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { request } from "undici";
import { findEnvoy } from "../../scripts/envoy.mjs";
import { type Exporter, startExporter } from "../support/exporter.ts";
import { bootstrap, type Modules, upstreamBootstrap, type Variant } from "./variants.ts";

export type Running = { readonly port: number; readonly admin: number; readonly pid: number };

export type Mesh = {
  readonly envoyVersion: string;
  /** Starts an Envoy for each variant, in place of those that run. */
  readonly restart: (variants: readonly Variant[]) => Promise<Map<Variant, Running>>;
  readonly stop: () => Promise<void>;
};

/** Compiles the filter that does nothing and starts what all variants share. */
export async function startMesh(
  modules: Pick<Modules, "filter" | "accessLog" | "settings">,
): Promise<Mesh> {
  const dir = mkdtempSync(join(tmpdir(), "meshseal-bench-"));
  const envoy: string = await findEnvoy({ version: "1.40" });
  const children = new Set<ChildProcess>();

  function start(command: string, args: readonly string[]): ChildProcess {
    const child = spawn(command, args, { cwd: dir, stdio: ["ignore", "pipe", "inherit"] });
    children.add(child);
    return child;
  }

  async function stop(child: ChildProcess): Promise<void> {
    children.delete(child);
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGTERM");
    await ended;
  }

  async function startEnvoy(name: string, config: unknown, admin: number): Promise<ChildProcess> {
    const file = join(dir, `${name}.json`);
    writeFileSync(file, JSON.stringify(config));
    const level = ["--log-level", "critical", "--disable-hot-restart"];
    const child = start(envoy, ["-c", file, "--concurrency", "1", ...level]);
    for (let tries = 0; tries < 600; tries++) {
      const answer = await request(`http://127.0.0.1:${admin}/ready`).catch(() => null);
      if ((await answer?.body.text())?.startsWith("LIVE")) return child;
      if (child.exitCode !== null) break;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`Envoy did not start with ${file}`);
  }

  let exporter: Exporter | undefined;
  const stopAll = async (): Promise<void> => {
    await Promise.all([...children].map(stop));
    await exporter?.stop();
    rmSync(dir, { recursive: true, force: true });
    if (exporter !== undefined) rmSync(exporter.dir, { recursive: true, force: true });
  };
  try {
    const noop = join(dir, "noop.wasm");
    const asc = ["node_modules/assemblyscript/bin/asc.js", "test/bench/noop.as.ts", "-o", noop];
    execFileSync(process.execPath, [...asc, "--target", "release"]);
    const loader = ["--import", import.meta.resolve("tsx")];
    const sink = start(process.execPath, [...loader, join(import.meta.dirname, "sink.ts")]);
    const sinkPort = await new Promise<number>((resolve) =>
      sink.stdout?.once("data", (data) => resolve(Number(data))),
    );
    exporter = await startExporter({});
    // They are elsewhere in a mesh: here they get the time that nobody else wants, so that no request waits for them.
    for (const pid of [sink.pid, exporter.pid])
      execFileSync("chrt", ["--all-tasks", "--idle", "--pid", "0", String(pid)]);
    const ports = {
      upstream: await freePort(),
      exporter: Number(new URL(exporter.url).port),
      sink: sinkPort,
    };
    const upstreamAdmin = await freePort();
    await startEnvoy("upstream", upstreamBootstrap(ports.upstream, upstreamAdmin), upstreamAdmin);
    const files: Modules = { ...modules, noop, accessLogFile: join(dir, "access.log") };
    let running: ChildProcess[] = [];
    const restart = async (variants: readonly Variant[]): Promise<Map<Variant, Running>> => {
      await Promise.all(running.map(stop));
      rmSync(files.accessLogFile, { force: true });
      const proxies = new Map<Variant, Running>();
      running = [];
      for (const variant of variants) {
        const [port, admin] = [await freePort(), await freePort()];
        const config = bootstrap(variant, { ...ports, listener: port, admin }, files);
        const child = await startEnvoy(variant, config, admin);
        running.push(child);
        proxies.set(variant, { port, admin, pid: child.pid ?? 0 });
      }
      return proxies;
    };
    const said = execFileSync(envoy, ["--version"]).toString();
    return { envoyVersion: /\/(\d+\.\d+\.\d+)\//.exec(said)?.[1] ?? said, restart, stop: stopAll };
  } catch (error) {
    await stopAll();
    throw error;
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

/** Returns one of Envoy's stats, 0 where it has none of that name. */
export async function stat(proxy: Running, name: string): Promise<number> {
  const answer = await request(`http://127.0.0.1:${proxy.admin}/stats?filter=${name}`);
  return Number(new RegExp(`^${name}: (\\d+)$`, "m").exec(await answer.body.text())?.[1] ?? 0);
}

/** Requests over 16 keep-alive connections, as fast as they are answered. Throws unless all are answered well. */
export function load(proxy: Running, path: string, count: number): void {
  const args = ["-n", String(count), "-c", "16", "--h1", "-H", "user-agent: bench/1.0"];
  const out = execFileSync("h2load", [...args, `http://127.0.0.1:${proxy.port}${path}`]).toString();
  const done = Number(/(\d+) succeeded/.exec(out)?.[1]);
  if (done !== count) throw new Error(`h2load: ${done} of ${count} requests succeeded`);
}

/** Milliseconds below which half and 99 of 100 answers came, and the requests a second that were sent. */
export type Waits = { readonly p50: number; readonly p99: number; readonly rate: number };

/** Connections that each think for a random time between answer and request: together almost a Poisson process. */
const THINKERS = 64;

/** Sends about `rate` requests a second, at random times, for `seconds`. */
export function thinkingLoad(proxy: Running, path: string, rate: number, seconds: number): Waits {
  const url = `http://127.0.0.1:${proxy.port}${path}`;
  const script = join(import.meta.dirname, "think.lua");
  const args = ["-t", "1", "-c", String(THINKERS), "-d", `${seconds}s`, "-s", script, url];
  const out = execFileSync("wrk", [...args, "--", String((THINKERS * 1000) / rate)]).toString();
  const [, p50, p99, requests, micros, errors] =
    /^meshseal (\d+) (\d+) (\d+) (\d+) (\d+)$/m.exec(out) ?? [];
  if (errors !== "0") throw new Error(`wrk: ${errors ?? "no"} requests failed: ${out}`);
  return {
    p50: Number(p50) / 1000,
    p99: Number(p99) / 1000,
    rate: Number(requests) / (Number(micros) / 1e6),
  };
}
