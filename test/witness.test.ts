import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { request } from "undici";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Anchor, Subject } from "../exporter/anchor/anchor.ts";
import { Cosigned } from "../exporter/anchor/cosigned.ts";
import { witnesses } from "../exporter/anchor/witness.ts";
import { formatRequest, judge } from "../exporter/anchor/witness-protocol.ts";
import { keptEvidence } from "../exporter/audit/evidence.ts";
import { type Policy, policyOf } from "../exporter/audit/trust.ts";
import { verifyLog } from "../exporter/audit/verify.ts";
import { openCheckpoint, signCheckpoint } from "../exporter/log/checkpoint.ts";
import { newCosigner, parseCosignerVkey } from "../exporter/log/cosignature.ts";
import { emptyRoot, verifyConsistency } from "../exporter/log/merkle.ts";
import { newSigner, openNote, signNote, type Verifier } from "../exporter/log/note.ts";
import { proveConsistency } from "../exporter/log/prover.ts";
import { parseTlogPolicy, type TlogPolicy } from "../exporter/log/tlog-policy.ts";
import { type MemoryLog, memoryLog } from "./support/memory-log.ts";
import { startWitness, type TestWitness } from "./support/witness.ts";

const T0 = 1_767_139_200;
const b64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");

let log: MemoryLog;
/** Notes of the log at sizes 10, 300 and 700, and of another history at 300 and 700. */
let notes: Buffer[];
let forks: Buffer[];

beforeAll(async () => {
  log = await memoryLog("log.example/w", "w");
  notes = [await log.grow(10, T0), await log.grow(290, T0), await log.grow(400, T0)];
  const other = await memoryLog("log.example/w", "w");
  forks = [await other.grow(300, T0 + 1), await other.grow(400, T0 + 1)];
});

const prove = (from: number, to: number): Promise<Uint8Array[]> =>
  proveConsistency(log.store.get, from, to);

describe("proofs", () => {
  test("lead from any size to any other, from tiles alone", async () => {
    const grown = await memoryLog("log.example/p", "p");
    const roots = new Map<number, Uint8Array>();
    for (const step of [1, 2, 4, 200, 49, 1, 300, 43]) {
      const { size, root } = openCheckpoint(await grown.grow(step, T0), grown.verifier) ?? {};
      if (size !== undefined && root !== undefined) roots.set(size, root);
    }
    const last = Math.max(...roots.keys());
    for (const [size, root] of roots) {
      const proof = await proveConsistency(grown.store.get, size, last);
      expect(verifyConsistency(size, last, root, roots.get(last) ?? root, proof)).toBe(true);
    }
  });
});

/** What a client that was written from the specification alone sends: no function of ours but the hashes. */
async function post(
  url: string,
  old: number | string,
  proof: readonly Uint8Array[],
  note: Buffer | string,
): Promise<{ status: number; body: string; type: string }> {
  const body = `old ${old}\n${proof.map((hash) => `${b64(hash)}\n`).join("")}\n${note}`;
  const answer = await request(`${url}/add-checkpoint`, { method: "POST", body });
  const type = String(answer.headers["content-type"]);
  return { status: answer.statusCode, body: await answer.body.text(), type };
}

