import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { judgeMac, macOfReceipt } from "../exporter/access/mac.ts";
import { readSpills } from "../exporter/audit/spill.ts";
import { parseBatchHeader } from "../record/batch.ts";
import { bytesOf, type Entry, uintOf } from "../record/codec.ts";
import * as f from "../record/fields.ts";
import { entriesOf, lastCall, receiptFor, started, stream } from "./support/filter.ts";
import { type Call, Host, type HostOptions, type Stream } from "./support/host.ts";

const ENFORCE: HostOptions = { module: "build/enforce.wasm" };

function routed(path: string, delivery: string): Stream {
  return stream(path, {
    "xds.route_metadata.filter_metadata.meshseal.delivery": Buffer.from(delivery),
  });
}

/** Receipts whatever is sent until nothing is left, and returns all entries that came. */
function drain(host: Host, root = 1): Entry[] {
  const entries: Entry[] = [];
  let next = host.calls.length;
  for (let i = 0; i < 200 && (i < 60 || host.metric("buffered_bytes") > 0); i++) {
    host.tick(250, root);
    for (; next < host.calls.length; next++) {
      const call = host.calls[next];
      if (call === undefined) continue;
      entries.push(...entriesOf(call).entries);
      host.answer(call, receiptFor(call));
    }
  }
  return entries;
}

describe("roots that come and go", () => {
  test("a new configuration goes on with the chain, and an old root's batch is handed over when it ends", async () => {
    const host = await started();
    host.request(stream("/a"));
    host.tick();
    const lost = lastCall(host);
    expect(host.configure('{"tickMs":100}', 2)).toBe(true);
    host.request(stream("/b"));
    host.done(1);
    // Envoy cancels the old root's call without a word: the same entries go out of the new one at once.
    expect(host.calls).toHaveLength(2);
    const { entries, chain, firstSeq } = entriesOf(lastCall(host));
    expect(chain).toBe(entriesOf(lost).chain);
    expect(firstSeq).toBe(0);
    expect(entries.map((entry) => uintOf(entry, f.F_CONFIG))).toEqual([1, 1, 2, 2]);
    expect(entries[2]?.kind).toBe(f.KIND_CONFIG);
    expect(host.logs.filter((line) => line.startsWith("meshseal seal"))).toEqual([]);
    host.answer(lastCall(host), receiptFor(lastCall(host)));
    host.request(stream("/c"));
    host.tick(250, 2);
    expect(entriesOf(lastCall(host)).firstSeq).toBe(4);
    host.answer(lastCall(host), receiptFor(lastCall(host)));
    host.done(2);
    expect(host.logs.at(-1)).toMatch(/^meshseal seal .* seq=4 .* unreceipted=0 missed=0$/);
  });

  test("the newest root may end first: an older one goes on sending, and nothing is sealed", async () => {
    const host = await started();
    host.configure("{}", 2);
    host.request(stream("/a"));
    host.tick(250, 2);
    host.done(2);
    expect(host.calls).toHaveLength(2);
    host.answer(lastCall(host), receiptFor(lastCall(host)));
    host.request(stream("/b"));
    host.tick(250, 1);
    expect(entriesOf(lastCall(host)).firstSeq).toBe(2);
    expect(host.logs).toEqual([]);
  });

  test("a refused configuration changes nothing", async () => {
    const host = await started();
    expect(host.configure('{"delivery":"enforced"}', 2)).toBe(false);
    host.request(stream("/a"));
    host.tick(250, 1);
    expect(host.calls).toHaveLength(1);
  });
});

describe("the register of the process", () => {
  test("a new VM names the chains that it finds, and how far they were", async () => {
    const shared = new Map();
    const first = await started("{}", { shared });
    first.request(stream("/a"));
    first.tick();
    const second = await started("{}", { shared });
    second.request(stream("/b"));
    second.tick();
    const { chain } = entriesOf(lastCall(first));
    const open = entriesOf(lastCall(second)).entries[0];
    if (open === undefined) throw new Error("no open");
    expect(Buffer.from(bytesOf(open, f.F_HINT) ?? []).toString("hex")).toBe(chain);
    expect(uintOf(open, f.F_HINT_SEQ)).toBe(2);
  });

  test("a chain that ended with everything receipted is not named", async () => {
    const shared = new Map();
    const first = await started("{}", { shared });
    first.request(stream("/a"));
    first.tick();
    first.answer(lastCall(first), receiptFor(lastCall(first)));
    first.tick();
    first.done();
    const second = await started("{}", { shared });
    second.tick();
    const open = entriesOf(lastCall(second)).entries[0];
    expect(open && bytesOf(open, f.F_HINT)).toBeUndefined();
  });
});

function isOwn(call: Call): boolean {
  try {
    return entriesOf(call).entries.length > 0;
  } catch {
    return false;
  }
}

