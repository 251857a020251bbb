import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { request } from "undici";
import { afterAll, beforeAll, expect, test } from "vitest";
import { witnesses } from "../../exporter/anchor/witness.ts";
import { openCheckpoint } from "../../exporter/log/checkpoint.ts";
import { parseCosignerVkey } from "../../exporter/log/cosignature.ts";
import { openNote, type Verifier } from "../../exporter/log/note.ts";
import { proveConsistency } from "../../exporter/log/prover.ts";
import { parseTlogPolicy } from "../../exporter/log/tlog-policy.ts";
import { startExporter } from "../support/exporter.ts";
import { type LiteWitness, startLiteWitness } from "../support/litewitness.ts";
import { checkLog } from "../support/log.ts";
import { type MemoryLog, memoryLog } from "../support/memory-log.ts";

const T0 = 1_767_139_200;
let log: MemoryLog;
let witness: LiteWitness;

beforeAll(async () => {
  log = await memoryLog("log.example/lite", "lite");
  witness = await startLiteWitness("wit.example/lite", [log.verifier.vkey]);
}, 600_000);
afterAll(() => witness?.stop());

/** Shows it a checkpoint as the exporter does. Resolves to the cosignature lines. */
async function submit(from: MemoryLog, note: Buffer): Promise<string> {
  const policy = parseTlogPolicy(`witness w ${witness.vkey} ${witness.url}\nquorum w\n`);
  const times = { everyMs: 1000, timeoutMs: 30_000, keepEveryMs: 0 };
  const none = { onCosigned: (): void => {}, onFailed: (): void => {} };
  const anchor = witnesses({ kind: "witness", name: "w", policy, ...times, ...none });
  const { size = 0, root = Buffer.alloc(32) } = openCheckpoint(note, from.verifier) ?? {};
  const prove = (old: number): Promise<Uint8Array[]> => proveConsistency(from.store.get, old, size);
  const subject = { size, root, note, prove };
  return (await anchor.submit(subject, AbortSignal.timeout(30_000))).bytes.toString();
}

test("litewitness cosigns our checkpoints as they grow, through every kind of proof", async () => {
  const key = parseCosignerVkey(witness.vkey) as Verifier;
  for (const step of [1, 1, 254, 1, 300, 43]) {
    const note = await log.grow(step, T0);
    // A new client each time: it learns from 409 what the witness holds.
    const lines = await submit(log, note);
    expect(openNote(Buffer.from(note.toString() + lines), [key])).not.toBeNull();
  }
});

test("and refuses another history of the same log", async () => {
  const fork = await memoryLog("log.example/lite", "lite");
  await fork.grow(700, T0 + 1);
  await expect(submit(fork, await fork.grow(1, T0 + 1))).rejects.toMatchObject({ isAlarm: true });
});

test("an exporter's served checkpoint carries its cosignature", async () => {
  const first = await startExporter({ args: ["--origin", "log.example/served"] });
  expect(await first.stop()).toBe(0);
  const other = await startLiteWitness("wit.example/served", [first.vkey]);
  try {
    const policy = [`witness w ${other.vkey} ${other.url}`, "quorum w"];
    const file = join(first.dir, "anchors.json");
    writeFileSync(file, JSON.stringify({ witnesses: { policy, everySeconds: 0.5 } }));
    const exporter = await startExporter({
      dir: first.dir,
      args: ["--anchors", file, "--checkpoint-ms", "100"],
    });
    const key = parseCosignerVkey(other.vkey) as Verifier;
    for (;;) {
      const note = await (await request(`${exporter.url}/log/checkpoint`)).body.text();
      if (openNote(Buffer.from(note), [key]) !== null) break;
      await new Promise((done) => setTimeout(done, 50));
    }
    expect(await exporter.stop()).toBe(0);
    await checkLog(first.dir);
  } finally {
    await other.stop();
  }
});
