import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { request } from "undici";
import { describe, expect, test } from "vitest";
import { ChainList } from "../exporter/audit/chain-list.ts";
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
  expect(run.stdout).toContain("2 chains: 1 open, 0 silent, 1 closed, 0 abandoned");
  expect(run.stdout).toMatch(
    /fork: a refused batch of seq 0 to 3, kept as quarantine\/fork-[0-9a-f]{64}\.batch/,
  );
});
