import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { VerifyReport } from "../exporter/audit/report.ts";
import { openSource } from "../exporter/audit/source.ts";
import { SPAN_ENTRIES } from "../exporter/audit/span.ts";
import { verifyLog } from "../exporter/audit/verify.ts";
import { newSigner, parseVkey, type Verifier } from "../exporter/log/note.ts";
import { tilePath } from "../exporter/log/tile.ts";
import { BATCH_HEADER_BYTES, ENTRY_PREFIX_BYTES } from "../record/wire.ts";
import { ChainMaker } from "./bench/batches.ts";
import { makeLog } from "./support/make-log.ts";

// A log of more than one span is read on threads, and what is found must be the same as on one.

const PER_BATCH = 256;
const SPAN_BATCHES = SPAN_ENTRIES / PER_BATCH;
/** So many that there is a tile of level 1. */
const BATCHES = 256;
const signer = newSigner("spans.test/log", Buffer.alloc(32, 7));
const log = parseVkey(signer.vkey) as Verifier;

let root = "";
/** Some spans, of which the last is not full, and a partial tile, of three chains that go on from one to the other. */
let whole = "";

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), "meshseal-spans-"));
  const chains = [1, 2, 3].map(() => new ChainMaker(300));
  const batches = Array.from({ length: BATCHES + 7 }, (_, i) =>
    chains[i % chains.length]?.next(PER_BATCH),
  );
  batches.push(chains[0]?.next(100));
  whole = await logOf("whole", batches as Buffer[]);
});

afterAll(() => rmSync(root, { recursive: true, force: true }));

async function logOf(name: string, batches: readonly Buffer[]): Promise<string> {
  const dir = join(root, name);
  await makeLog(dir, signer, batches);
  return dir;
}

/** Verifies with threads and without, and returns what both say. */
async function verify(dir: string): Promise<VerifyReport> {
  const source = await openSource(dir);
  const one = await verifyLog(source, { log, threads: 1 });
  expect(await verifyLog(source, { log, threads: 2 })).toEqual(one);
  return one;
}

async function withFile(path: string, change: (bytes: Buffer) => Buffer): Promise<VerifyReport> {
  const copy = join(root, "copy");
  cpSync(whole, copy, { recursive: true });
  const file = join(copy, "log", path);
  const bytes = change(readFileSync(file));
  rmSync(file);
  writeFileSync(file, bytes);
  const report = await verify(copy);
  rmSync(copy, { recursive: true });
  return report;
}

function flip(bytes: Buffer, at: number): Buffer {
  bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
  return bytes;
}

test("every entry of a log of several spans is counted, and every chain is whole", async () => {
  const report = await verify(whole);
  const entries = (BATCHES + 7) * PER_BATCH + 100;
  expect(report).toMatchObject({ verdict: "verified", treeSize: entries, findings: [] });
  expect(report.entries).toEqual({ open: 3, request: entries - 3 });
  expect(report.chains).toHaveLength(3);
  const sum = report.chains.reduce((all, chain) => all + chain.entries, 0);
  expect(sum).toBe(entries);
});

test.each([0, 255, 262])("a flip in bundle %i is named by its entry", async (tile) => {
  const path = tilePath({ level: "entries", index: tile, width: PER_BATCH });
  const report = await withFile(path, (bytes) => flip(bytes, bytes.length - 1));
  expect(report.verdict).toBe("tampered");
  expect(report.findings[0]).toMatchObject({ cause: "entry", index: tile * PER_BATCH + 255 });
});

test("a flip in a tile of level 0 or 1, and a bundle cut short, are found", async () => {
  const leaf = await withFile("tile/0/017", (bytes) => flip(bytes, 33));
  expect(leaf.findings[0]).toMatchObject({ cause: "entry", index: 17 * PER_BATCH + 1 });
  const node = await withFile("tile/1/000", (bytes) => flip(bytes, 5 * 32));
  expect(node.findings[0]).toMatchObject({ cause: "tile", file: "tile/1/000" });
  const cut = await withFile("tile/entries/017", (bytes) => bytes.subarray(0, -1));
  expect(cut.findings[0]).toMatchObject({ cause: "entry", index: 17 * PER_BATCH + 255 });
});

test("a chain that does not go on from one span to the next is named at the seam", async () => {
  const chain = new ChainMaker(300);
  const first = Array.from({ length: SPAN_BATCHES }, () => chain.next(PER_BATCH));
  const last = first.at(-1) as Buffer;
  const twice = await verify(await logOf("twice", [...first, last]));
  expect(twice.findings[0]).toMatchObject({ cause: "duplicate", index: SPAN_ENTRIES });
  chain.next(PER_BATCH);
  const hole = await verify(await logOf("hole", [...first, chain.next(PER_BATCH)]));
  expect(hole.findings).toHaveLength(1);
  expect(hole.findings[0]).toMatchObject({
    cause: "missing",
    index: SPAN_ENTRIES,
    seq: SPAN_ENTRIES + PER_BATCH,
  });
});

test.each([1, 100, 255, 256, 300])(
  "an entry that does not follow the one before it, at %i, is named",
  async (index) => {
    const chain = new ChainMaker(300);
    const batches = [chain.next(PER_BATCH), chain.next(PER_BATCH)];
    // The tree has the changed entry before it: only the link tells.
    const [batch, i] = [batches[Math.floor((index - 1) / PER_BATCH)], (index - 1) % PER_BATCH];
    let end = BATCH_HEADER_BYTES;
    for (let n = 0; n <= i; n++) end += ENTRY_PREFIX_BYTES + (batch?.readUInt16BE(end) ?? 0);
    flip(batch as Buffer, end - 1);
    const report = await verify(await logOf(`link-${index}`, batches));
    expect(report.findings).toHaveLength(1);
    expect(report.findings[0]).toMatchObject({ cause: "link", index, seq: index });
  },
);
