/** Runs a real Envoy from one of the bootstraps in envoy-configs/, on ports that are free. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { request } from "undici";
import { parseDocument } from "yaml";
import { findEnvoy } from "../envoy.mjs";
import { ROOT } from "../setup.mjs";

export type EnvoyOptions = {
  /** Where its configuration and its log go. */
  readonly dir: string;
  readonly upstreamPort: number;
  readonly exporterPort: number;
  /** The filter's JSON configuration. */
  readonly filter?: string;
  readonly config?: string;
  /** A whole bootstrap in place of one from envoy-configs/: ports must be 0 or free. */
  readonly bootstrap?: unknown;
  readonly version?: "1.40" | "1.36";
  readonly concurrency?: number;
  /** Variables of Envoy's own environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** How long listeners drain, 1 if absent. */
  readonly drainSeconds?: number;
  /** Changes the bootstrap before it is written, its ports and files already in place. */
  readonly change?: (bootstrap: Bootstrap) => void;
};

/** A bootstrap as parsed JSON, as far as it is changed here. */
// biome-ignore lint/suspicious/noExplicitAny: Envoy's schema is not typed here
export type Bootstrap = any;

export type Envoy = {
  readonly port: number;
  readonly adminPort: number;
  /** The port of a listener by name, 0 if it is not there. */
  readonly portOf: (name: string) => Promise<number>;
  readonly pid: number;
  /** What it wrote to its log so far. */
  readonly log: () => string;
  /** Returns one counter or gauge, 0 if it is not there yet. */
  readonly stat: (name: string) => Promise<number>;
  /** Waits until no request is active and every entry is receipted. False if that takes longer. */
  readonly settled: (withinMs: number) => Promise<boolean>;
  readonly stop: () => Promise<void>;
};

const START_MS = 20_000;

/** Starts Envoy with 2 workers and resolves when its admin endpoint says that it is live. */
export async function startEnvoy(options: EnvoyOptions): Promise<Envoy> {
  mkdirSync(options.dir, { recursive: true });
  const config = join(options.dir, "envoy.json");
  const adminFile = join(options.dir, "admin-address");
  writeFileSync(config, bootstrap(options));
  const { version } = options;
  const binary = await findEnvoy(version === undefined ? {} : { version });
  const args = [
    "-c",
    config,
    "--concurrency",
    String(options.concurrency ?? 2),
    "--disable-hot-restart",
    "--admin-address-path",
    adminFile,
  ];
  const child = spawn(
    binary,
    [...args, "--log-level", "warning", "--drain-time-s", String(options.drainSeconds ?? 1)],
    {
      cwd: ROOT,
      env: { ...process.env, ...options.env },
      stdio: ["ignore", "ignore", "pipe"],
    },
  );
  const lines: string[] = [];
  child.stderr.setEncoding("utf8").on("data", (text: string) => lines.push(text));
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
  const log = (): string => lines.join("");
  const adminPort = await liveAdmin(child, adminFile, log);
  const admin = `http://127.0.0.1:${adminPort}`;
  const stats = async (filter: string): Promise<Map<string, number>> => {
    const answer = await request(`${admin}/stats?filter=${encodeURIComponent(filter)}`);
    const text = await answer.body.text();
    return new Map(
      text.split("\n").map((line) => {
        const [name = "", value] = line.split(": ");
        return [name, Number(value)];
      }),
    );
  };
  const port = async (name = ""): Promise<number> => {
    const answer = await request(`${admin}/listeners?format=json`);
    const { listener_statuses: all = [] } = (await answer.body.json()) as Bootstrap;
    const one = all.find((listener: Bootstrap) => name === "" || listener.name === name);
    return one?.local_address.socket_address.port_value ?? 0;
  };
  return {
    port: await port(),
    portOf: port,
    adminPort,
    pid: child.pid ?? 0,
    log,
    stat: async (name) => (await stats(`^${name.replaceAll(".", "\\.")}$`)).get(name) ?? 0,
    settled: async (withinMs) => {
      const until = Date.now() + withinMs;
      while (Date.now() < until) {
        const found = await stats(
          "^(wasmcustom\\.meshseal_.*|http\\.edge\\.downstream_rq_active)$",
        );
        const of = (name: string): number => found.get(`wasmcustom.meshseal_${name}`) ?? 0;
        const isQuiet = found.get("http.edge.downstream_rq_active") === 0;
        if (isQuiet && of("entries") === of("receipted_entries") + of("lost_entries")) return true;
        await sleep(100);
      }
      return false;
    },
    stop: async () => {
      child.kill("SIGTERM");
      await ended;
    },
  };
}

function bootstrap(options: EnvoyOptions): string {
  if (options.bootstrap !== undefined) return JSON.stringify(options.bootstrap, null, 1);
  const { config, upstreamPort, exporterPort, filter } = options;
  const path = join(ROOT, "envoy-configs", config ?? "edge.yaml");
  const ports = new Map([
    [9901, 0],
    [10000, 0],
    [8080, upstreamPort],
    [7700, exporterPort],
  ]);
  const replaced = JSON.parse(
    JSON.stringify(parseDocument(readFileSync(path, "utf8")).toJS()),
    (key, value: unknown) => {
      if (key === "port_value") return ports.get(Number(value)) ?? value;
      if (key === "filename" && value === "build/filter.wasm")
        return join(ROOT, "build/filter.wasm");
      if (filter !== undefined && key === "value" && String(value).includes('"cluster"'))
        return filter;
      return value;
    },
  );
  options.change?.(replaced);
  return JSON.stringify(replaced, null, 1);
}

async function liveAdmin(child: ChildProcess, file: string, log: () => string): Promise<number> {
  const until = Date.now() + START_MS;
  while (Date.now() < until && child.exitCode === null) {
    await sleep(50);
    let address = "";
    try {
      address = readFileSync(file, "utf8").trim();
    } catch {
      continue;
    }
    const answer = await request(`http://${address}/ready`).catch(() => null);
    if ((await answer?.body.text())?.startsWith("LIVE")) return Number(address.split(":").at(-1));
  }
  child.kill("SIGKILL");
  throw new Error(`Envoy did not start:\n${log()}`);
}
