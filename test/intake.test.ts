import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { request } from "undici";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { newSigner, parseSkey, parseVkey, type Verifier } from "../exporter/log/note.ts";
import { openReceipt, signReceipt } from "../exporter/log/receipt.ts";
import { formatBatch, parseBatchHeader } from "../record/batch.ts";
import { encodeEntry } from "../record/codec.ts";
import {
  F_CHAIN,
  F_KIND,
  F_PREV,
  F_SALT,
  F_SEQ,
  F_TIME,
  KIND_ANCHORS,
  KIND_HEARTBEAT,
} from "../record/fields.ts";
import { BATCH_TYPE, MAX_BATCH_BYTES } from "../record/wire.ts";
import { lastOf, makeChain } from "./support/chains.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { checkLog } from "./support/log.ts";

let exporter: Exporter;
let log: Verifier;

beforeAll(async () => {
  exporter = await startExporter({ args: ["--checkpoint-ms", "50"] });
  log = parseVkey(exporter.vkey) as Verifier;
});

afterAll(async () => {
  expect(await exporter.stop()).toBe(0);
  await checkLog(exporter.dir);
});

type Answer = {
  status: number;
  refusal: unknown;
  want: unknown;
  nextSeq: number | undefined;
  body: string;
};

async function post(body: Uint8Array, type = BATCH_TYPE): Promise<Answer> {
  const answer = await request(`${exporter.url}/v1/batches`, {
    method: "POST",
    headers: { "content-type": type },
    body: Buffer.from(body),
  });
  const receipt = answer.headers["meshseal-receipt"];
  const note =
    typeof receipt === "string" ? openReceipt(Buffer.from(receipt, "base64"), log) : null;
  return {
    status: answer.statusCode,
    refusal: answer.headers["meshseal-refusal"],
    want: answer.headers["meshseal-want"],
    nextSeq: note?.nextSeq,
    body: await answer.body.text(),
  };
}

const small = { batches: 3, perBatch: 4, entryBytes: 200 };

/** The same batch with other bytes in its last entry: a salt that was drawn anew, as a forger would have it. */
function forked(batch: Uint8Array): Uint8Array {
  const copy = Buffer.from(batch);
  copy.writeUInt8(copy.readUInt8(copy.length - 1) ^ 1, copy.length - 1);
  return copy;
}

