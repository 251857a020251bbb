/** A real exporter, compiled, in a process of its own under strace(1), and what it showed to those who spoke with it. */
import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { Agent, request } from "undici";
import { openSource } from "../../exporter/audit/source.ts";
import { Tiles } from "../../exporter/audit/tiles.ts";
import { loadKey } from "../../exporter/keys.ts";
import { openCheckpoint } from "../../exporter/log/checkpoint.ts";
import type { Verifier } from "../../exporter/log/note.ts";
import { openReceipt, type Receipt } from "../../exporter/log/receipt.ts";
import { BATCH_TYPE } from "../../record/wire.ts";
import { checkLog } from "../support/log.ts";
import { bundledMain } from "./bundle.ts";

/** What node runs. No loader's system calls stand between its own. */
export const MAIN: string = bundledMain();

/** A run that has not ended by itself after so long hangs, in milliseconds. One takes a second or two. */
const HANGS_MS = 60_000;

/** Long enough for the batches of one round to come under one checkpoint, as a rule: then each run makes the same calls. */
const CHECKPOINT_MS = 100;

/** What was given out: it must be true of the log for ever. */
export type Shown = { readonly receipts: Receipt[]; readonly checkpoints: Buffer[] };

export type Ended = { readonly code: number | null; readonly signal: string | null };

export type Run = Ended & {
  /** Everything was receipted and published, and it stopped when it was told to. */
  readonly isWhole: boolean;
  /** Its log, on standard error. */
  readonly said: string;
};

const agent = new Agent({ connect: { timeout: 20_000 }, pipelining: 1 });

/**
 * Starts an exporter on `dir`, sends each round's batches at once, waits for a checkpoint over them, and stops it. Ends early
 * where the exporter does. `strace` are arguments for it, or null for none. Throws where it hangs.
 */
export async function runExporter(
  dir: string,
  rounds: readonly (readonly Uint8Array[])[],
  shown: Shown,
  strace: readonly string[] | null,
): Promise<Run> {
  const command = [process.execPath, MAIN, "serve", "--data", dir, "--listen", "127.0.0.1:0"];
  command.push("--checkpoint-ms", `${CHECKPOINT_MS}`, "--origin", "crash.test/log");
  const [program = "", ...args] =
    strace === null ? command : ["strace", "-f", ...strace, ...command];
  // One thread of libuv's: the calls of WAL writes have one order.
  const env = { ...process.env, UV_THREADPOOL_SIZE: "1" };
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"], env });
  const state = { isEnded: false, isHanging: false };
  const limit = setTimeout(() => {
    state.isHanging = true;
    tell(dir, "SIGKILL");
    child.kill("SIGKILL");
  }, HANGS_MS);
  const ended = new Promise<Ended>((resolve) =>
    child.once("exit", (code, signal) => {
      clearTimeout(limit);
      state.isEnded = true;
      resolve({ code, signal });
    }),
  );
  const lines: string[] = [];
  const url = await new Promise<string>((resolve) => {
    createInterface({ input: child.stderr }).on("line", (line) => {
      lines.push(line);
      const address = /"address":"([^"]+)"/.exec(line)?.[1];
      if (address !== undefined) resolve(`http://${address}`);
    });
    void ended.then(() => resolve(""));
  });
  let isWhole = url !== "";
  if (url !== "") {
    const { verifier } = loadKey(dir, undefined);
    for (const round of rounds) {
      const receipts = await Promise.all(
        round.map((batch) => post(url, batch, verifier, () => state.isEnded)),
      );
      for (const receipt of receipts) if (receipt !== null) shown.receipts.push(receipt);
      isWhole &&= !receipts.includes(null);
      if (state.isEnded) break;
      await published(url, () => state.isEnded);
      keepCheckpoint(dir, shown);
    }
    if (!state.isEnded) tell(dir, "SIGTERM");
  }
  const end = await ended;
  keepCheckpoint(dir, shown);
  const said = lines.join("\n");
  if (state.isHanging) throw new Error(`it hangs: ${said}`);
  return { ...end, isWhole: isWhole && end.code === 0, said };
}

/** Signals the exporter on `dir`, which strace may stand before, unless it ended at this moment. */
function tell(dir: string, signal: NodeJS.Signals): void {
  try {
    const pid = Number(readFileSync(join(dir, "lock"), "utf8").split(" ")[0]);
    if (pid > 0) process.kill(pid, signal);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ESRCH") throw error;
  }
}

async function post(
  url: string,
  batch: Uint8Array,
  log: Verifier,
  isEnded: () => boolean,
): Promise<Receipt | null> {
  // A proxy sends again as well when it is told to wait.
  for (let tries = 0; tries < 200 && !isEnded(); tries++) {
    try {
      const answer = await request(`${url}/v1/batches`, {
        method: "POST",
        headers: { "content-type": BATCH_TYPE },
        body: Buffer.from(batch),
        dispatcher: agent,
      });
      await answer.body.dump();
      const header = answer.headers["meshseal-receipt"];
      if (typeof header === "string") return openReceipt(Buffer.from(header, "base64"), log);
      if (answer.statusCode !== 503) return null;
    } catch {
      // The connection broke: it ended, or will be seen to have.
    }
    await sleep(50);
  }
  return null;
}

async function published(url: string, isEnded: () => boolean): Promise<void> {
  while (!isEnded()) {
    try {
      const answer = await request(`${url}/readyz`, { dispatcher: agent });
      const { unpublished } = (await answer.body.json()) as { unpublished: number };
      if (unpublished === 0) return;
    } catch {
      // As above.
    }
    await sleep(10);
  }
}

/** Remembers the checkpoint that a reader sees now. */
export function keepCheckpoint(dir: string, shown: Shown): void {
  const path = join(dir, "log", "checkpoint");
  if (!existsSync(path)) return;
  const checkpoint = readFileSync(path);
  if (!shown.checkpoints.at(-1)?.equals(checkpoint)) shown.checkpoints.push(checkpoint);
}

/** Verifies the log in `dir` and compares it with everything that was shown. Throws where they differ. After a kill drafts may lie about. */
export async function compare(dir: string, shown: Shown, isKilled = false): Promise<void> {
  const report = await checkLog(dir);
  const { verifier } = loadKey(dir, undefined);
  const tiles = new Tiles(await openSource(dir), report.treeSize);
  for (const note of shown.checkpoints) {
    const seen = openCheckpoint(note, verifier);
    const root = seen === null || seen.size > report.treeSize ? null : await tiles.root(seen.size);
    if (root === null || !seen?.root.every((byte, i) => byte === root[i])) {
      throw new Error(`the checkpoint of size ${seen?.size} is contradicted`);
    }
  }
  const held = new Map(report.chains.map(({ chain, last }) => [chain, last + 1]));
  for (const { chain, nextSeq } of shown.receipts) {
    if ((held.get(chain) ?? 0) < nextSeq) {
      throw new Error(`chain ${chain} was receipted up to ${nextSeq}, held is ${held.get(chain)}`);
    }
  }
  if (!isKilled && readdirSync(join(dir, "unfinished")).length > 0)
    throw new Error("drafts are left");
}
