import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { signReceipt } from "../exporter/log/receipt.ts";
import { parseBatchHeader } from "../record/batch.ts";
import { bytesOf, type Entry, uintOf } from "../record/codec.ts";
import * as f from "../record/fields.ts";
import { entriesOf, lastCall, receiptFor, signer, started, stream } from "./support/filter.ts";
import type { Call } from "./support/host.ts";

describe("entries", () => {
  test("a chain opens at the first request, never in on_configure, and the request follows", async () => {
    const host = await started();
    expect(host.metric("chains")).toBe(0);
    host.request(stream("/cart/1?token=secret"));
    host.tick();
    const { entries, firstSeq } = entriesOf(lastCall(host));
    expect(firstSeq).toBe(0);
    expect(entries.map(({ kind }) => kind)).toEqual([f.KIND_OPEN, f.KIND_REQUEST]);
    const [open, one] = entries as [Entry, Entry];
    expect(uintOf(open, f.F_FORMAT)).toBe(f.FORMAT_VERSION);
    expect(Buffer.from(bytesOf(open, f.F_CONFIG_DIGEST) ?? []).toString("hex")).toBe(
      createHash("sha256").update("{}").digest("hex"),
    );
    expect(Buffer.from(bytesOf(one, f.F_PATH) ?? []).toString()).toBe("/cart/1");
    expect(uintOf(one, f.F_DURATION)).toBe(1234);
    expect(one.time).toBe(1_795_478_400_000_000);
  });

  test("the time to hash is measured of every 256th entry", async () => {
    const host = await started();
    let readings = 0;
    host.fault = (name): number => {
      if (name === "proxy_get_current_time_nanoseconds") {
        readings++;
        host.clock += 700n;
      }
      return 0;
    };
    // The chain's open is the first entry.
    for (let i = 0; i < 255; i++) host.request(stream("/"));
    expect(host.metric("hash_ns")).toBe(700);
    const before = readings;
    host.request(stream("/"));
    expect(readings - before).toBe(3);
    host.request(stream("/"));
    expect(readings - before).toBe(4);
  });

  test.each([true, false])(
    "any attributes and headers: canonical, linked, complete (expressions broken: %s)",
    async (isBroken) => {
      const bytes = fc.uint8Array({ maxLength: 300 });
      const names = [
        "request.protocol",
        "response.code_details",
        "xds.route_name",
        "xds.cluster_name",
        "upstream.address",
        "source.address",
        "destination.address",
        "connection.uri_san_peer_certificate",
        "connection.mtls",
      ];
      const numbers = [
        "request.duration",
        "request.total_size",
        "response.total_size",
        "response.flags",
        "response.code",
        "connection.id",
      ];
      const attributes = fc.tuple(
        fc.dictionary(
          fc.constantFrom(...names),
          fc.oneof(bytes, fc.constant(Buffer.alloc(9000, "x"))),
        ),
        fc.dictionary(fc.constantFrom(...numbers), fc.oneof(fc.nat(600), fc.maxSafeInteger())),
      );
      const key = fc.oneof(
        bytes,
        fc
          .constantFrom(":method", ":path", ":authority", "x-request-id", "user-agent")
          .map((name) => Buffer.from(name)),
      );
      const value = fc.oneof(bytes, fc.constant(Buffer.alloc(60_000, "y")));
      const headers = fc.array(fc.tuple(key, value), { maxLength: 8 });
      const host = await started();
      host.isExpressionBroken = isBroken;
      let count = 0;
      fc.assert(
        fc.property(attributes, headers, ([texts, uints], pairs) => {
          host.request({ attributes: { ...texts, ...uints }, headers: pairs });
          count++;
          host.tick();
          const call = lastCall(host);
          const { entries } = entriesOf(call);
          expect(entries.filter(({ kind }) => kind === f.KIND_REQUEST)).toHaveLength(1);
          host.answer(call, receiptFor(call));
        }),
        { numRuns: 500 },
      );
      expect(host.metric("requests")).toBe(count);
      expect(host.metric("entries")).toBe(host.metric("receipted_entries"));
      expect(host.metric("buffered_bytes")).toBe(0);
    },
  );

  test("a value that is too long is cut, and the cut is said", async () => {
    const host = await started();
    host.request(stream(`/${"p".repeat(9000)}`));
    host.tick();
    const entry = entriesOf(lastCall(host)).entries[1];
    expect(entry && bytesOf(entry, f.F_PATH)).toHaveLength(f.MAX_PATH);
    expect(entry && uintOf(entry, f.F_CUT)).toBe(f.F_PATH);
  });

  test("without randomness no chain opens, and the requests are counted", async () => {
    const host = await started();
    host.isRandomBroken = true;
    host.request(stream("/a"));
    host.tick();
    expect(host.calls).toHaveLength(0);
    host.isRandomBroken = false;
    host.request(stream("/b"));
    host.tick();
    const { entries } = entriesOf(lastCall(host));
    expect(entries.map(({ kind }) => kind)).toEqual([f.KIND_OPEN, f.KIND_GAP, f.KIND_REQUEST]);
  });
});

