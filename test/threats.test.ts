import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { request } from "undici";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { macOfSeal } from "../exporter/access/mac.ts";
import { parsePolicy } from "../exporter/audit/policy.ts";
import { openProofs } from "../exporter/audit/proofs.ts";
import type { VerifyReport } from "../exporter/audit/report.ts";
import { openSource } from "../exporter/audit/source.ts";
import { verifyLog } from "../exporter/audit/verify.ts";
import { makeKey } from "../exporter/keys.ts";
import { parseVkey, type Verifier } from "../exporter/log/note.ts";
import { makeChain } from "./support/chains.ts";
import { startExporter } from "./support/exporter.ts";
import { sendChain } from "./support/senders.ts";
import { startTsa, type Tsa } from "./support/tsa.ts";
import { startWitness, type TestWitness } from "./support/witness.ts";

// Rows of docs/threats.md: a clock that lies, and who administers the storage. Each with a real exporter, authority and witness.

const DAY_MS = 86_400_000;
let tsa: Tsa;
let home = "";
beforeAll(async () => {
  tsa = await startTsa();
  home = mkdtempSync(join(tmpdir(), "meshseal-threats-"));
});
afterAll(async () => {
  await tsa.stop();
  rmSync(home, { recursive: true, force: true });
});

/** Runs an exporter on `dir` with these outsiders, sends the batches, and stops it cleanly: what it has is anchored then. */
async function run(dir: string, anchors: object, batches: readonly Uint8Array[]): Promise<string> {
  mkdirSync(dir, { recursive: true });
  const file = join(dir, "anchors.json");
  writeFileSync(file, JSON.stringify(anchors));
  const exporter = await startExporter({ dir, args: ["--anchors", file, "--checkpoint-ms", "50"] });
  const { url, vkey } = exporter;
  await sendChain(() => url, vkey, batches, new Map());
  // Everyone has seen all of it: the last entry before the stop can say so.
  for (;;) {
    const metrics = await (await request(`${url}/metrics`)).body.text();
    const size = Number(/^meshseal_tree_size (\d+)$/m.exec(metrics)?.[1]);
    const seen = [...metrics.matchAll(/^meshseal_anchor_size\{.*\} (\d+)$/gm)].map(([, n]) =>
      Number(n),
    );
    const waiting = metrics.includes("\nmeshseal_unpublished_entries 0\n") ? 0 : 1;
    if (waiting === 0 && seen.every((n) => n >= size)) break;
    await sleep(50);
  }
  expect(await exporter.stop()).toBe(0);
  return vkey;
}

async function verified(
  dir: string,
  policy: object,
  evidence: ReadonlyMap<string, Buffer> = new Map(),
): Promise<VerifyReport> {
  const parsed = parsePolicy(JSON.stringify(policy), (name) => readFileSync(name));
  const proofs = await openProofs(dir);
  const options = { policy: parsed, evidence, ...(proofs === null ? {} : { proofs }) };
  return await verifyLog(await openSource(dir), options);
}

const stamped = (): object => ({
  timestamps: [{ name: "tsa", url: tsa.url, roots: tsa.root, everySeconds: 0.2 }],
});

describe("a clock that lies", () => {
  const policyOf = (key: string): object => ({
    logs: [{ key }],
    timestampAuthorities: [{ name: "tsa", roots: tsa.root }],
    require: [{ anchor: "rfc3161", name: "tsa" }],
  });
  const small = { batches: 2, perBatch: 20, entryBytes: 250 };

  test("ahead: no entry is from after the time stamp over it, and verify says whose clock was", async () => {
    const dir = join(home, "ahead");
    const began = Date.now();
    const key = await run(dir, stamped(), makeChain({ ...small, aheadMs: 3_600_000 }));
    const report = await verified(dir, policyOf(key));
    expect(report.verdict).toBe("verified");
    // The authority's time is right whatever the proxy says.
    const stamp = report.anchors.find(({ kind }) => kind === "rfc3161");
    expect(stamp?.treeSize).toBe(report.treeSize);
    expect(Date.parse(stamp?.time ?? "")).toBeGreaterThan(began - 2000);
    expect(Date.parse(stamp?.time ?? "")).toBeLessThan(Date.now() + 2000);
    expect(report.notes.join("\n")).toMatch(
      /40 entries claim a time later than the time stamp over them, the first one entry \d+ by 3[56]\d\d s/,
    );
  });

  test("behind: it cannot make anything stamped earlier; the delay to the first outsider shows it", async () => {
    const dir = join(home, "behind");
    const began = Date.now();
    const key = await run(dir, stamped(), makeChain({ ...small, aheadMs: -DAY_MS }));
    const report = await verified(dir, policyOf(key));
    expect(report.verdict).toBe("verified");
    const stamp = report.anchors.find(({ kind }) => kind === "rfc3161");
    expect(Date.parse(stamp?.time ?? "")).toBeGreaterThan(began - 2000);
    expect(report.notes.join("\n")).not.toContain("claim a time later");
    expect(report.delays?.worstSeconds).toBeGreaterThan(DAY_MS / 1000 - 1);
    expect(report.delays?.worstSeconds).toBeLessThan(DAY_MS / 1000 + 600);
  });

  test("that is right says nothing", async () => {
    const dir = join(home, "right");
    const key = await run(dir, stamped(), makeChain(small));
    const report = await verified(dir, policyOf(key));
    expect(report.notes.join("\n")).not.toContain("claim a time later");
    expect(report.delays?.worstSeconds).toBeLessThan(600);
  });
});

