import {
  appendFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { request } from "undici";
import { expect, test } from "vitest";
import { parseVkey, type Verifier } from "../exporter/log/note.ts";
import { openReceipt } from "../exporter/log/receipt.ts";
import { parseBatchHeader } from "../record/batch.ts";
import { BATCH_TYPE } from "../record/wire.ts";
import { makeChain } from "./support/chains.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { checkLog } from "./support/log.ts";

/** Sends one batch; resolves to the next seq of its receipt, or null where the exporter went away. */
async function post(exporter: Exporter, body: Uint8Array): Promise<number | null> {
  try {
    const answer = await request(`${exporter.url}/v1/batches`, {
      method: "POST",
      headers: { "content-type": BATCH_TYPE },
      body: Buffer.from(body),
    });
    await answer.body.dump();
    const header = String(answer.headers["meshseal-receipt"] ?? "");
    const log = parseVkey(exporter.vkey) as Verifier;
    return openReceipt(Buffer.from(header, "base64"), log)?.nextSeq ?? null;
  } catch {
    return null;
  }
}

test("kill -9 again and again under load: everything receipted is in the log, and nothing is contradicted", async () => {
  const chains = Array.from({ length: 8 }, () =>
    makeChain({ batches: 60, perBatch: 5, entryBytes: 200 }),
  );
  const sentUpTo = chains.map(() => 0);
  const receipted = new Map<string, number>();
  let exporter = await startExporter({ args: ["--checkpoint-ms", "20"] });
  const checkpoints: Buffer[] = [];
  for (let kill = 0; kill < 10; kill++) {
    const current = exporter;
    const senders = chains.map(async (batches, i) => {
      for (;;) {
        const batch = batches[sentUpTo[i] ?? 0];
        if (batch === undefined) return;
        const nextSeq = await post(current, batch);
        if (nextSeq === null) return;
        receipted.set(Buffer.from(parseBatchHeader(batch)?.chain ?? []).toString("hex"), nextSeq);
        sentUpTo[i] = (sentUpTo[i] ?? 0) + 1;
      }
    });
    await new Promise((done) => setTimeout(done, 20 + kill * 12));
    await current.kill();
    await Promise.all(senders);
    const path = join(current.dir, "log", "checkpoint");
    if (existsSync(path)) checkpoints.push(readFileSync(path));
    exporter = await startExporter({ dir: current.dir, args: ["--checkpoint-ms", "20"] });
  }
  for (const [i, batches] of chains.entries()) {
    for (const batch of batches.slice(sentUpTo[i])) {
      const nextSeq = await post(exporter, batch);
      expect(nextSeq).not.toBeNull();
      receipted.set(
        Buffer.from(parseBatchHeader(batch)?.chain ?? []).toString("hex"),
        nextSeq ?? 0,
      );
    }
  }
  expect(await exporter.stop()).toBe(0);
  const report = await checkLog(exporter.dir);
  expect(report.entries["request"]).toBe(8 * 60 * 5 - 8);
  const held = new Map(report.chains.map(({ chain, last }) => [chain, last + 1]));
  for (const [chain, nextSeq] of receipted) expect(held.get(chain)).toBe(nextSeq);
  expect(checkpoints.length).toBeGreaterThan(5);
}, 120_000);

async function withWal(): Promise<{ dir: string; wal: string }> {
  // No checkpoint within the test: what is receipted stands in the WAL alone.
  const exporter = await startExporter({ args: ["--checkpoint-ms", "60000"] });
  for (const batch of makeChain({ batches: 3, perBatch: 4, entryBytes: 200 })) {
    expect(await post(exporter, batch)).not.toBeNull();
  }
  await exporter.kill();
  const wal = join(exporter.dir, "wal");
  const [name = ""] = readdirSync(wal);
  return { dir: exporter.dir, wal: join(wal, name) };
}

test("a record that was cut off at the end of the WAL is dropped", async () => {
  const { dir, wal } = await withWal();
  appendFileSync(wal, Buffer.from("000001001234", "hex"));
  const exporter = await startExporter({ dir });
  expect(await exporter.stop()).toBe(0);
  expect((await checkLog(dir)).entries["request"]).toBe(11);
});

test("damage in the middle of the WAL stops the start with a sentence", async () => {
  const { dir, wal } = await withWal();
  const bytes = readFileSync(wal);
  bytes.writeUInt8(bytes.readUInt8(100) ^ 1, 100);
  writeFileSync(wal, bytes);
  await expect(startExporter({ dir })).rejects.toThrow(/is damaged at byte 4/);
});

test("a second exporter on the same data is refused, and keys are private", async () => {
  const exporter = await startExporter();
  await expect(startExporter({ dir: exporter.dir })).rejects.toThrow(/already writes to/);
  expect(statSync(join(exporter.dir, "log.key")).mode & 0o777).toBe(0o600);
  await exporter.stop();
  await expect(
    startExporter({ dir: exporter.dir, args: ["--origin", "other/log"] }),
  ).rejects.toThrow(/has the origin/);
  await expect(startExporter({ args: ["--listen", "0.0.0.0:0"] })).rejects.toThrow(/loopback only/);
  await checkLog(exporter.dir);
});