describe("what a VM leaves", () => {
  const SMALL = '{"bufferBytes":65536,"batchBytes":4096}';

  /** A VM that ends with a call under way: 40 requests and its `open`, in several batches. */
  async function ended(shared: NonNullable<HostOptions["shared"]>, config = SMALL): Promise<Host> {
    const host = await started(config, { shared });
    for (let i = 0; i < 40; i++) host.request(stream(`/${i}`));
    host.tick();
    host.done();
    return host;
  }

  test("goes home by the next one of its process, once, and in order", async () => {
    const shared = new Map();
    const first = await ended(shared);
    const { chain } = entriesOf(lastCall(first));
    expect(first.logs.at(-1)).toMatch(/ unreceipted=41 missed=0$/);
    expect(first.metric("buffered_bytes")).toBe(0);
    const second = await started(SMALL, { shared });
    const entries = drain(second).filter((one) => Buffer.from(one.chain).toString("hex") === chain);
    expect(entries.map(({ seq }) => seq)).toEqual(Array.from({ length: 41 }, (_, seq) => seq));
    expect(second.metric("receipted_entries")).toBe(second.metric("entries") + 41);
    expect(second.calls.length).toBeGreaterThan(3);
    const third = await started(SMALL, { shared });
    expect(drain(third).every((one) => Buffer.from(one.chain).toString("hex") !== chain)).toBe(
      true,
    );
  });

  test("is left again by a VM that could not bring it home, with a MAC as before", async () => {
    const shared = new Map();
    const key = Buffer.alloc(32, 7);
    const config = JSON.stringify({
      ...JSON.parse(SMALL),
      batchKey: `cart:${key.toString("hex")}`,
    });
    const first = await ended(shared, config);
    const { chain } = entriesOf(lastCall(first));
    const away = await started(config, { shared });
    away.callStatus = 2;
    for (let i = 0; i < 9; i++) away.tick();
    away.done();
    const last = await started(config, { shared });
    const seqs = new Set<number>();
    for (let i = 0, next = 0; i < 60; i++) {
      last.tick();
      for (; next < last.calls.length; next++) {
        const call = last.calls[next] as Call;
        const verdict = judgeMac(call.body, "cart", new Map([["cart", key]]));
        expect(verdict).toMatchObject({ key });
        const sent = entriesOf(call);
        if (sent.chain === chain) for (const { seq } of sent.entries) seqs.add(seq);
        const receipt = receiptFor(call);
        const note = Buffer.from(receipt[1]?.[1] ?? "", "base64").toString();
        const mac = macOfReceipt(key, Buffer.from(sent.chain, "hex"), note).toString("base64");
        last.answer(call, [...receipt, ["meshseal-receipt-mac", mac]]);
      }
    }
    expect(seqs.size).toBe(41);
  });

  test("is no trap, whatever somebody plants there", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 200 }),
        fc.uint8Array({ maxLength: 400 }),
        fc.nat(),
        async (list, junk, at) => {
          const shared = new Map();
          const first = await ended(shared);
          const left = [...shared.keys()].filter((key) => key.startsWith("meshseal/v1/left"));
          expect(left.length).toBeGreaterThan(3);
          const key = left[at % left.length] ?? "";
          const bytes = Buffer.from(shared.get(key).value);
          if (key === "meshseal/v1/left") bytes.set(list.subarray(0, bytes.length));
          else bytes.set(junk.subarray(0, bytes.length), at % 40);
          shared.set(key, { value: bytes, cas: 9 });
          const next = await started(SMALL, { shared });
          next.request(stream("/after"));
          for (let i = 0; i < 60; i++) {
            next.tick();
            const call = next.calls.at(-1);
            // What was planted is not for entriesOf: it goes to the exporter, and is refused there.
            if (call && isOwn(call)) next.answer(call, receiptFor(call));
            else if (call)
              next.answer(call, [
                [":status", "400"],
                ["meshseal-refusal", "malformed"],
              ]);
          }
          expect(next.metric("receipted_entries")).toBeGreaterThanOrEqual(2);
          expect(first.logs.length).toBeGreaterThan(0);
        },
      ),
      { numRuns: 50 },
    );
  });
});

