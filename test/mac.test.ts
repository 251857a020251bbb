import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { request } from "undici";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { judgeMac, macOfReceipt, macOfRefusal, readBatchKeys } from "../exporter/access/mac.ts";
import { parseBatchHeader } from "../record/batch.ts";
import { bytesOf } from "../record/codec.ts";
import * as f from "../record/fields.ts";
import { BATCH_TYPE } from "../record/wire.ts";
import { makeChain } from "./support/chains.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { entriesOf, lastCall, receiptFor, started, stream } from "./support/filter.ts";
import type { Call, Host } from "./support/host.ts";
import { checkLog } from "./support/log.ts";

const KEY = Buffer.alloc(32, 7);
const KEYS = new Map([
  ["cart", KEY],
  ["shop", Buffer.alloc(16, 9)],
]);
const CONFIG = `{"batchKey":"cart:${KEY.toString("hex")}"}`;

async function withKey(): Promise<Host> {
  const host = await started(CONFIG);
  host.request(stream("/a"));
  host.tick();
  return host;
}

/** The exporter's answer to a batch with a MAC. */
function receiptWithMac(call: Call, key: Buffer = KEY): [string, string][] {
  const receipt = receiptFor(call);
  const note = Buffer.from(receipt[1]?.[1] ?? "", "base64").toString();
  const { chain } = entriesOf(call);
  const mac = macOfReceipt(key, Buffer.from(chain, "hex"), note);
  return [...receipt, ["meshseal-receipt-mac", mac.toString("base64")]];
}

/** What the exporter puts beside a refusal of this call. */
function refusalMac(call: Call, word: string, key: Buffer = KEY, want?: number): string {
  const { chain, mac } = parseBatchHeader(call.body) ?? { chain: KEY, mac: KEY };
  return macOfRefusal(key, chain, mac, word, want).toString("base64");
}

