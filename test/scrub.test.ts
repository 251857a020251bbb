import {
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { request } from "undici";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Scrub, type ScrubFinding } from "../exporter/audit/scrub.ts";
import { dirPlace } from "../exporter/audit/scrub-place.ts";
import { openSource } from "../exporter/audit/source.ts";
import { type Checkpoint, openCheckpoint } from "../exporter/log/checkpoint.ts";
import { parseVkey, type Verifier } from "../exporter/log/note.ts";
import { BATCH_TYPE } from "../record/wire.ts";
import { makeChain } from "./support/chains.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { checkLog } from "./support/log.ts";

type Ready = { status: string; reasons: string[]; treeSize: number; scrubPasses: number };

let exporter: Exporter;

async function ready(): Promise<Ready> {
  return (await (await request(`${exporter.url}/readyz`)).body.json()) as Ready;
}

async function until(holds: (state: Ready) => boolean): Promise<Ready> {
  for (;;) {
    const state = await ready();
    if (holds(state)) return state;
    await sleep(200);
  }
}

beforeAll(async () => {
  exporter = await startExporter({ args: ["--checkpoint-ms", "50"] });
  for (const batch of makeChain({ batches: 6, perBatch: 200, entryBytes: 200 })) {
    const answer = await request(`${exporter.url}/v1/batches`, {
      method: "POST",
      headers: { "content-type": BATCH_TYPE },
      body: Buffer.from(batch),
    });
    expect(answer.statusCode).toBe(200);
    await answer.body.dump();
  }
  await until(({ treeSize }) => treeSize === 1201);
});

afterAll(async () => {
  await exporter.stop();
  // The alarm stands in the log itself.
  expect((await checkLog(exporter.dir)).entries["verify_result"]).toBeGreaterThan(0);
});

const at = (name: string): string => join(exporter.dir, "log", name);

/** Each change. The whole of it must be noticed by the running exporter, and be over when the files are back. */
const CHANGES: readonly (readonly [string, (path: string) => void])[] = [
  ["tile/entries/000", (path) => rmSync(path)],
  ["tile/0/001", (path) => truncate(path)],
  ["tile/entries/002", (path) => flip(path, 77)],
  ["tile/0/003", (path) => flip(path, 5000)],
];

/** At the edge, which an exporter that goes on writes anew each second. */
const EDGE_CHANGES: readonly (readonly [string, (path: string) => void])[] = [
  ["checkpoint", (path) => rmSync(path)],
  ["checkpoint", (path) => flip(path, 30)],
  ["tile/entries/004.p/177", (path) => rmSync(path)],
  ["tile/entries/004.p/177", (path) => flip(path, 99)],
  ["tile/0/004.p/177", (path) => flip(path, 40)],
  ["tile/1/000.p/4", (path) => flip(path, 40)],
  ["tile/1/000.p/4", (path) => truncate(path)],
];

function flip(path: string, byte: number): void {
  const bytes = readFileSync(path);
  bytes.writeUInt8(bytes.readUInt8(byte) ^ 4, byte);
  // A file of its own: the log's are read-only.
  rmSync(path);
  writeFileSync(path, bytes);
}

function truncate(path: string): void {
  const bytes = readFileSync(path);
  rmSync(path);
  writeFileSync(path, bytes.subarray(0, 100));
}

test("files that are deleted, cut off or changed under a running exporter are noticed, and so is their return", async () => {
  expect((await ready()).reasons).toEqual([]);
  for (const [name] of CHANGES) {
    expect(existsSync(at(name)), name).toBe(true);
    writeFileSync(`${exporter.dir}/${name.replaceAll("/", "-")}`, readFileSync(at(name)));
  }
  const began = Date.now();
  for (const [name, change] of CHANGES) change(at(name));
  const state = await until(({ reasons }) => reasons.join().includes(`${CHANGES.length} files`));
  console.log(`${CHANGES.length} changes noticed after ${(Date.now() - began) / 1000} s`);
  expect(state.status).toBe("not ready");
  const named = exporter.logged.filter(({ level }) => level === 50).map(({ file }) => file);
  expect(named.sort()).toEqual(CHANGES.map(([name]) => name).sort());
  const metrics = await (await request(`${exporter.url}/metrics`)).body.text();
  expect(metrics).toContain(`meshseal_scrub_findings ${CHANGES.length}`);
  for (const [name] of CHANGES) {
    renameSync(`${exporter.dir}/${name.replaceAll("/", "-")}`, at(name));
  }
  await until(({ reasons }) => reasons.length === 0);
}, 300_000);

test("each file at the edge is named, and only that one", async () => {
  // A log at rest, as it was when it was copied.
  const root = mkdtempSync(join(tmpdir(), "meshseal-scrub-"));
  const whole = join(root, "whole");
  cpSync(join(exporter.dir, "log"), whole, { recursive: true });
  const log = parseVkey(exporter.vkey) as Verifier;
  const checkpoint = openCheckpoint(readFileSync(join(whole, "checkpoint")), log) as Checkpoint;
  const width = checkpoint.size % 256;
  const named = EDGE_CHANGES.map(async ([path, change], i) => {
    const name = path.replace("177", String(width));
    const dir = join(root, String(i));
    cpSync(whole, dir, { recursive: true });
    change(join(dir, name));
    const found: string[] = [];
    const scrub = new Scrub({
      place: dirPlace(dir, await openSource(dir)),
      verifiers: [log],
      checkpoint: () => checkpoint,
      onFinding: ({ file }) => found.push(file),
      onGone: () => undefined,
    });
    scrub.start();
    while (scrub.status().passes < 2 || found.length === 0) await sleep(100);
    await scrub.stop();
    expect(found).toEqual([name]);
  });
  await Promise.all(named);
  rmSync(root, { recursive: true, force: true });
}, 120_000);

test("a log that grows all the time gives no false alarm", async () => {
  const log = parseVkey(exporter.vkey) as Verifier;
  const found: ScrubFinding[] = [];
  const newest = (): Checkpoint =>
    openCheckpoint(readFileSync(at("checkpoint")), log) as Checkpoint;
  const scrub = new Scrub({
    place: dirPlace(join(exporter.dir, "log"), await openSource(exporter.dir)),
    verifiers: [log],
    checkpoint: newest,
    onFinding: (finding) => found.push(finding),
    onGone: () => undefined,
  });
  scrub.start();
  for (let passes = 0; passes < 3; passes = scrub.status().passes) {
    const [batch = new Uint8Array()] = makeChain({ batches: 1, perBatch: 40, entryBytes: 200 });
    const answer = await request(`${exporter.url}/v1/batches`, {
      method: "POST",
      headers: { "content-type": BATCH_TYPE },
      body: Buffer.from(batch),
    });
    await answer.body.dump();
    await sleep(20);
  }
  await scrub.stop();
  expect(found).toEqual([]);
  expect((await ready()).reasons).toEqual([]);
}, 120_000);
