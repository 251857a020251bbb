/** `verify` beside Tessera's fsck on the same log: what bench:log and bench:verify have in common. */
import { spawn } from "node:child_process";
import { cpus } from "node:os";
import { join } from "node:path";
import { compiledMain } from "../support/compiled.ts";
import type { Peers } from "./peers.ts";
import { cpuMicros, peakMebibytes } from "./process.ts";

/** Entries a second of each; and of `verify` its most memory in MiB and its CPU in seconds. */
export type Checks = {
  readonly verify: number;
  readonly fsck: number;
  readonly verifyPeak: number;
  readonly verifyCpu: number;
};

/** Runs a program to its end: wall and CPU seconds, peak memory in MiB, what it said. Linux: GNU time is not needed. */
async function timed(
  program: string,
  args: readonly string[],
): Promise<{ seconds: number; cpu: number; peak: number; said: string; code: number | null }> {
  const began = performance.now();
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  child.stdout.on("data", (part) => {
    said += part;
  });
  child.stderr.on("data", (part) => {
    said += part;
  });
  let [peak, cpu] = [0, 0];
  const watching = setInterval(() => {
    try {
      peak = Math.max(peak, peakMebibytes(child.pid ?? 0) || 0);
      cpu = cpuMicros(child.pid ?? 0) / 1e6;
    } catch {
      // It has just ended.
    }
  }, 20);
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  clearInterval(watching);
  return { seconds: (performance.now() - began) / 1000, cpu, peak, said, code };
}

/** Runs both over the log of `entries` entries in `dir`, one after the other. Throws where one of them finds anything. */
export async function check(dir: string, entries: number, peers: Peers | null): Promise<Checks> {
  const key = join(dir, "log.vkey");
  const ours = await timed(process.execPath, [
    ...[compiledMain(), "verify", dir, "--key", `@${key}`, "--json"],
  ]);
  if (ours.code !== 0) throw new Error(`verify: ${ours.said.slice(0, 500)}`);
  const checks = {
    verify: entries / ours.seconds,
    fsck: Number.NaN,
    verifyPeak: ours.peak,
    verifyCpu: ours.cpu,
  };
  if (peers === null) return checks;
  const url = `--storage_url=file://${join(dir, "log")}/`;
  const theirs = await timed(peers.fsck, [
    ...[url, `--public_key=${key}`, "--ui=false", `-N=${cpus().length}`],
  ]);
  // Its exit code is 0 even when the check fails: only these words count.
  if (!theirs.said.includes("Successfully fsck'd")) throw new Error(theirs.said.slice(0, 500));
  return { ...checks, fsck: entries / theirs.seconds };
}
