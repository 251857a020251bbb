import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { request } from "undici";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { type ChainReport, Findings } from "../exporter/audit/report.ts";
import { openSource } from "../exporter/audit/source.ts";
import { policyOf } from "../exporter/audit/trust.ts";
import { joinChain, verifyLogs } from "../exporter/audit/union.ts";
import { verifyLog } from "../exporter/audit/verify.ts";
import { parseOrigins } from "../exporter/intake/origins.ts";
import { parseVkey, type Verifier } from "../exporter/log/note.ts";
import { BATCH_TYPE } from "../record/wire.ts";
import { startEnvoy } from "../scripts/demo/envoy.ts";
import { runLoad } from "../scripts/demo/load.ts";
import { startUpstream } from "../scripts/demo/upstream.ts";
import { makeChain } from "./support/chains.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { checkLog } from "./support/log.ts";

let dir = "";

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "meshseal-takeover-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** An exporter that knows the keys of `others`. */
async function startKnowing(
  origin: string,
  others: readonly Exporter[],
  port = 0,
): Promise<Exporter> {
  const file = join(dir, `${origin.replace("/", "-")}.origins`);
  writeFileSync(file, `# others\n${others.map(({ vkey }) => vkey).join("\n")}\n`);
  const args = ["--checkpoint-ms", "50", "--origin", origin, "--origins", file];
  const exporter = await startExporter({ args, port });
  onTestFinished(async () => {
    await exporter.stop();
  });
  return exporter;
}

type Answer = { status: number; refusal: unknown; want: unknown; receipt: Buffer };

async function post({ url }: Exporter, batch: Uint8Array): Promise<Answer> {
  const headers = { "content-type": BATCH_TYPE };
  const body = Buffer.from(batch);
  const answer = await request(`${url}/v1/batches`, { method: "POST", headers, body });
  await answer.body.dump();
  return {
    status: answer.statusCode,
    refusal: answer.headers["meshseal-refusal"],
    want: answer.headers["meshseal-want"],
    receipt: Buffer.from(String(answer.headers["meshseal-receipt"] ?? ""), "base64"),
  };
}

/** The batch as its writer sends it when it holds `receipt`. */
function withReceipt(batch: Uint8Array, receipt: Buffer): Buffer {
  const made = Buffer.concat([batch.subarray(0, 36), receipt, batch.subarray(36)]);
  made.writeUInt16BE(receipt.length, 32);
  return made;
}

const keyOf = ({ vkey }: Exporter): Verifier => parseVkey(vkey) as Verifier;

test("a chain goes on at another exporter by its receipt, and both logs together show it whole", async () => {
  const a = await startKnowing("a.test/log", []);
  const b = await startKnowing("b.test/log", [a]);
  const stranger = await startKnowing("c.test/log", []);
  const [first, second, third, fourth] = makeChain({ batches: 4, perBatch: 50, entryBytes: 200 });
  if (!first || !second || !third || !fourth) throw new Error("no batches");
  await post(a, first);
  const { receipt } = await post(a, second);
  expect(receipt.length).toBeGreaterThan(0);
  // Not without the receipt, not at another seq, and not by a log that does not know the key.
  expect(await post(b, third)).toMatchObject({ status: 409, refusal: "hole", want: "0" });
  expect(await post(b, withReceipt(fourth, receipt))).toMatchObject({ refusal: "hole" });
  expect(await post(stranger, withReceipt(third, receipt))).toMatchObject({ refusal: "hole" });
  const moved = await post(b, withReceipt(third, receipt));
  expect(moved.status).toBe(200);
  expect(await post(b, withReceipt(fourth, moved.receipt))).toMatchObject({ status: 200 });
  // What came before is not here to be compared: the answer is what is needed next.
  expect(await post(b, second)).toMatchObject({ refusal: "hole", want: "200" });
  expect(await post(b, third)).toMatchObject({ status: 200 });
  await b.kill();
  const again = await startExporter({ dir: b.dir });
  expect(await post(again, fourth)).toMatchObject({ status: 200 });
  for (const exporter of [a, again, stranger]) expect(await exporter.stop()).toBe(0);

  await checkLog(a.dir);
  const logs = [a, b].flatMap((exporter) => policyOf(keyOf(exporter)).logs);
  const policy = { ...policyOf(keyOf(a)), logs };
  const alone = await verifyLog(await openSource(b.dir), { policy });
  expect(alone).toMatchObject({
    verdict: "incomplete",
    findings: [{ cause: "elsewhere", seq: 100 }],
  });
  const stuck = await verifyLog(await openSource(b.dir), { log: keyOf(b) });
  expect(stuck).toMatchObject({ verdict: "cannot-say", findings: [{ cause: "elsewhere" }] });
  const both = await verifyLogs([await openSource(b.dir), await openSource(a.dir)], { policy });
  expect(both.verdict).toBe("verified");
  expect(both.moved).toMatchObject([
    {
      parts: [
        { origin: "a.test/log", first: 0, last: 99 },
        { origin: "b.test/log", first: 100, last: 199 },
      ],
    },
  ]);
}, 120_000);