describe("modes of delivery", () => {
  test("best effort gives way from half a buffer on, per route, and says so", async () => {
    const host = await started('{"bufferBytes":65536,"batchBytes":4096}');
    host.callStatus = 2;
    for (let i = 0; i < 400; i++) host.request(routed(`/${i}`, "best-effort"));
    host.tick(1);
    const gaveWay = host.metric("gap_best_effort");
    expect(gaveWay).toBeGreaterThan(0);
    expect(host.metric("gap_buffer_full")).toBe(0);
    host.request(stream("/important"));
    host.tick(1);
    expect(host.metric("gap_best_effort")).toBe(gaveWay);
    host.callStatus = 0;
    const gaps = drain(host).filter(({ kind }) => kind === f.KIND_GAP);
    expect(gaps.map((gap) => [uintOf(gap, f.F_GAP_CAUSE), uintOf(gap, f.F_GAP_COUNT)])).toEqual([
      [f.GAP_BEST_EFFORT, gaveWay],
    ]);
  });

  test("a plugin on best effort can have a route that is not", async () => {
    const host = await started('{"bufferBytes":65536,"batchBytes":4096,"delivery":"best-effort"}');
    host.callStatus = 2;
    for (let i = 0; i < 400; i++) host.request(stream(`/${i}`));
    host.tick(1);
    const before = host.metric("requests");
    host.request(routed("/paid", "bounded-loss"));
    host.tick(1);
    expect(host.metric("requests")).toBe(before + 1);
  });

  test("enforced refuses when there is no receipt for too long, and records the refusal", async () => {
    const host = await started('{"delivery":"enforced","enforceMs":1000}', ENFORCE);
    expect(host.requestHeaders(stream("/a"))).toBe(true);
    host.request(stream("/a"));
    for (let i = 0; i < 6; i++) host.tick();
    expect(host.requestHeaders(stream("/b"))).toBe(false);
    expect(host.refusal).toEqual({ status: 503, details: "meshseal_no_receipt" });
    host.request(stream("/b", { "response.code": 503 }));
    expect(host.requestHeaders(routed("/c", "bounded-loss"))).toBe(true);
    host.answer(lastCall(host), receiptFor(lastCall(host)));
    host.tick();
    host.answer(lastCall(host), receiptFor(lastCall(host)));
    expect(host.requestHeaders(stream("/d"))).toBe(true);
    const { entries } = entriesOf(lastCall(host));
    expect(entries.map((entry) => uintOf(entry, f.F_STATUS))).toEqual([503]);
    expect(host.metric("enforced_refusals")).toBe(1);
  });

  test("enforced refuses while the buffer still has room for the refusals", async () => {
    const host = await started(
      '{"bufferBytes":65536,"batchBytes":4096,"enforceMs":600000}',
      ENFORCE,
    );
    host.callStatus = 2;
    let admitted = 0;
    while (host.requestHeaders(routed("/a", "enforced")) && admitted < 1000) {
      admitted++;
      host.request(routed("/a", "enforced"));
    }
    expect(host.refusal?.details).toBe("meshseal_no_room");
    for (let i = 0; i < 20; i++) {
      expect(host.requestHeaders(routed("/b", "enforced"))).toBe(false);
      host.request(routed("/b", "enforced"));
    }
    host.tick(1);
    expect(host.metric("gap_requests")).toBe(0);
    expect(host.metric("requests")).toBe(admitted + 20);
  });

  test("without randomness there is no chain, and enforced refuses", async () => {
    const host = await started('{"delivery":"enforced"}', ENFORCE);
    host.isRandomBroken = true;
    expect(host.requestHeaders(stream("/a"))).toBe(false);
    expect(host.refusal?.details).toBe("meshseal_no_chain");
  });

  test("the plain build takes no configuration that it cannot keep", async () => {
    const { host, isAccepted } = await Host.start('{"delivery":"enforced"}');
    expect(isAccepted).toBe(false);
    expect(host.logs.at(-1)).toContain('"enforced" needs the module enforce.wasm');
  });
});

test("a chain that is given up is spilled, and its successor counts what was lost", async () => {
  const host = await started('{"spill":true}');
  host.request(stream("/a"));
  host.tick();
  host.answer(lastCall(host), receiptFor(lastCall(host)));
  for (const path of ["/b", "/c"]) host.request(stream(path));
  host.tick();
  host.answer(lastCall(host), [
    [":status", "409"],
    ["meshseal-refusal", "fork"],
  ]);
  host.tick();
  const open = entriesOf(lastCall(host)).entries[0];
  if (open === undefined) throw new Error("no open");
  expect(uintOf(open, f.F_ABANDONED_SEQ)).toBe(2);
  expect(uintOf(open, f.F_ABANDONED_COUNT)).toBe(2);
  expect(host.metric("lost_entries")).toBe(2);
  const { batches } = readSpills(host.logs, { proxies: [], macs: new Map() });
  expect(batches.map(({ firstSeq, count }) => [firstSeq, count])).toEqual([[2, 2]]);
});

test("a heartbeat counts the streams by what became of them", async () => {
  const host = await started('{"heartbeatMs":1000,"bufferBytes":65536,"batchBytes":4096}');
  host.callStatus = 2;
  for (let i = 0; i < 400; i++) host.request(stream(`/${i}`));
  host.callStatus = 0;
  const heartbeat = drain(host).find(({ kind }) => kind === f.KIND_HEARTBEAT);
  if (heartbeat === undefined) throw new Error("no heartbeat");
  const written = uintOf(heartbeat, f.F_STREAMS_WRITTEN) ?? 0;
  expect(uintOf(heartbeat, f.F_STREAMS)).toBe(400);
  expect(written).toBe(host.metric("requests"));
  expect(uintOf(heartbeat, f.F_STREAMS_MISSED)).toBe(400 - written);
  expect(uintOf(heartbeat, f.F_STREAMS_REFUSED)).toBe(0);
});

test("the batch's header says nothing of a MAC where there is no key", async () => {
  const host = await started();
  host.tick();
  expect(parseBatchHeader(lastCall(host).body)?.mac).toHaveLength(0);
});
