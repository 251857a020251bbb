/** kill -9 at random moments under load, and everything that was shown before is compared at the end. */
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Agent, request } from "undici";
import { parseVkey, type Verifier } from "../../exporter/log/note.ts";
import { openReceipt } from "../../exporter/log/receipt.ts";
import { BATCH_TYPE } from "../../record/wire.ts";
import { makeChain } from "../support/chains.ts";
import { compare, keepCheckpoint, MAIN, type Shown } from "./traced.ts";

export type StormOptions = {
  readonly dir: string;
  readonly kills: number;
  /** Returns a number from 0 to 1, without 1. */
  readonly random: () => number;
  readonly onKill?: (kill: number) => void;
};

export type Storm = {
  readonly kills: number;
  /** Kills before the exporter listened: in its recovery or before. */
  readonly whileStarting: number;
  readonly receipts: number;
  readonly checkpoints: number;
  /** Times that the log was verified between two kills, as a kill left it. */
  readonly verified: number;
};

const SENDERS = 8;
const BATCHES = 40;
const VERIFY_EVERY = 50;

/** Runs the storm. Throws where anything is lost or contradicted. */
export async function killStorm(options: StormOptions): Promise<Storm> {
  const { dir, kills, random } = options;
  const port = await freePort();
  const shown: Shown = { receipts: [], checkpoints: [] };
  const state = { isOver: false };
  let child = start(dir, port);
  await isListening(child);
  const log = parseVkey(readFileSync(join(dir, "log.vkey"), "utf8").trim()) as Verifier;
  const senders = Array.from({ length: SENDERS }, () => send(port, log, shown, state));
  let whileStarting = 0;
  let verified = 0;
  for (let kill = 1; kill <= kills; kill++) {
    let isUp = false;
    const life = isListening(child).then(() => {
      isUp = true;
    });
    // One in four dies at some moment of its start; the others after they have listened for up to 400 ms.
    if (random() < 0.25) await Promise.race([sleep(random() * 600), life]);
    else {
      await life;
      await sleep(random() * 400);
    }
    if (!isUp) whileStarting++;
    await end(child, "SIGKILL");
    keepCheckpoint(dir, shown);
    if (kill % VERIFY_EVERY === 0) {
      // Receipts may be ahead of the checkpoint, so only what is signed is compared here.
      await compare(dir, { receipts: [], checkpoints: shown.checkpoints }, true);
      verified++;
    }
    options.onKill?.(kill);
    child = start(dir, port);
  }
  await isListening(child);
  state.isOver = true;
  await Promise.all(senders);
  if ((await end(child, "SIGTERM")) !== 0) throw new Error("no clean stop after the storm");
  keepCheckpoint(dir, shown);
  await compare(dir, shown);
  return {
    kills,
    whileStarting,
    receipts: shown.receipts.length,
    checkpoints: shown.checkpoints.length,
    verified,
  };
}

/** Sends chains of batches, one after the other, each batch until it is receipted, as a proxy does. */
async function send(
  port: number,
  log: Verifier,
  shown: Shown,
  state: { readonly isOver: boolean },
): Promise<void> {
  const agent = new Agent({ pipelining: 1 });
  while (!state.isOver) {
    for (const batch of makeChain({ batches: BATCHES, perBatch: 5, entryBytes: 200 })) {
      for (;;) {
        try {
          const answer = await request(`http://127.0.0.1:${port}/v1/batches`, {
            method: "POST",
            headers: { "content-type": BATCH_TYPE },
            body: Buffer.from(batch),
            dispatcher: agent,
          });
          await answer.body.dump();
          const header = answer.headers["meshseal-receipt"];
          const refusal = answer.headers["meshseal-refusal"];
          if (refusal !== undefined && refusal !== "busy") throw new Refused(String(refusal));
          const receipt =
            typeof header === "string" ? openReceipt(Buffer.from(header, "base64"), log) : null;
          if (receipt !== null) {
            shown.receipts.push(receipt);
            break;
          }
        } catch (error) {
          if (error instanceof Refused) throw error;
        }
        await sleep(20);
      }
      if (state.isOver) break;
      await sleep(2);
    }
  }
  await agent.close();
}

class Refused extends Error {
  override name = "Refused";
}

function start(dir: string, port: number): ChildProcess {
  const args = [MAIN, "serve", "--data", dir, "--listen", `127.0.0.1:${port}`];
  args.push("--checkpoint-ms", "20", "--origin", "crash.test/log");
  return spawn(process.execPath, args, { stdio: ["ignore", "ignore", "pipe"] });
}

const listening = new WeakMap<ChildProcess, Promise<void>>();

/** Resolves when it listens; never if it is killed before. Rejects where it ends by itself. */
function isListening(child: ChildProcess): Promise<void> {
  const known = listening.get(child);
  if (known !== undefined) return known;
  let said = "";
  const made = new Promise<void>((resolve, reject) => {
    child.stderr?.on("data", (bytes: Buffer) => {
      if (said.length < 100_000) said += bytes.toString();
      if (said.includes('"msg":"listening"')) resolve();
    });
    child.once("exit", (code, signal) => {
      if (signal !== "SIGKILL") reject(new Error(`the exporter ended with ${code}: ${said}`));
    });
  });
  made.catch(() => undefined);
  listening.set(child, made);
  return made;
}

function end(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  if (child.exitCode !== null) return Promise.resolve(child.exitCode);
  const ended = new Promise<number | null>((resolve) => child.once("exit", resolve));
  child.kill(signal);
  return ended;
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" ? (address?.port ?? 0) : 0));
    });
  });
}