test("a real Envoy's chain goes on at an exporter that takes the other's place", async () => {
  const a = await startKnowing("a.test/log", []);
  const port = Number(new URL(a.url).port);
  const upstream = await startUpstream();
  const envoy = await startEnvoy({ dir, upstreamPort: upstream.port, exporterPort: port });
  onTestFinished(async () => {
    await envoy.stop();
    await upstream.stop();
  });
  const before = await runLoad({ port: envoy.port, upstream, seconds: 1, rate: 100 });
  expect(await envoy.settled(30_000)).toBe(true);
  await a.stop();
  const b = await startKnowing("b.test/log", [a], port);
  const after = await runLoad({ port: envoy.port, upstream, seconds: 1, rate: 100 });
  expect(await envoy.settled(30_000)).toBe(true);
  await envoy.stop();
  await b.stop();
  const logs = [a, b].flatMap((exporter) => policyOf(keyOf(exporter)).logs);
  const policy = { ...policyOf(keyOf(a)), logs };
  const both = await verifyLogs([await openSource(a.dir), await openSource(b.dir)], { policy });
  expect(both.verdict).toBe("verified");
  expect(both.moved.length).toBeGreaterThan(0);
  const written = both.logs.map(({ entries }) => entries["request"] ?? 0);
  expect(written[0]).toBe(before);
  expect(written[1]).toBe(after);
}, 120_000);

describe("parts of one chain", () => {
  const part = (origin: string, first: number, last: number, more: Partial<ChainReport> = {}) => ({
    chain: "c",
    origin,
    first,
    last,
    head: `${last}`,
    prev: `${first - 1}`,
    entries: last - first + 1,
    from: first === 0 ? "" : "a",
    state: "open" as const,
    ...more,
  });
  const join = async (
    parts: ReturnType<typeof part>[],
    given = ["a", "b"],
    digestAt = async (_origin: string, _chain: string, seq: number) => `${seq}`,
  ): Promise<{ causes: (string | undefined)[]; messages: string; notes: string[] }> => {
    const findings = new Findings();
    const notes: string[] = [];
    await joinChain("c", parts, new Set(given), findings, notes, digestAt);
    const causes = findings.list.map(({ cause, severity }) => `${severity} ${cause}`);
    return { causes, messages: findings.list.map(({ message }) => message).join(), notes };
  };

  test("that follow each other are one", async () => {
    expect((await join([part("a", 0, 9), part("b", 10, 20)])).causes).toEqual([]);
  });
  test("with something missing between them: named, and whose fault it is", async () => {
    const found = await join([part("a", 0, 9), part("b", 15, 20)]);
    expect(found.causes).toEqual(["tampered missing"]);
    expect(found.messages).toContain("seq 10 to 14");
    const foreign = await join([part("b", 15, 20)], ["b"]);
    expect(foreign.causes).toEqual(["incomplete elsewhere"]);
    expect(foreign.messages).toContain("seq 0 to 14");
  });
  test("that overlap and agree are noted, and those that differ are two histories", async () => {
    const same = await join([part("a", 0, 9), part("b", 5, 20)]);
    expect(same.causes).toEqual([]);
    expect(same.notes.join()).toContain("Seq 5 to 9");
    const differs = async (origin: string, _chain: string, seq: number): Promise<string> =>
      origin === "b" && seq === 9 ? "x" : `${seq}`;
    expect((await join([part("a", 0, 9), part("b", 5, 20)], ["a", "b"], differs)).causes).toEqual([
      "tampered two-histories",
    ]);
    expect((await join([part("a", 0, 9), part("b", 10, 20, { prev: "x" })])).causes).toEqual([
      "tampered two-histories",
    ]);
  });
  test("that go on after a close are found", async () => {
    const closed = part("a", 0, 9, { state: "closed" });
    expect((await join([closed, part("b", 10, 20)])).causes).toEqual(["tampered after-close"]);
  });
});

test("a list of keys: any bytes, a list or a sentence that names the line", () => {
  fc.assert(
    fc.property(fc.string({ maxLength: 200 }), (text) => {
      try {
        parseOrigins(text, "x");
      } catch (error) {
        expect(String(error)).toMatch(/line \d+ is no verifier key/);
      }
    }),
  );
});