describe("delivery", () => {
  test("one batch at a time; what is receipted is freed, what came meanwhile follows", async () => {
    const host = await started();
    host.request(stream("/a"));
    host.tick();
    host.request(stream("/b"));
    host.tick();
    expect(host.calls).toHaveLength(1);
    host.answer(lastCall(host), receiptFor(lastCall(host)));
    host.tick();
    expect(host.calls).toHaveLength(2);
    expect(entriesOf(lastCall(host)).firstSeq).toBe(2);
    expect(parseBatchHeader(lastCall(host).body)?.receipt.length).toBeGreaterThan(100);
  });

  test.each([
    ["another chain", (call: Call) => receiptFor(call, { chain: "ff".repeat(16) })],
    ["another head", (call: Call) => receiptFor(call, { head: "ff".repeat(32) })],
    ["more than was made", (call: Call) => receiptFor(call, { nextSeq: 99 })],
    ["nothing new", (call: Call) => receiptFor(call, { nextSeq: 1, head: "00".repeat(32) })],
    [
      "no base64",
      () => [
        [":status", "200"],
        ["meshseal-receipt", "?".repeat(400)],
      ],
    ],
    [
      "no note",
      () => [
        [":status", "200"],
        ["meshseal-receipt", Buffer.from("hello\n").toString("base64")],
      ],
    ],
    [
      "500 KB",
      () => [
        [":status", "200"],
        ["meshseal-receipt", "A".repeat(500_000)],
      ],
    ],
    ["a 200 of some proxy", () => [[":status", "200"]]],
    ["a 503 of Envoy", () => [[":status", "503"]]],
    ["a 409 of some proxy", () => [[":status", "409"]]],
    ["no headers at all", () => []],
    [
      "a word that is not known",
      () => [
        [":status", "400"],
        ["meshseal-refusal", "whatever"],
      ],
    ],
    [
      "busy",
      () => [
        [":status", "503"],
        ["meshseal-refusal", "busy"],
        ["retry-after", "1"],
      ],
    ],
  ] as [string, (call: Call) => [string, string][]][])(
    "%s frees nothing, and the same entries are sent again",
    async (_, answer) => {
      const host = await started();
      host.request(stream("/a"));
      host.tick();
      const first = lastCall(host);
      host.answer(first, answer(first));
      expect(host.metric("receipted_entries")).toBe(0);
      for (let i = 0; i < 12 && host.calls.length < 2; i++) host.tick();
      expect(host.calls).toHaveLength(2);
      expect(lastCall(host).body.equals(first.body)).toBe(true);
      host.answer(lastCall(host), receiptFor(lastCall(host)));
      expect(host.metric("receipted_entries")).toBe(2);
    },
  );

  test("a call that the host drops silently is sent again, and a late answer to it counts for nothing", async () => {
    const host = await started();
    host.request(stream("/a"));
    host.tick();
    const first = lastCall(host);
    for (let i = 0; i < 40 && host.calls.length < 2; i++) host.tick();
    expect(host.calls).toHaveLength(2);
    host.answer(first, receiptFor(first));
    expect(host.metric("receipted_entries")).toBe(0);
  });

  test.each([
    ["malformed", f.ABANDONED_MALFORMED],
    ["fork", f.ABANDONED_FORK],
    ["rollback", f.ABANDONED_ROLLBACK],
    ["too-large", f.ABANDONED_TOO_LARGE],
  ])("%s ends the chain, and the next one names it", async (word, cause) => {
    const host = await started();
    host.request(stream("/a"));
    host.tick();
    host.answer(lastCall(host), receiptFor(lastCall(host)));
    const { chain, head } = entriesOf(lastCall(host));
    host.request(stream("/b"));
    host.tick();
    host.answer(lastCall(host), [
      [":status", "409"],
      ["meshseal-refusal", word],
    ]);
    host.request(stream("/c"));
    host.tick();
    const { entries } = entriesOf(lastCall(host));
    const [open] = entries as [Entry];
    expect(entries.map(({ kind }) => kind)).toEqual([f.KIND_OPEN, f.KIND_REQUEST]);
    expect(Buffer.from(bytesOf(open, f.F_ABANDONED_CHAIN) ?? []).toString("hex")).toBe(chain);
    expect(Buffer.from(bytesOf(open, f.F_ABANDONED_HEAD) ?? []).toString("hex")).toBe(head);
    expect(uintOf(open, f.F_ABANDONED_SEQ)).toBe(2);
    expect(uintOf(open, f.F_ABANDONED_COUNT)).toBe(1);
    expect(uintOf(open, f.F_ABANDONED_CAUSE)).toBe(cause);
    expect(host.metric("lost_entries")).toBe(1);
  });

  test("a hole before what is held ends the chain, another one does not", async () => {
    const host = await started();
    host.request(stream("/a"));
    host.tick();
    host.answer(lastCall(host), receiptFor(lastCall(host)));
    host.request(stream("/b"));
    host.tick();
    host.answer(lastCall(host), [
      [":status", "409"],
      ["meshseal-refusal", "hole"],
      ["meshseal-want", "2"],
    ]);
    expect(host.metric("chains")).toBe(1);
    for (let i = 0; i < 12 && host.calls.length < 3; i++) host.tick();
    host.answer(lastCall(host), [
      [":status", "409"],
      ["meshseal-refusal", "hole"],
      ["meshseal-want", "0"],
    ]);
    expect(host.metric("chains")).toBe(2);
  });

  test.each([
    ["{}", 131_072],
    ['{"bufferBytes":65536}', 32_768],
  ])("with %s a batch goes out before the tick when %d bytes wait", async (config, most) => {
    const host = await started(config);
    while (host.calls.length === 0) host.request(stream("/a"));
    const { body } = lastCall(host);
    expect(body.length).toBeGreaterThan(most - 1000);
    expect(body.length).toBeLessThan(most + 1000);
  });

  test("a full buffer drops before chaining, counts, and chains the count when there is room", async () => {
    const host = await started('{"bufferBytes":65536,"batchBytes":16384}');
    host.callStatus = 2;
    for (let i = 0; i < 1000; i++) host.request(stream(`/${i}`));
    host.tick(1);
    const missed = host.metric("gap_requests");
    expect(missed).toBeGreaterThan(0);
    expect(host.metric("requests") + missed).toBe(1000);
    host.callStatus = 0;
    const kinds: number[] = [];
    let gap: Entry | undefined;
    let next = 0;
    for (let i = 0; i < 200 && (i < 60 || host.metric("buffered_bytes") > 0); i++) {
      host.tick();
      for (; next < host.calls.length; next++) {
        const call = host.calls[next] as Call;
        const { entries } = entriesOf(call);
        kinds.push(...entries.map(({ kind }) => kind));
        gap ??= entries.find(({ kind }) => kind === f.KIND_GAP);
        host.answer(call, receiptFor(call));
      }
    }
    expect(gap && uintOf(gap, f.F_GAP_COUNT)).toBe(missed);
    expect(kinds.filter((kind) => kind === f.KIND_REQUEST)).toHaveLength(1000 - missed);
  });

  test("a quiet chain says each heartbeat that it lives, with its newest receipt", async () => {
    const host = await started('{"heartbeatMs":1000}');
    host.request(stream("/a"));
    host.tick();
    const answer = receiptFor(lastCall(host));
    host.answer(lastCall(host), answer);
    for (let i = 0; i < 5; i++) host.tick();
    const { entries } = entriesOf(lastCall(host));
    expect(entries[0]?.kind).toBe(f.KIND_HEARTBEAT);
    const receipt = entries[0] && bytesOf(entries[0], f.F_RECEIPT);
    expect(Buffer.from(receipt ?? []).toString("base64")).toBe(answer[1]?.[1]);
  });

  test("the seal names the last entry", async () => {
    const host = await started();
    host.request(stream("/a"));
    host.tick();
    const { chain, head } = entriesOf(lastCall(host));
    host.done();
    expect(host.logs.at(-1)).toBe(
      `meshseal seal chain=${chain} seq=1 head=${head} unreceipted=2 missed=0`,
    );
  });
});

