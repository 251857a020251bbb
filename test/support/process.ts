/** A program of others that a test starts and ends. */
import { type ChildProcess, spawn } from "node:child_process";

export type Process = {
  /** The last of what it said, on both of its outputs. */
  readonly said: () => string;
  readonly hasEnded: () => boolean;
  /** SIGTERM, and waits for the end. Resolves to the exit code. */
  readonly stop: () => Promise<number | null>;
};

/** Starts a program that a test ends. */
export function run(
  command: string,
  args: readonly string[],
  cwd: string,
  env: Readonly<Record<string, string>>,
): Process {
  const child: ChildProcess = spawn(command, args, {
    cwd,
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const lines: string[] = [];
  for (const stream of [child.stdout, child.stderr])
    stream?.setEncoding("utf8").on("data", (text: string) => lines.push(text));
  const ended = new Promise<number | null>((resolve) => {
    child.once("exit", (code) => resolve(code));
    child.once("error", () => resolve(null));
  });
  return {
    said: () => lines.join("").slice(-6000),
    hasEnded: () => child.exitCode !== null || child.signalCode !== null,
    stop: () => {
      child.kill("SIGTERM");
      return ended;
    },
  };
}