describe("the role of a witness, over plain HTTP", () => {
  let witness: TestWitness;
  beforeAll(async () => {
    const dir = join(mkdtempSync(join(tmpdir(), "meshseal-witness-")), "witness");
    witness = await startWitness("wit.example/role", [log.verifier], { now: () => T0, dir });
  });
  afterAll(() => witness.stop());

  test("cosigns a first checkpoint, then one that extends it", async () => {
    const [first = Buffer.alloc(0), second = Buffer.alloc(0)] = notes;
    const answer = await post(witness.url, 0, [], first);
    expect(answer).toMatchObject({ status: 200, type: "text/plain; charset=utf-8" });
    expect(answer.body).toMatch(/^— wit\.example\/role \S+\n$/);
    const key = parseCosignerVkey(witness.vkey) as Verifier;
    expect(openNote(Buffer.from(first.toString() + answer.body), [key])).not.toBeNull();
    expect((await post(witness.url, 10, await prove(10, 300), second)).status).toBe(200);
    // The same again is fine: old is what it holds, and the root is the same.
    expect((await post(witness.url, 300, [], second)).status).toBe(200);
  });

  test("answers as the specification's table has it", async () => {
    const [first = Buffer.alloc(0), second = Buffer.alloc(0), third = Buffer.alloc(0)] = notes;
    const proof = await prove(300, 700);
    const stranger = newSigner("log.example/stranger", Buffer.alloc(32, 1));
    const unknown = signCheckpoint({ origin: stranger.name, size: 0, root: emptyRoot() }, [
      stranger,
    ]);
    expect(await post(witness.url, 0, [], unknown)).toMatchObject({ status: 404 });
    const forged = newSigner(log.verifier.name, Buffer.alloc(32, 2));
    const text = third.toString().slice(0, third.indexOf("\n\n") + 1);
    expect(await post(witness.url, 300, proof, signNote(text, [forged]))).toMatchObject({
      status: 403,
    });
    expect(await post(witness.url, 701, [], third)).toMatchObject({ status: 400 });
    for (const old of ["x", "01", "-1", " 300", "300 "])
      expect(await post(witness.url, old, proof, third)).toMatchObject({ status: 400 });
    expect(await post(witness.url, 10, await prove(10, 700), third)).toEqual({
      status: 409,
      body: "300\n",
      type: "text/x.tlog.size",
    });
    expect(await post(witness.url, 0, [], first)).toMatchObject({ status: 409, body: "300\n" });
    expect(await post(witness.url, 300, [], third)).toMatchObject({ status: 422 });
    expect(await post(witness.url, 300, proof, second)).toMatchObject({ status: 422 });
    expect(await post(witness.url, 300, proof.toReversed(), third)).toMatchObject({ status: 422 });
    const many = Array.from({ length: 64 }, () => Buffer.alloc(32));
    expect(await post(witness.url, 300, many, third)).toMatchObject({ status: 400 });
    const long = await post(
      witness.url,
      300,
      [],
      Buffer.concat([third, Buffer.alloc(70_000, "x")]),
    );
    expect(long.status).toBe(413);
    expect((await post(witness.url, 300, proof, third)).status).toBe(200);
  });

  test("refuses another history at the same size, and keeps the evidence", async () => {
    const [, fork = Buffer.alloc(0)] = forks;
    expect(await post(witness.url, 700, [], fork)).toMatchObject({ status: 422 });
    expect(await post(witness.url, 300, [], fork)).toMatchObject({ status: 409, body: "700\n" });
    expect(witness.evidence.filter((line) => line.startsWith("fork"))).toEqual([
      `fork ${log.verifier.name}`,
    ]);
    const hash = createHash("sha256").update(log.verifier.name).digest("hex");
    const dir = join(witness.dir, hash, "evidence");
    const [file = ""] = readdirSync(dir).filter((name) => /^fork-.*\.request$/.test(name));
    const kept = readFileSync(join(dir, file)).toString();
    // Both signed checkpoints are at hand: two roots for one size.
    expect(
      openCheckpoint(Buffer.from(kept.slice(kept.indexOf("\n\n") + 2)), log.verifier)?.size,
    ).toBe(700);
    // Held against the log, verify says which history it has, and in the witness's own directory that there are two.
    const policy = policyOf(log.verifier);
    const evidence = (name: string): { policy: Policy; evidence: Map<string, Buffer> } => ({
      policy,
      evidence: new Map([[name, readFileSync(join(dir, name))]]),
    });
    const contradicted = await verifyLog(log.source, evidence(file));
    expect(contradicted.findings).toMatchObject([
      { severity: "tampered", cause: "anchor-contradicted", file },
    ]);
    const agreed = await verifyLog(log.source, evidence(file.replace(".request", ".held")));
    expect(agreed.verdict).toBe("verified");
    expect(agreed.notes.join()).toContain(
      "the checkpoint of 700 entries in it is one of this log's",
    );
    expect(await keptEvidence(join(witness.dir, ".."))).toContainEqual(
      expect.stringContaining(
        `As a witness it keeps evidence that ${log.verifier.name} signed two histories of 700 entries`,
      ),
    );
    const held = await request(`${witness.url}/witness/${hash}/checkpoint`);
    expect(openCheckpoint(Buffer.from(await held.body.text()), log.verifier)?.size).toBe(700);
  });

  test("remembers after a restart, and stores no line that it did not verify", async () => {
    const dir = witness.dir;
    await witness.stop();
    witness = await startWitness("wit.example/role", [log.verifier], { dir, now: () => T0 });
    const [first = Buffer.alloc(0), , third = Buffer.alloc(0)] = notes;
    expect(await post(witness.url, 0, [], first)).toMatchObject({ status: 409, body: "700\n" });
    // A line under the witness's own name that it never made.
    const [name = "", , body = ""] = witness.vkey.split("+");
    const id = createHash("sha256")
      .update(`${name}\n`)
      .update(Buffer.from(body, "base64"))
      .digest()
      .subarray(0, 4);
    const fake = `— ${name} ${Buffer.concat([id, Buffer.alloc(72, 1)]).toString("base64")}\n`;
    expect((await post(witness.url, 700, [], third.toString() + fake)).status).toBe(200);
    const hash = createHash("sha256").update(log.verifier.name).digest("hex");
    expect(readFileSync(join(witness.dir, hash, "checkpoint"), "utf8")).not.toContain(fake);
    expect((await post(witness.url, 700, [], third)).status).toBe(200);
  });

  test("an origin in a path is a hash or nothing", async () => {
    for (const path of [
      "/witness/../checkpoint",
      "/witness/x/checkpoint",
      `/witness/${"0".repeat(64)}/checkpoint`,
    ])
      expect((await request(witness.url + path)).statusCode).toBe(404);
  });
});