describe("the filter", () => {
  test("puts a MAC on each batch that the exporter finds right, and names its key in open", async () => {
    const host = await withKey();
    const call = lastCall(host);
    expect(judgeMac(call.body, "cart", KEYS)).toMatchObject({ sender: { name: "mac:cart" } });
    expect(call.headers).toContainEqual(["meshseal-key-id", "cart"]);
    const open = entriesOf(call).entries[0];
    expect(Buffer.from((open && bytesOf(open, f.F_KEY_ID)) ?? []).toString()).toBe("cart");
    host.answer(call, receiptWithMac(call));
    host.request(stream("/b"));
    host.tick();
    expect(host.metric("receipted_entries")).toBe(2);
    expect(judgeMac(lastCall(host).body, "cart", KEYS)).toMatchObject({ key: KEY });
  });

  test.each([
    ["without a MAC", (call: Call) => receiptFor(call)],
    ["with another key's MAC", (call: Call) => receiptWithMac(call, Buffer.alloc(32, 8))],
    [
      "with a MAC that is no base64",
      (call: Call) => [...receiptFor(call), ["meshseal-receipt-mac", "?"]],
    ],
  ] as [string, (call: Call) => [string, string][]][])(
    "a receipt %s frees nothing",
    async (_, answer) => {
      const host = await withKey();
      host.answer(lastCall(host), answer(lastCall(host)));
      expect(host.metric("receipted_entries")).toBe(0);
      expect(host.metric("bad_receipts")).toBe(1);
      for (let i = 0; i < 12 && host.calls.length < 2; i++) host.tick();
      host.answer(lastCall(host), receiptWithMac(lastCall(host)));
      expect(host.metric("receipted_entries")).toBe(2);
    },
  );

  test.each([
    ["no MAC", "malformed", undefined, () => [], false],
    ["a MAC that is no base64", "malformed", undefined, () => ["?"], false],
    [
      "another key's MAC",
      "malformed",
      undefined,
      (call) => [refusalMac(call, "malformed", KEYS.get("shop"))],
      false,
    ],
    [
      "the MAC of another word",
      "malformed",
      undefined,
      (call) => [refusalMac(call, "fork")],
      false,
    ],
    [
      "the MAC of another batch",
      "malformed",
      undefined,
      (call, before) => [refusalMac({ ...call, body: before.body }, "malformed")],
      false,
    ],
    ["the MAC of another want", "hole", 0, (call) => [refusalMac(call, "hole", KEY, 1)], false],
    ["its MAC", "malformed", undefined, (call) => [refusalMac(call, "malformed")], true],
    ["its MAC and what is wanted", "hole", 0, (call) => [refusalMac(call, "hole", KEY, 0)], true],
  ] as [string, string, number | undefined, (call: Call, before: Call) => string[], boolean][])(
    "a refusal with %s ends a chain only if it is the log's: %s",
    async (_, word, want, macs, isFinal) => {
      const host = await withKey();
      const before = lastCall(host);
      host.answer(before, receiptWithMac(before));
      host.request(stream("/b"));
      host.tick();
      const call = lastCall(host);
      host.answer(call, [
        [":status", "409"],
        ["meshseal-refusal", word],
        ...(want === undefined ? [] : [["meshseal-want", String(want)] as [string, string]]),
        ...macs(call, before).map((mac) => ["meshseal-refusal-mac", mac] as [string, string]),
      ]);
      expect(host.metric("refusals")).toBe(1);
      expect(host.metric("lost_entries")).toBe(isFinal ? 1 : 0);
      expect(host.metric("bad_receipts")).toBe(isFinal ? 0 : 1);
      for (let i = 0; i < 12 && host.calls.length < 3; i++) host.tick();
      const { chain } = entriesOf(lastCall(host));
      expect(chain === entriesOf(call).chain).toBe(!isFinal);
    },
  );

  test("takes the key from the environment, and refuses one that is not there", async () => {
    const environment = { MESHSEAL_KEY: `shop:${"09".repeat(16)}\n` };
    const host = await started('{"batchKeyEnv":"MESHSEAL_KEY"}', { environment });
    host.tick();
    expect(judgeMac(lastCall(host).body, "shop", KEYS)).toMatchObject({
      sender: { name: "mac:shop" },
    });
    expect(host.configure('{"batchKeyEnv":"OTHER"}', 2)).toBe(false);
    expect(host.logs.at(-1)).toContain("no environment variable OTHER");
    expect(host.configure('{"batchKey":"x:00"}', 3)).toBe(false);
    expect(host.logs.at(-1)).not.toContain("x:00");
  });

  test("any change of a batch breaks its MAC or its links", async () => {
    const { body } = lastCall(await withKey());
    const header = parseBatchHeader(body);
    fc.assert(
      fc.property(fc.nat(body.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const forged = Buffer.from(body);
        forged[at] = (forged[at] ?? 0) ^ flip;
        const verdict = judgeMac(forged, "cart", KEYS);
        if (verdict === null || "problem" in verdict) return;
        // What the MAC does not see is in an entry before the last, which the link to it covers, or in a prefix.
        expect(at).toBeGreaterThanOrEqual(header?.entriesAt ?? 0);
        expect(linked(forged, header?.entriesAt ?? 0)).toBe(false);
      }),
      { numRuns: 500 },
    );
  });
});

/** Tells if entry 1 of a batch follows entry 0, both behind their zero bytes. */
function linked(batch: Buffer, from: number): boolean {
  const end = from + 3 + batch.readUInt16BE(from);
  if (end + 60 > batch.length || batch[from + 2] !== 0) return false;
  const digest = createHash("sha256")
    .update(batch.subarray(from + 2, end))
    .digest();
  return batch.subarray(end).includes(digest);
}

