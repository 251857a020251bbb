/** Runs a real Envoy from a configuration file as it is, and asks its admin address. */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { request } from "undici";
import { findEnvoy } from "../../scripts/envoy.mjs";

export type RunningEnvoy = {
  readonly admin: string;
  readonly log: () => string;
  /** Counters and gauges whose names match. */
  readonly stats: (pattern: string) => Promise<Map<string, number>>;
  /** Any page of the admin address, as text. */
  readonly page: (path: string) => Promise<string>;
  /** Addresses of the listeners, "host:port", in the order of their names. */
  readonly listeners: () => Promise<string[]>;
  readonly stop: () => Promise<void>;
};

export type RunOptions = {
  readonly args?: readonly string[];
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
};

const START_MS = 60_000;

/** Starts Envoy with the admin address that `config` names (port 0 is best), and resolves when it answers there. */
export async function runEnvoy(
  config: string,
  dir: string,
  options: RunOptions = {},
): Promise<RunningEnvoy> {
  const adminFile = join(dir, "admin-address");
  const args = [
    "-c",
    config,
    "--concurrency",
    "1",
    "--disable-hot-restart",
    "--admin-address-path",
    adminFile,
  ];
  const child = spawn(
    await findEnvoy({ version: "1.40" }),
    [...args, "--log-level", "warning", "--drain-time-s", "1", ...(options.args ?? [])],
    {
      cwd: options.cwd ?? dir,
      env: { ...process.env, ...options.env },
      stdio: ["ignore", "ignore", "pipe"],
    },
  );
  const lines: string[] = [];
  child.stderr.setEncoding("utf8").on("data", (text: string) => lines.push(text));
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const until = Date.now() + START_MS;
  let admin = "";
  while (admin === "") {
    if (Date.now() > until || child.exitCode !== null) {
      child.kill("SIGKILL");
      throw new Error(`Envoy did not start:\n${lines.join("")}`);
    }
    await sleep(50);
    try {
      const found = `http://${readFileSync(adminFile, "utf8").trim()}`;
      await (await request(`${found}/server_info`)).body.dump();
      admin = found;
    } catch {}
  }
  return runningEnvoy(
    admin,
    () => lines.join(""),
    async () => {
      child.kill("SIGTERM");
      await ended;
    },
  );
}

/** An Envoy at this admin address, whoever started it. */
export function runningEnvoy(
  admin: string,
  log: () => string,
  stop: () => Promise<void>,
): RunningEnvoy {
  const page = async (path: string): Promise<string> =>
    (await request(`${admin}${path}`)).body.text();
  return {
    admin,
    log,
    page,
    stats: async (pattern) => {
      const text = await page(`/stats?filter=${encodeURIComponent(pattern)}`);
      return new Map(
        text
          .split("\n")
          .filter((line) => line.includes(": "))
          .map((line) => [
            line.slice(0, line.indexOf(": ")),
            Number(line.slice(line.indexOf(": ") + 2)),
          ]),
      );
    },
    listeners: async () =>
      (await page("/listeners"))
        .trim()
        .split("\n")
        .filter(Boolean)
        .map((line) => line.slice(line.indexOf("::") + 2)),
    stop,
  };
}

/** Waits until `isSo`. Throws with what is said last if that takes longer than a minute. */
export async function until(
  isSo: () => Promise<boolean> | boolean,
  say: () => string,
): Promise<void> {
  const end = Date.now() + 60_000;
  while (!(await isSo())) {
    if (Date.now() > end) throw new Error(`it did not happen within a minute: ${say()}`);
    await sleep(50);
  }
}

/** Waits until every entry of this Envoy is receipted. */
export async function receipted(envoy: RunningEnvoy, atLeast: number): Promise<void> {
  let last = "";
  await until(
    async () => {
      const found = await envoy.stats("^wasmcustom\\.meshseal_(entries|receipted_entries)$");
      last = JSON.stringify([...found]);
      const entries = found.get("wasmcustom.meshseal_entries") ?? 0;
      return entries >= atLeast && entries === found.get("wasmcustom.meshseal_receipted_entries");
    },
    () => `${last}\n${envoy.log().slice(-2000)}`,
  );
}