test("no bytes but a good request are cosigned", async () => {
  const [first = Buffer.alloc(0)] = notes;
  const good = formatRequest(0, [], first);
  const change = fc.record({ at: fc.nat(good.length - 1), to: fc.nat(255) });
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array(), change), (input) => {
      const body = input instanceof Uint8Array ? Buffer.from(input) : Buffer.from(good);
      if (!(input instanceof Uint8Array)) body[input.at] = input.to;
      const { status } = judge(body, [log.verifier], () => null);
      expect(status === 200).toBe(body.equals(good));
    }),
    { numRuns: 500 },
  );
});

/** The log's newest checkpoint, or an older note of it, as something to be anchored. */
function subjectOf(note: Buffer): Subject {
  const { size, root } = openCheckpoint(note, log.verifier) ?? { size: 0, root: emptyRoot() };
  return { size, root, note, prove: (old) => prove(old, size) };
}

describe("the log's side", () => {
  const started: TestWitness[] = [];
  let policy: TlogPolicy;
  const cosigned: string[] = [];
  const failed: string[] = [];

  beforeAll(async () => {
    for (const name of ["wit.example/1", "wit.example/2", "wit.example/3"])
      started.push(await startWitness(name, [log.verifier]));
    const lines = started.map(({ vkey, url }, i) => `witness w${i + 1} ${vkey} ${url}/`);
    policy = parseTlogPolicy(`${lines.join("\n")}\ngroup g 2 w1 w2 w3\nquorum g\n`);
  });
  afterAll(() => Promise.all(started.map(({ stop }) => stop())));

  const client = (): Anchor =>
    witnesses({
      kind: "witness",
      name: "witnesses",
      everyMs: 1000,
      timeoutMs: 10_000,
      keepEveryMs: 0,
      policy,
      onCosigned: (_, lines) => cosigned.push(...lines),
      onFailed: (witness) => failed.push(witness),
    });
  const submit = (anchor: Anchor, note: Buffer): Promise<string> =>
    anchor
      .submit(subjectOf(note), AbortSignal.timeout(20_000))
      .then(({ bytes }) => bytes.toString());

  test("gets all cosignatures, on checkpoint after checkpoint", async () => {
    const anchor = client();
    const [first = Buffer.alloc(0), second = Buffer.alloc(0)] = notes;
    expect((await submit(anchor, first)).split("\n")).toHaveLength(4);
    expect((await submit(anchor, second)).split("\n")).toHaveLength(4);
    expect(failed).toEqual([]);
  });

  test("after a restart it learns from 409 what the witnesses hold", async () => {
    const [, , third = Buffer.alloc(0)] = notes;
    expect((await submit(client(), third)).split("\n")).toHaveLength(4);
    expect(failed).toEqual([]);
  });

  test("two of three are a quorum, one is none, and what came is not lost", async () => {
    await started[0]?.stop();
    const [, , third = Buffer.alloc(0)] = notes;
    expect((await submit(client(), third)).split("\n")).toHaveLength(3);
    expect(failed.splice(0)).toEqual(["w1"]);
    await started[1]?.stop();
    cosigned.length = 0;
    await expect(submit(client(), third)).rejects.toMatchObject({ isAlarm: false });
    expect(cosigned).toHaveLength(1);
  });

  test("a log that was rolled back or forked is an alarm", async () => {
    const [, second = Buffer.alloc(0)] = notes;
    await expect(submit(client(), second)).rejects.toMatchObject({ isAlarm: true });
    const [, fork = Buffer.alloc(0)] = forks;
    await expect(submit(client(), fork)).rejects.toMatchObject({ isAlarm: true });
    expect(started[2]?.evidence).toEqual([`fork ${log.verifier.name}`]);
  });

  test("a checkpoint with its quorum gives way only to another that has it", () => {
    const three = [1, 2, 3].map((i) => newCosigner(`c${i}`, Buffer.alloc(32, i), () => T0));
    const [a, b] = three as [(typeof three)[0], (typeof three)[0]];
    const lines = three.map(({ vkey }, i) => `witness w${i} ${vkey}\n`).join("");
    const gathered = new Cosigned(parseTlogPolicy(`${lines}group g 2 w0 w1 w2\nquorum g\n`));
    const line = (note: Buffer, signer: typeof a): string => {
      const text = note.toString().slice(0, note.indexOf("\n\n") + 1);
      return signNote(text, [signer]).slice(text.length + 1);
    };
    const [first = Buffer.alloc(0), second = Buffer.alloc(0)] = notes;
    expect(gathered.add(subjectOf(first), [line(first, a)])).not.toBeNull();
    expect(gathered.add(subjectOf(first), [line(first, b)])?.toString()).toContain("— c2 ");
    expect(gathered.add(subjectOf(second), [line(second, a)])).toBeNull();
    const both = gathered.add(subjectOf(second), [line(second, b)]);
    expect(both?.toString().split("\n— ")).toHaveLength(4);
    expect(gathered.add(subjectOf(first), [line(first, a)])).toBeNull();
  });
});

test("a witness that cannot read what it holds does not start over", async () => {
  const witness = await startWitness("wit.example/broken", [log.verifier]);
  const [first = Buffer.alloc(0), second = Buffer.alloc(0)] = notes;
  expect((await post(witness.url, 0, [], first)).status).toBe(200);
  const other = await memoryLog("log.example/w", "another key");
  await witness.stop();
  const again = await startWitness("wit.example/broken", [other.verifier], { dir: witness.dir });
  const note = await other.grow(3, T0);
  expect((await post(again.url, 0, [], note)).status).toBe(500);
  expect((await post(again.url, 0, [], second)).status).toBe(403);
  await again.stop();
  expect(existsSync(witness.dir)).toBe(true);
});