describe("the exporter", () => {
  let exporter: Exporter;
  const dir = mkdtempSync(join(tmpdir(), "meshseal-mac-"));

  beforeAll(async () => {
    const file = join(dir, "keys");
    writeFileSync(file, `# workloads\ncart:${KEY.toString("hex")}\nshop:${"09".repeat(16)}\n`);
    exporter = await startExporter({ args: ["--batch-keys", file, "--checkpoint-ms", "50"] });
  });
  afterAll(async () => {
    await exporter.stop();
    await checkLog(exporter.dir);
    rmSync(dir, { recursive: true, force: true });
  });

  async function post(body: Uint8Array, headers: Record<string, string> = {}) {
    const answer = await request(`${exporter.url}/v1/batches`, {
      method: "POST",
      headers: { "content-type": BATCH_TYPE, ...headers },
      body: Buffer.from(body),
    });
    await answer.body.dump();
    return {
      status: answer.statusCode,
      headers: answer.headers,
      refusal: answer.headers["meshseal-refusal"],
    };
  }

  test("receipts with a MAC, binds the chain to its key, and refuses all others", async () => {
    const host = await withKey();
    const first = lastCall(host);
    const { mac: _, entriesAt } = parseBatchHeader(first.body) ?? { entriesAt: 0 };
    const bare = Buffer.concat([
      first.body.subarray(0, 34),
      Buffer.of(0, 0),
      first.body.subarray(entriesAt),
    ]);
    expect(await post(bare)).toMatchObject({ status: 401, refusal: "unauthenticated" });
    expect(await post(first.body)).toMatchObject({ status: 401 });
    expect(await post(first.body, { "meshseal-key-id": "shop" })).toMatchObject({ status: 401 });
    expect(await post(first.body, { "meshseal-key-id": "none" })).toMatchObject({ status: 401 });
    const forged = Buffer.from(first.body);
    forged[60] = (forged[60] ?? 0) ^ 1;
    expect(await post(forged, { "meshseal-key-id": "cart" })).toMatchObject({ status: 401 });
    const taken = await post(first.body, { "meshseal-key-id": "cart" });
    expect(taken.status).toBe(200);
    host.answer(first, [
      [":status", "200"],
      ["meshseal-receipt", String(taken.headers["meshseal-receipt"])],
      ["meshseal-receipt-mac", String(taken.headers["meshseal-receipt-mac"])],
    ]);
    host.request(stream("/b"));
    host.tick();
    expect(host.metric("receipted_entries")).toBe(2);
    const second = lastCall(host);
    const at = parseBatchHeader(second.body)?.entriesAt ?? 0;
    const stripped = Buffer.concat([
      second.body.subarray(0, 32),
      Buffer.alloc(4),
      second.body.subarray(at),
    ]);
    expect(await post(stripped)).toMatchObject({ status: 403, refusal: "forbidden" });
    expect(await post(second.body, { "meshseal-key-id": "cart" })).toMatchObject({ status: 200 });
  });

  test("what it refuses for good the filter believes, by the MAC", async () => {
    const host = await withKey();
    // Somebody else's receipt for a first batch that this exporter never got.
    host.answer(lastCall(host), receiptWithMac(lastCall(host)));
    host.request(stream("/b"));
    host.tick();
    const call = lastCall(host);
    const answer = await post(call.body, { "meshseal-key-id": "cart" });
    expect(answer).toMatchObject({ status: 409, refusal: "hole" });
    const names = ["meshseal-refusal", "meshseal-want", "meshseal-refusal-mac"];
    host.answer(call, [
      [":status", "409"],
      ...names.map((name) => [name, String(answer.headers[name])] as [string, string]),
    ]);
    expect(host.metric("lost_entries")).toBe(1);
    expect(host.metric("bad_receipts")).toBe(0);
    host.tick();
    const next = lastCall(host);
    expect(entriesOf(next).chain).not.toBe(entriesOf(call).chain);
    expect(await post(next.body, { "meshseal-key-id": "cart" })).toMatchObject({ status: 200 });
  });

  test("takes batches without a key from this machine", async () => {
    const [batch = Buffer.alloc(0)] = makeChain({ batches: 1, perBatch: 2, entryBytes: 200 });
    expect(await post(batch)).toMatchObject({ status: 200 });
  });
});

test.each([
  ["cart:00", "line 1: is not ID:HEX"],
  ["# a\n\nca rt:00000000000000000000000000000000", "line 3: is not ID:HEX"],
  [`a:${"00".repeat(16)}\na:${"01".repeat(16)}`, "line 2: the id a is given twice"],
])("the key file %j is refused with a sentence that holds no secret", (text, sentence) => {
  const dir = mkdtempSync(join(tmpdir(), "meshseal-keys-"));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  writeFileSync(join(dir, "keys"), text);
  expect(() => readBatchKeys(join(dir, "keys"))).toThrow(sentence);
});

test("judging any bytes never throws", () => {
  const any = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc.uint8Array({ maxLength: 200 }).map((rest) => Buffer.concat([Buffer.from("MSB1"), rest])),
  );
  fc.assert(
    fc.property(any, fc.string(), (bytes, id) => {
      const verdict = judgeMac(Buffer.from(bytes), id, KEYS);
      expect(verdict === null || "problem" in verdict).toBe(true);
    }),
  );
});