test("memory is flat over a million requests", async () => {
  const host = await started('{"bufferBytes":262144}');
  const one = stream("/cart/1");
  const run = (count: number): void => {
    for (let i = 0; i < count; i++) {
      host.request(one);
      if (i % 100 !== 99) continue;
      host.tick(1);
      const call = host.calls.pop();
      if (call === undefined) continue;
      const header = parseBatchHeader(call.body);
      const nextSeq = (header?.firstSeq ?? 0) + (header?.count ?? 0);
      let last = header?.entriesAt ?? 0;
      for (let at = last; at < call.body.length; at += 3 + call.body.readUInt16BE(at)) last = at;
      const head = createHash("sha256")
        .update(call.body.subarray(last + 2))
        .digest("hex");
      const chain = Buffer.from(header?.chain ?? []).toString("hex");
      const note = signReceipt(
        { origin: signer.name, chain, nextSeq, head, treeSize: 0, treeRoot: Buffer.alloc(32) },
        signer,
      );
      host.answer(call, [
        [":status", "200"],
        ["meshseal-receipt", Buffer.from(note).toString("base64")],
      ]);
    }
  };
  run(10_000);
  const before = host.memoryBytes;
  run(990_000);
  expect(host.memoryBytes).toBe(before);
  expect(host.metric("requests") + host.metric("gap_requests")).toBe(1_000_000);
  expect(host.metric("gap_requests")).toBe(0);
}, 300_000);
