/** What a log says of its outsiders, how long entries waited for one, and which entries claim to be from after their time stamp. */
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { anchorsEntry, peersEntry, Steps } from "../exporter/anchor/entries.ts";
import { entriesAhead } from "../exporter/audit/clocks.ts";
import { measureDelays } from "../exporter/audit/delays.ts";
import { OwnWords, proofKey } from "../exporter/audit/own-words.ts";
import { Tiles } from "../exporter/audit/tiles.ts";
import { decodeEntry, type Entry, encodeEntry, type FieldValue } from "../record/codec.ts";
import * as f from "../record/fields.ts";
import { type MemoryLog, memoryLog } from "./support/memory-log.ts";

const T0 = 1_767_139_200;

function entry(kind: number, fields: readonly FieldValue[]): Entry {
  const bytes = encodeEntry([
    { number: f.F_KIND, value: kind },
    { number: f.F_CHAIN, value: Buffer.alloc(16) },
    { number: f.F_SEQ, value: 1 },
    { number: f.F_PREV, value: Buffer.alloc(32) },
    { number: f.F_TIME, value: T0 * 1e6 },
    { number: f.F_SALT, value: Buffer.alloc(16) },
    ...fields,
  ]);
  const decoded = decodeEntry(bytes);
  if (decoded === null) throw new Error("no entry");
  return decoded;
}

describe("what a log says", () => {
  test("of proofs and steps is read as it was written", () => {
    const steps = new Steps();
    const most = f.MAX_STEPS + 10;
    for (let i = 0; i < most; i++) steps.add({ from: i, size: i + 1, time: i });
    const kept = [
      { name: "tsa", size: 7, at: T0 * 1000, bytes: Buffer.from("old") },
      { name: "tsa", size: 9, at: T0 * 1000 + 5, bytes: Buffer.from("new") },
      { name: "witnesses", size: 9, at: T0 * 1000, bytes: Buffer.from("w") },
    ];
    const taken = steps.take();
    expect(steps.take()).toEqual([]);
    const words = new OwnWords();
    words.visit(entry(f.KIND_ANCHORS, anchorsEntry(kept, taken) ?? []));
    // The newest of each; of too many steps the last ones became one.
    expect([...words.proofs.keys()]).toEqual([proofKey("tsa", 9), proofKey("witnesses", 9)]);
    expect(words.steps).toHaveLength(f.MAX_STEPS);
    expect(words.steps[0]).toEqual({ from: 0, size: 1, time: 0 });
    expect(words.steps.at(-1)).toEqual({ from: f.MAX_STEPS - 1, size: most, time: most - 1 });
    expect(anchorsEntry([], [])).toBeNull();
  });

  test("of a peer is the last that it saw; an empty one does not hide one", () => {
    const words = new OwnWords();
    const peer = { name: "b", vkey: "b+1+x", keyId: Buffer.alloc(4), verify: () => false };
    const seen = (note: string): void =>
      words.visit(
        entry(f.KIND_PEERS, peersEntry([peer], new Map([["b", Buffer.from(note)]])) ?? []),
      );
    for (const note of ["", "one", "two", ""]) seen(note);
    expect([...words.peers.values()]).toEqual([
      { origin: "b", vkey: "b+1+x", note: Buffer.from("two") },
    ]);
  });

  test("is read without a throw, whatever fields are there", () => {
    const value = (number: number): fc.Arbitrary<FieldValue[]> => {
      const isText = [f.F_ANCHOR, f.F_PEER_ORIGIN, f.F_PEER_KEY, f.F_PEER_CHECKPOINT].includes(
        number,
      );
      const one: fc.Arbitrary<number | Uint8Array> =
        number === f.F_ANCHOR_PROOF
          ? fc.uint8Array({ minLength: 32, maxLength: 32 })
          : isText
            ? fc.uint8Array({ maxLength: 40 })
            : fc.oneof(fc.nat(20), fc.maxSafeNat());
      return fc.array(
        one.map((given) => ({ number, value: given })),
        { maxLength: 4 },
      );
    };
    const anchors = [
      f.F_ANCHOR,
      f.F_ANCHOR_SIZE,
      f.F_ANCHOR_TIME,
      f.F_ANCHOR_PROOF,
      f.F_OUTSIDE_FROM,
      f.F_OUTSIDE_SIZE,
      f.F_OUTSIDE_TIME,
    ];
    const peers = [f.F_PEER_ORIGIN, f.F_PEER_KEY, f.F_PEER_CHECKPOINT];
    const lists = fc.oneof(
      fc.tuple(...anchors.map(value)).map((all) => entry(f.KIND_ANCHORS, all.flat())),
      fc.tuple(...peers.map(value)).map((all) => entry(f.KIND_PEERS, all.flat())),
    );
    fc.assert(
      fc.property(fc.array(lists, { maxLength: 5 }), (entries) => {
        const words = new OwnWords();
        for (const one of entries) words.visit(one);
        for (const { from, size } of words.steps) expect(from).toBeLessThan(size);
      }),
    );
  });
});

describe("measured on a log", () => {
  let log: MemoryLog;
  let tiles: Tiles;

  /** 1000 entries of second 0, 1 of second 100, 1 of second 50, 300 of second 200. */
  beforeAll(async () => {
    log = await memoryLog("log.example/outside", "outside");
    for (const [count, at] of [
      [1000, 0],
      [1, 100],
      [1, 50],
      [300, 200],
    ] as const)
      await log.grow(count, T0 + at);
    tiles = new Tiles(log.source, 1302);
  });

  const step = (
    from: number,
    size: number,
    at: number,
  ): Parameters<typeof measureDelays>[1][0] => ({
    from,
    size,
    time: (T0 + at) * 1000,
  });

  test("each entry waited for the step that covers it", async () => {
    const steps = [step(0, 1000, 4), step(1000, 1002, 101), step(1002, 1302, 260)];
    expect(await measureDelays(tiles, steps)).toEqual({
      entries: 1302,
      medianSeconds: 4,
      p99Seconds: 60,
      worstSeconds: 60,
    });
    // Of a clock that is behind, the wait is long; ahead, it is none.
    expect(await measureDelays(tiles, [step(1001, 1002, 101)])).toMatchObject({ worstSeconds: 51 });
    expect(await measureDelays(tiles, [step(1000, 1001, 60)])).toMatchObject({ worstSeconds: 0 });
    // What is beyond the log says nothing.
    expect(await measureDelays(tiles, [step(0, 5000, 4)])).toBeNull();
  });

  test("only entries below a stamp, and from after it, are ahead", async () => {
    const newest = [0, 0, 0, 100, 200, 200].map((at) => (T0 + at) * 1e6);
    const stamp = (size: number, at: number) => ({ size, time: T0 + at, slack: 5 });
    const ahead = (...stamps: ReturnType<typeof stamp>[]) => entriesAhead(tiles, newest, stamps);
    expect(await ahead()).toBeNull();
    expect(await ahead(stamp(1000, 0), stamp(1302, 200))).toBeNull();
    expect(await ahead(stamp(1001, 95))).toBeNull();
    expect(await ahead(stamp(1001, 94))).toEqual({
      entries: 1,
      index: 1000,
      seconds: 1,
      isSample: false,
    });
    // The earliest stamp over an entry binds it, whatever later ones say.
    expect(await ahead(stamp(1000, 300), stamp(1002, 40), stamp(1302, 10))).toEqual({
      entries: 302,
      index: 1000,
      seconds: 85,
      isSample: false,
    });
  });
});
