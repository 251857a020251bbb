import { randomInt } from "node:crypto";
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openSource } from "../exporter/audit/source.ts";
import { Tiles } from "../exporter/audit/tiles.ts";
import { verifyLog } from "../exporter/audit/verify.ts";
import { loadKey } from "../exporter/keys.ts";
import { openCheckpoint } from "../exporter/log/checkpoint.ts";
import type { Receipt } from "../exporter/log/receipt.ts";
import { makeChain } from "./support/chains.ts";
import {
  type FaultKind,
  installFaults,
  isCase,
  type Plan,
  plan,
  unplan,
} from "./support/faults.ts";
import { randomFrom } from "./support/random.ts";
import { checkpointIn, openRig, type Rig } from "./support/rig.ts";

// Every call of node:fs that a log makes fails once, in each way that it can. test/crash does the same to a whole
// process and its system calls, but needs strace.

/** Small, so that segments are closed and pruned within one run. */
const SEGMENT_BYTES = 24 * 1024;

let root = "";
/** A data directory with a key and nothing else, and the batches that each run sends, in two chains. */
let fresh = "";
/** Two runs never share a directory, though their places may be the same. */
let runs = 0;
let sent: Uint8Array[][] = [];
/** The calls of a run in which nothing fails. */
let calls: readonly string[] = [];

beforeAll(async () => {
  await installFaults();
  // In memory where there is such a place: the index is LMDB's, which syncs.
  root = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "meshseal-faults-"));
  fresh = join(root, "fresh");
  mkdirSync(fresh);
  loadKey(fresh, undefined);
  // 2 * 6 * 45 entries: two tiles are filled, and their partial ones superseded.
  sent = [0, 1].map(() => makeChain({ batches: 6, perBatch: 45, entryBytes: 130 }));
  calls = (await oneFault("EIO", 0)).calls;
});

afterAll(() => rmSync(root, { recursive: true, force: true }));

/** What a run has shown to others: it must be in the log for ever. */
type Shown = { readonly receipts: Receipt[]; checkpoints: Buffer[] };

/** Sends everything, publishing now and then, until it is done or the log is dead. Resolves to whether it is done. */
async function run(dir: string, rig: Rig, shown: Shown, found: Plan): Promise<boolean> {
  const look = (): void => {
    const checkpoint = checkpointIn(dir);
    if (checkpoint !== null && !shown.checkpoints.at(-1)?.equals(checkpoint)) {
      shown.checkpoints.push(checkpoint);
    }
  };
  for (let i = 0; i < 6 && !found.isDead; i++) {
    const receipts = await Promise.all(sent.map((chain) => rig.send(chain[i] as Uint8Array)));
    if (found.isDead) break;
    for (const receipt of receipts) if (receipt !== null) shown.receipts.push(receipt);
    if (i % 2 === 1) await rig.publish();
    look();
  }
  if (!found.isDead) await rig.close().catch(() => rig.abandon());
  else await rig.abandon();
  look();
  return !found.isDead;
}

/** Opens and runs under `found`. Whatever happens, nothing of it holds on afterwards. */
async function attempt(dir: string, found: Plan, shown: Shown): Promise<boolean> {
  let rig: Rig;
  try {
    rig = await openRig(dir, SEGMENT_BYTES, () => {
      // A process would end here.
      found.isDead = true;
    });
  } catch {
    return false;
  }
  return run(dir, rig, shown, found);
}

async function check(dir: string, shown: Shown, what: string): Promise<void> {
  const { verifier: log } = loadKey(dir, undefined);
  const source = await openSource(dir);
  const report = await verifyLog(source, { log });
  if (report.verdict !== "verified") {
    throw new Error(`${what}: ${report.verdict}: ${JSON.stringify(report.findings[0])}`);
  }
  const tiles = new Tiles(source, report.treeSize);
  for (const note of shown.checkpoints) {
    const seen = openCheckpoint(note, log);
    const root = seen === null ? null : await tiles.root(seen.size);
    if (root === null || !seen?.root.every((byte, i) => byte === root[i])) {
      throw new Error(`${what}: the checkpoint of size ${seen?.size} is contradicted`);
    }
  }
  for (const { chain, nextSeq } of shown.receipts) {
    const held = report.chains.find((found) => found.chain === chain);
    if ((held?.last ?? -1) < nextSeq - 1) {
      throw new Error(`${what}: receipted up to ${nextSeq}, held up to ${held?.last}`);
    }
  }
}

/** One run with the fault at call `at`, and if `again` is given a second with one there; then it is started without. */
async function oneFault(kind: FaultKind, at: number, again = 0): Promise<Plan> {
  const dir = join(root, `${kind}-${at}-${again}-${runs++}`);
  cpSync(fresh, dir, { recursive: true });
  const shown: Shown = { receipts: [], checkpoints: [] };
  const found = plan(dir, at, kind);
  await attempt(dir, found, shown);
  if (again > 0) await attempt(dir, plan(dir, again, kind), shown);
  const what = `${kind} at call ${at} (${found.failed})`;
  if (!(await attempt(dir, plan(dir, 0, kind), shown))) throw new Error(`${what}: no start`);
  unplan(dir);
  await check(dir, shown, what);
  expect(shown.receipts.length).toBeGreaterThanOrEqual(12);
  for (const path of [dir, `${dir}.index`]) rmSync(path, { recursive: true, force: true });
  return found;
}

const AT_ONCE = 16;

/** Runs all of `cases`, some at a time: a full disk is tried again after half a second. Returns how many failed as planned. */
async function runAll(
  cases: readonly (readonly [number, number])[],
  kind: FaultKind,
): Promise<number> {
  let failed = 0;
  for (let first = 0; first < cases.length; first += AT_ONCE) {
    const plans = await Promise.all(
      cases.slice(first, first + AT_ONCE).map(([at, again]) => oneFault(kind, at, again)),
    );
    failed += plans.filter((found) => found.failed !== "").length;
  }
  return failed;
}

const KINDS = ["EIO", "EIO-done", "ENOSPC", "short", "torn", "dead"] as const;

test.each(KINDS)(
  "%s at every call: what was receipted is there after a start, and nothing signed is contradicted",
  async (kind) => {
    const cases = calls.flatMap((name, i) => (isCase(kind, name) ? [[i + 1, 0] as const] : []));
    const failed = await runAll(cases, kind);
    console.log(`${kind}: at ${failed} of ${calls.length} calls, each in a run of its own`);
    expect(failed).toBeGreaterThan(cases.length * 0.9);
  },
  180_000,
);

test("a fault, and another at any call of the start after it", async () => {
  const seed = randomInt(2 ** 31);
  console.log(`seed ${seed}`);
  const random = randomFrom(seed);
  const draw = (below: number): number => 1 + Math.floor(random() * below);
  for (const kind of ["EIO", "torn", "dead"] as const) {
    const cases = Array.from({ length: 16 }, () => [draw(calls.length), draw(60)] as const);
    expect(await runAll(cases, kind)).toBeGreaterThan(8);
  }
}, 180_000);