describe("who administers the storage, and holds no key", () => {
  let dir = "";
  let key = "";
  let before = "";
  let clone = "";
  let clonedBefore = "";
  let witness: TestWitness;

  /** A log that has grown once more since it was copied. A witness and a Git remote have seen both. */
  beforeAll(async () => {
    dir = join(home, "stored");
    mkdirSync(dir);
    key = makeKey(join(dir, "log"), "storage.example/log");
    witness = await startWitness("wit.example/storage", [parseVkey(key) as Verifier]);
    const remote = join(home, "remote.git");
    execFileSync("git", ["init", "--quiet", "--bare", "--initial-branch=main", remote]);
    const policy = [`witness one ${witness.vkey} ${witness.url}`, "quorum one"];
    const anchors = {
      ...stamped(),
      witnesses: { policy, everySeconds: 0.2 },
      git: [{ name: "archive", remote, everySeconds: 0.2 }],
    };
    const chain = makeChain({ batches: 4, perBatch: 20, entryBytes: 250 });
    await run(dir, anchors, chain.slice(0, 2));
    before = join(home, "before");
    cpSync(dir, before, { recursive: true });
    clonedBefore = join(home, "cloned-before");
    execFileSync("git", ["clone", "--quiet", remote, clonedBefore]);
    await run(dir, anchors, chain.slice(2));
    clone = join(home, "cloned");
    execFileSync("git", ["clone", "--quiet", remote, clone]);
  });
  afterAll(() => witness.stop());

  const policyOf = (more: object = {}): object => ({
    logs: [{ key }],
    witnesses: [`witness one ${witness.vkey}`, "quorum one"],
    timestampAuthorities: [{ name: "tsa", roots: tsa.root }],
    ...more,
  });
  const causes = ({ findings }: VerifyReport): string[] => findings.map(({ cause }) => cause);

  test("who touched nothing is not accused", async () => {
    const report = await verified(dir, policyOf({ git: [{ name: "archive", clone }] }));
    expect(report.findings).toEqual([]);
    // A clone from before says less, and nothing against the log.
    const older = await verified(
      dir,
      policyOf({ git: [{ name: "archive", clone: clonedBefore }] }),
    );
    expect(older.findings).toEqual([]);
    expect(
      older.anchors.find(({ status, kind }) => kind === "git" && status === "not-checked")?.says,
    ).toContain("the clone is older");
  });

  test("log and proofs put back together: not found from them alone, and verify says so; found by who remembers", async () => {
    const alone = await verified(before, policyOf());
    expect(alone.verdict).toBe("verified");
    expect(alone.notes.join("\n")).toContain("A roll-back of the whole log cannot be told");
    const pulled = await verified(before, policyOf({ git: [{ name: "archive", clone }] }));
    expect(pulled.verdict).toBe("tampered");
    expect(causes(pulled)).toContain("anchor-contradicted");
    // The witness itself: it serves the last checkpoint that it has cosigned.
    const hash = createHash("sha256").update("storage.example/log").digest("hex");
    const answer = await request(`${witness.url}/witness/${hash}/checkpoint`);
    const held = new Map([["held", Buffer.from(await answer.body.arrayBuffer())]]);
    const asked = await verified(before, policyOf(), held);
    expect(asked.findings).toMatchObject([
      { severity: "tampered", cause: "anchor-contradicted", file: "held" },
    ]);
  });

  test("the log put back and the proofs left, or the other way round", async () => {
    const mixed = join(home, "mixed");
    cpSync(before, mixed, { recursive: true });
    rmSync(join(mixed, "anchors"), { recursive: true });
    cpSync(join(dir, "anchors"), join(mixed, "anchors"), { recursive: true });
    expect(causes(await verified(mixed, policyOf()))).toContain("anchor-contradicted");
    const other = join(home, "other");
    cpSync(dir, other, { recursive: true });
    rmSync(join(other, "anchors"), { recursive: true });
    cpSync(join(before, "anchors"), join(other, "anchors"), { recursive: true });
    const lost = await verified(other, policyOf({ require: [] }));
    expect(lost.verdict).toBe("incomplete");
    expect(causes(lost)).toContain("anchor-lost");
  });

  test("one proof in the place of another is broken", async () => {
    const swapped = join(home, "swapped");
    cpSync(dir, swapped, { recursive: true });
    const files = readdirSync(join(swapped, "anchors"), { recursive: true, encoding: "utf8" })
      .filter((name) => name.endsWith(".tsr"))
      .sort();
    const [first = "", second = ""] = files;
    expect(files.length).toBeGreaterThan(1);
    chmodSync(join(swapped, "anchors", second), 0o644);
    writeFileSync(join(swapped, "anchors", second), readFileSync(join(swapped, "anchors", first)));
    const report = await verified(swapped, policyOf());
    expect(report.findings).toMatchObject([{ severity: "tampered", cause: "anchor-broken" }]);
  });
});

