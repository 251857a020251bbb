/** A server of buckets in a process and a directory of its own, on a free port of loopback. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

export type StoreServer = {
  readonly endpoint: string;
  readonly port: number;
  /** Starts it where it was, and waits until `isReady` resolves to true. Rejects with what it said if it ends before. */
  readonly start: (isReady: () => Promise<boolean>) => Promise<void>;
  /** SIGKILL, and waits for the end. */
  readonly kill: () => Promise<void>;
  /** Stops it and removes its directory. */
  readonly close: () => Promise<void>;
};

export type ServerCommand = {
  readonly command: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
};

const START_MS = 60_000;

export async function openServer(
  name: string,
  commandOf: (dir: string, port: number) => ServerCommand,
): Promise<StoreServer> {
  const dir = mkdtempSync(join(tmpdir(), `meshseal-${name}-`));
  const port = await freePort();
  const { command, args, env } = commandOf(dir, port);
  let child: ChildProcess | null = null;

  async function kill(): Promise<void> {
    const running = child;
    child = null;
    if (running === null || running.exitCode !== null) return;
    const ended = new Promise((resolve) => running.once("exit", resolve));
    running.kill("SIGKILL");
    await ended;
  }

  return {
    endpoint: `http://127.0.0.1:${port}`,
    port,
    start: async (isReady) => {
      const output: string[] = [];
      const process_ = spawn(command, args, {
        env: { ...process.env, ...env },
        stdio: ["ignore", "pipe", "pipe"],
      });
      child = process_;
      for (const stream of [process_.stdout, process_.stderr]) {
        stream.setEncoding("utf8").on("data", (text: string) => output.push(text));
      }
      const until = Date.now() + START_MS;
      while (process_.exitCode === null && Date.now() < until) {
        if (await isReady().catch(() => false)) return;
        await sleep(100);
      }
      throw new Error(`${name} did not start:\n${output.join("")}`);
    },
    kill,
    close: async () => {
      await kill();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const at = server.address();
      server.close(() => resolve(typeof at === "object" && at !== null ? at.port : 0));
    });
  });
}