describe("batches", () => {
  test("in order are receipted, and a replay is receipted again", async () => {
    const [a, b, c] = makeChain(small) as [Uint8Array, Uint8Array, Uint8Array];
    expect(await post(a)).toMatchObject({ status: 200, nextSeq: 4 });
    expect(await post(b)).toMatchObject({ status: 200, nextSeq: 8 });
    expect(await post(a)).toMatchObject({ status: 200, nextSeq: 8 });
    expect(await post(b)).toMatchObject({ status: 200, nextSeq: 8 });
    expect(await post(c)).toMatchObject({ status: 200, nextSeq: 12 });
  });

  test("with a part that is held already add the rest", async () => {
    const [whole] = makeChain({ batches: 1, perBatch: 10, entryBytes: 200 }) as [Uint8Array];
    const header = parseBatchHeader(whole);
    const entries: Uint8Array[] = [];
    for (let at = header?.entriesAt ?? 0; at < whole.length; ) {
      const length = Buffer.from(whole).readUInt16BE(at);
      entries.push(whole.subarray(at + 3, at + 3 + length));
      at += 3 + length;
    }
    const chain = header?.chain ?? new Uint8Array();
    expect(await post(formatBatch(chain, 0, entries.slice(0, 6)))).toMatchObject({ nextSeq: 6 });
    expect(await post(formatBatch(chain, 3, entries.slice(3, 10)))).toMatchObject({ nextSeq: 10 });
  });

  test("that skip entries are a hole, and the answer says what is needed", async () => {
    const [a, , c] = makeChain(small) as [Uint8Array, Uint8Array, Uint8Array];
    expect(await post(c)).toMatchObject({ status: 409, refusal: "hole", want: "0" });
    await post(a);
    expect(await post(c)).toMatchObject({ status: 409, refusal: "hole", want: "4" });
  });

  test("that contradict what is held are a fork, at the head and deep below it", async () => {
    const [a, b] = makeChain(small) as [Uint8Array, Uint8Array];
    await post(a);
    expect(await post(forked(a))).toMatchObject({ status: 409, refusal: "fork" });
    await post(b);
    expect(await post(forked(a))).toMatchObject({ status: 409, refusal: "fork" });
    expect(
      readdirSync(join(exporter.dir, "quarantine")).some((name) => name.startsWith("fork-")),
    ).toBe(true);
  });

  test("with a receipt for entries that the log lacks are a roll-back", async () => {
    const [a] = makeChain(small) as [Uint8Array];
    const signer = parseSkey(readFileSync(join(exporter.dir, "log.key"), "utf8").trim());
    const header = parseBatchHeader(a);
    if (signer === null || header === null) throw new Error("no key or no header");
    const claim = {
      origin: signer.name,
      chain: Buffer.from(header.chain).toString("hex"),
      nextSeq: 9,
      head: "00".repeat(32),
      treeSize: 0,
      treeRoot: Buffer.alloc(32),
    };
    const withReceipt = (note: string): Buffer => {
      const receipt = Buffer.from(note);
      const batch = Buffer.concat([a.subarray(0, 36), receipt, a.subarray(36)]);
      batch.writeUInt16BE(receipt.length, 32);
      return batch;
    };
    expect(await post(withReceipt(signReceipt(claim, signer)))).toMatchObject({
      status: 409,
      refusal: "rollback",
    });
    // One that somebody else signed says nothing.
    const forger = newSigner(signer.name, Buffer.alloc(32, 3));
    expect(await post(withReceipt(signReceipt(claim, forger)))).toMatchObject({
      status: 200,
      nextSeq: 4,
    });
  });

  test.each([
    ["no bytes", () => Buffer.alloc(0)],
    ["text", () => Buffer.from("GET / HTTP/1.1")],
    ["a batch cut short", (a: Uint8Array) => a.subarray(0, -1)],
    ["a byte too many", (a: Uint8Array) => Buffer.concat([a, Buffer.of(0)])],
    ["a link that does not fit", (a: Uint8Array) => flipped(a, 36 + 3 + 50)],
    ["a count that is too large", (a: Uint8Array) => flipped(a, 31)],
    ["another first seq", (a: Uint8Array) => flipped(a, 27)],
  ])("of %s are malformed, and the log goes on", async (_, change) => {
    const [a] = makeChain(small) as [Uint8Array];
    expect(await post(change(a))).toMatchObject({ status: 400, refusal: "malformed" });
    expect(await post(a)).toMatchObject({ status: 200, nextSeq: 4 });
  });

  test("with an entry that only a log writes are malformed: no proxy speaks of the log's anchors", async () => {
    const [a] = makeChain(small) as [Uint8Array];
    expect(await post(a)).toMatchObject({ status: 200, nextSeq: 4 });
    const { chain, seq, digest } = lastOf(a);
    const next = (kind: number): Uint8Array => {
      const entry = encodeEntry([
        { number: F_KIND, value: kind },
        { number: F_CHAIN, value: chain },
        { number: F_SEQ, value: seq + 1 },
        { number: F_PREV, value: digest },
        { number: F_TIME, value: Date.now() * 1000 },
        { number: F_SALT, value: chain },
      ]);
      return formatBatch(chain, seq + 1, [entry]);
    };
    expect(await post(next(KIND_ANCHORS))).toMatchObject({ status: 400, refusal: "malformed" });
    expect(await post(next(KIND_HEARTBEAT))).toMatchObject({ status: 200, nextSeq: 5 });
  });

  test("that are too large, or of another type, are refused", async () => {
    expect(await post(Buffer.alloc(MAX_BATCH_BYTES + 1))).toMatchObject({
      status: 413,
      refusal: "too-large",
    });
    expect((await post(Buffer.alloc(10), "application/json")).status).toBe(415);
  });

  test("of any bytes, or with any change: an answer, never a crash", async () => {
    const [a] = makeChain(small) as [Uint8Array];
    const change = fc.array(fc.tuple(fc.nat(a.length - 1), fc.nat(255)), { maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(change, async (changes) => {
        const copy = Buffer.from(a);
        for (const [at, byte] of changes) copy[at] = byte;
        expect([200, 400, 409]).toContain((await post(copy)).status);
      }),
      { numRuns: 200 },
    );
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 500 }), async (bytes) => {
        expect((await post(bytes)).status).toBe(400);
      }),
      { numRuns: 100 },
    );
  });
});

test("health, readiness, metrics and the log's files are served", async () => {
  const get = async (path: string): Promise<{ status: number; type: unknown; text: string }> => {
    const answer = await request(`${exporter.url}${path}`);
    return {
      status: answer.statusCode,
      type: answer.headers["content-type"],
      text: await answer.body.text(),
    };
  };
  expect((await get("/healthz")).text).toBe('{"status":"ok"}');
  expect(JSON.parse((await get("/readyz")).text)).toMatchObject({ status: "ready", reasons: [] });
  expect((await get("/metrics")).text).toMatch(/meshseal_batches_total\{outcome="receipted"\} \d+/);
  expect(await get("/log/checkpoint")).toMatchObject({
    status: 200,
    type: "text/plain; charset=utf-8",
  });
  expect((await get("/log/../log.key")).status).toBe(404);
  expect((await get("/log/%2e%2e/log.key")).status).not.toBe(200);
});

function flipped(batch: Uint8Array, at: number): Buffer {
  const copy = Buffer.from(batch);
  copy.writeUInt8(copy.readUInt8(at) ^ 2, at);
  return copy;
}
