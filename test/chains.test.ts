import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { request } from "undici";
import { describe, expect, test } from "vitest";
import { ChainList } from "../exporter/audit/chain-list.ts";
import { parseSeal, type Seal } from "../exporter/audit/seals.ts";
import { Silence } from "../exporter/intake/silence.ts";
import { leafHash } from "../exporter/log/merkle.ts";
import { encodeEntry, type FieldValue } from "../record/codec.ts";
import * as f from "../record/fields.ts";
import { BATCH_TYPE } from "../record/wire.ts";
import { makeChain } from "./support/chains.ts";
import { startExporter } from "./support/exporter.ts";
import { checkLog } from "./support/log.ts";

const MINUTE = 60_000_000;

function entry(
  chain: Buffer,
  kind: number,
  seq: number,
  time: number,
  more: FieldValue[] = [],
): Uint8Array {
  return encodeEntry([
    { number: f.F_KIND, value: kind },
    { number: f.F_CHAIN, value: chain },
    { number: f.F_SEQ, value: seq },
    { number: f.F_PREV, value: Buffer.alloc(32) },
    { number: f.F_TIME, value: time },
    { number: f.F_SALT, value: Buffer.alloc(16) },
    ...more,
  ]);
}

const bound = { number: f.F_HEARTBEAT_MS, value: 60_000 };

describe("what became of a chain", () => {
  const [closed, silent, open, old] = [
    randomBytes(16),
    randomBytes(16),
    randomBytes(16),
    randomBytes(16),
  ];
  const list = new ChainList();
  for (const chain of [closed, silent, old]) {
    list.visit(entry(chain, f.KIND_OPEN, 0, 0, [bound]));
  }
  list.visit(entry(closed, f.KIND_CLOSE, 1, MINUTE));
  list.visit(entry(silent, f.KIND_GAP, 1, MINUTE, [{ number: f.F_GAP_COUNT, value: 7 }]));
  const given: FieldValue[] = [
    { number: f.F_PRODUCER, value: Buffer.from("meshseal-filter/\u001b[31m") },
    bound,
    { number: f.F_ABANDONED_CHAIN, value: old },
    { number: f.F_ABANDONED_CAUSE, value: f.ABANDONED_FORK },
    { number: f.F_ABANDONED_COUNT, value: 3 },
  ];
  list.visit(entry(open, f.KIND_OPEN, 0, 10 * MINUTE, given));
  const items = new Map(list.list().map((item) => [item.chain, item]));
  const of = (chain: Buffer): unknown => items.get(chain.toString("hex"));

  test("closed, silent, open, or abandoned and by whom", () => {
    expect(of(closed)).toMatchObject({ state: "closed", last: 1 });
    expect(of(silent)).toMatchObject({ state: "silent", missing: 7, lastTime: MINUTE });
    expect(of(open)).toMatchObject({ state: "open", maker: "meshseal-filter/?[31m" });
    const abandoned = { by: open.toString("hex"), cause: "fork", lost: 3 };
    expect(of(old)).toMatchObject({ state: "abandoned", abandoned });
  });

  test("silent after a time that is given, unless its seal says that this was its last word", () => {
    const stateOf = (silentAfter: number): unknown =>
      list.list(silentAfter).find(({ chain }) => chain === silent.toString("hex"))?.state;
    expect(stateOf(3600)).toBe("open");
    expect(stateOf(60)).toBe("silent");
    const last = entry(silent, f.KIND_GAP, 1, MINUTE, [{ number: f.F_GAP_COUNT, value: 7 }]);
    const seal = (seq: number, head: string): Seal => {
      const line = `[wasm] meshseal seal chain=${silent.toString("hex")} seq=${seq} head=${head} unreceipted=0 missed=0`;
      const parsed = parseSeal(line);
      if (parsed === null) throw new Error("no seal");
      return parsed;
    };
    list.seal(seal(1, "00".repeat(32)));
    expect(stateOf(60)).toBe("silent");
    list.seal(seal(1, Buffer.from(leafHash(last)).toString("hex")));
    expect(stateOf(60)).toBe("sealed");
    // A later seal: what it speaks of never came.
    list.seal(seal(2, "00".repeat(32)));
    expect(stateOf(60)).toBe("silent");
  });
});