describe("who writes to the pipeline of proxies' logs, and holds no key", () => {
  const MAC_KEY = Buffer.alloc(32, 5);
  const macs = new Map([["cart", MAC_KEY]]);
  let dir = "";
  let key = "";
  let chain = "";
  let head = "";
  let last = 0;

  /** A chain without a close, and what its proxy would have said last, with a MAC and without. */
  beforeAll(async () => {
    const exporter = await startExporter({ args: ["--checkpoint-ms", "50"] });
    ({ dir, vkey: key } = exporter);
    const batches = makeChain({ batches: 1, perBatch: 20, entryBytes: 250 });
    await sendChain(() => exporter.url, key, batches, new Map());
    expect(await exporter.stop()).toBe(0);
    const { chains } = await verified(dir, { logs: [{ key }] });
    const open = chains.find(({ state }) => state === "open");
    ({ chain = "", head = "", last = 0 } = open ?? {});
    expect(chain).not.toBe("");
  });

  const seal = (seq: number, digest: string, more = ""): string =>
    `meshseal seal chain=${chain} seq=${seq} head=${digest} unreceipted=0 missed=0${more}`;
  const withMac = (line: string): string =>
    `${line} key=cart mac=${macOfSeal(MAC_KEY, Buffer.from(chain, "hex"), line).toString("base64")}`;
  const report = async (lines: readonly string[]): Promise<VerifyReport> => {
    const policy = parsePolicy(JSON.stringify({ logs: [{ key }] }), () => Buffer.alloc(0));
    const source = await openSource(dir);
    return await verifyLog(source, { policy, seals: { lines, macs }, requireSeals: true });
  };
  const causes = ({ findings }: VerifyReport): string[] => findings.map(({ cause }) => cause);

  test("the honest line makes the chain whole; without it the chain is open", async () => {
    expect((await report([withMac(seal(last, head))])).verdict).toBe("verified");
    const dropped = await report([]);
    expect(dropped.verdict).toBe("incomplete");
    expect(causes(dropped)).toEqual(["open-chain"]);
  });

  test("a line that was changed is named as forged, and makes nothing whole", async () => {
    const honest = withMac(seal(last, head));
    const changed = await report([honest.replace("missed=0", "missed=9")]);
    expect(causes(changed)).toEqual(["forged-seal", "open-chain"]);
    expect(changed.verdict).toBe("cannot-say");
    // Beside the honest one it changes nothing but that it is told of.
    const beside = await report([
      honest,
      withMac(seal(last - 5, head)).replace(`seq=${last - 5}`, `seq=${last + 5}`),
    ]);
    expect(causes(beside)).toEqual(["forged-seal"]);
  });

  test("a line of another's, without a proof, accuses nobody of tampering, and can hide nothing that a MAC says", async () => {
    // What never was: the log is short of it, says the line. Anyone could have written it.
    const more = await report([seal(last + 3, "00".repeat(32))]);
    expect(more.verdict).toBe("incomplete");
    expect(more.notes.join("\n")).toContain("1 that anyone could have written");
    const other = await report([seal(last, "00".repeat(32))]);
    expect(other.verdict).toBe("cannot-say");
    // The right words for what is held, in the place of the line that said more.
    const replaced = await report([seal(last, head)]);
    expect(causes(replaced)).toEqual(["open-chain"]);
    // An older seal does not cover up that more was sealed.
    const short = await report([withMac(seal(last + 3, "11".repeat(32))), seal(last, head)]);
    expect(causes(short)).toContain("seal");
    expect(short.verdict).toBe("incomplete");
  });
});