describe("silence", () => {
  test("is told of for a day, and ended by a word, a close, or a successor", () => {
    let now = 0;
    const silence = new Silence(60_000, () => now);
    const plain = [f.KIND_REQUEST, f.KIND_REQUEST] as const;
    for (const chain of ["a", "b", "c", "d"]) silence.heard(chain, null, plain);
    now = 60_000;
    expect(silence.count()).toBe(0);
    silence.heard("a", null, plain);
    now = 60_001;
    expect(silence.count()).toBe(3);
    silence.heard("b", null, [f.KIND_CLOSE, f.KIND_SIGNATURE]);
    expect(silence.count()).toBe(2);
    const given = [
      { number: f.F_FORMAT, value: 1 },
      { number: f.F_ABANDONED_CHAIN, value: Buffer.alloc(16, 7) },
    ];
    silence.heard("07".repeat(16), null, plain);
    silence.heard("e", entry(randomBytes(16), f.KIND_OPEN, 0, 0, given), [0, f.KIND_OPEN]);
    now = 120_002;
    // a, c, d and e; not the one that e goes on from.
    expect(silence.count()).toBe(4);
    now = 25 * 3_600_000;
    expect(silence.count()).toBe(0);
  });

  test("shows as a metric and in the exit code of the command", async () => {
    const exporter = await startExporter({
      args: ["--checkpoint-ms", "50", "--silent-after-seconds", "1"],
    });
    const batches = makeChain({ batches: 2, perBatch: 4, entryBytes: 200 });
    const send = async (batch: Uint8Array | undefined): Promise<void> => {
      const headers = { "content-type": BATCH_TYPE };
      const body = Buffer.from(batch ?? []);
      const answer = await request(`${exporter.url}/v1/batches`, { method: "POST", headers, body });
      expect(answer.statusCode).toBe(200);
      await answer.body.dump();
    };
    const silent = async (count: number, heard?: Uint8Array): Promise<void> => {
      const line = `meshseal_silent_chains ${count}\n`;
      for (;;) {
        // Again and again: a second later it is silent again.
        if (heard !== undefined) await send(heard);
        const metrics = await (await request(`${exporter.url}/metrics`)).body.text();
        if (metrics.includes(line)) return;
        await new Promise((done) => setTimeout(done, 50));
      }
    };
    await send(batches[0]);
    await silent(1);
    await silent(0, batches[1]);
    await silent(1);
    await exporter.stop();
    await checkLog(exporter.dir);
    const run = (...args: string[]): number | null =>
      spawnSync(process.execPath, ["scripts/meshseal.mjs", "chains", exporter.dir, ...args]).status;
    expect(run("--alarm")).toBe(0);
    expect(run("--alarm", "--silent-after", "0.2")).toBe(2);
    expect(run("--silent-after", "0.2")).toBe(0);
    expect(run("--silent-after", "soon")).toBe(64);
  });
});

test("meshseal chains names the evidence of a fork with its chain", async () => {
  const exporter = await startExporter({ args: ["--checkpoint-ms", "50"] });
  const [batch = new Uint8Array()] = makeChain({ batches: 1, perBatch: 4, entryBytes: 200 });
  const other = Buffer.from(batch);
  other.writeUInt8(other.readUInt8(other.length - 1) ^ 1, other.length - 1);
  for (const [body, status] of [
    [batch, 200],
    [other, 409],
  ] as const) {
    const answer = await request(`${exporter.url}/v1/batches`, {
      method: "POST",
      headers: { "content-type": BATCH_TYPE },
      body: Buffer.from(body),
    });
    expect(answer.statusCode).toBe(status);
    await answer.body.dump();
  }
  await exporter.stop();
  await checkLog(exporter.dir);
  const run = spawnSync(process.execPath, ["scripts/meshseal.mjs", "chains", exporter.dir], {
    encoding: "utf8",
  });
  expect(run.stderr).toBe("");
  expect(run.stdout).toContain("2 chains: 1 open, 0 silent, 1 closed, 0 sealed, 0 abandoned");
  expect(run.stdout).toMatch(
    /fork: a refused batch of seq 0 to 3, kept as quarantine\/fork-[0-9a-f]{64}\.batch/,
  );
});
