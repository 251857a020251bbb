import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";
import { problemOf } from "../exporter/intake/check.ts";
import { look, release, take } from "../exporter/intake/desk.ts";
import { BundleReader } from "../exporter/log/bundle-reader.ts";
import { hashLeaves } from "../exporter/log/hasher.ts";
import { leafHash } from "../exporter/log/merkle.ts";
import { formatBundle, parseBundle } from "../exporter/log/tile.ts";
import { endOfEntries, Tree } from "../exporter/log/tree.ts";
import { CHAIN_AT, KIND, PREV_AT, SEQ, STREAM_ID_AT, TIME, VERDICT } from "../exporter/log/wasm.ts";
import { formatBatch, parseBatchHeader } from "../record/batch.ts";
import { ENTRY_MALFORMED, encodeEntry, Scanner } from "../record/codec.ts";
import {
  F_CHAIN,
  F_KIND,
  F_PREV,
  F_SALT,
  F_SEQ,
  F_TIME,
  KIND_HEARTBEAT,
  KIND_OPEN,
} from "../record/fields.ts";
import { BATCH_HEADER_BYTES, ENTRY_PREFIX_BYTES, MAX_BATCH_BYTES } from "../record/wire.ts";
import { makeChain } from "./support/chains.ts";

type Vector = { readonly bytes: string };
const vectors = JSON.parse(readFileSync("test/vectors/entries.json", "utf8")) as Record<
  "valid" | "newer" | "invalid",
  Vector[]
>;
const known = [...vectors.valid, ...vectors.newer, ...vectors.invalid].map(({ bytes }) =>
  Buffer.from(bytes, "hex"),
);
const scanner = new Scanner();
const reader = new BundleReader();

/** Bytes of an entry, or such with a byte changed, put in or taken out. */
const almostEntry = fc
  .tuple(
    fc.constantFrom(...known),
    fc.constantFrom("as it is", "change", "insert", "remove"),
    fc.nat(),
    fc.constantFrom(0, 1, 2, 8, 10, 16, 32, 0x7f, 0x80, 0xff),
  )
  .map(([entry, change, where, byte]) => {
    const at = where % (entry.length + 1);
    const [before, after] = [entry.subarray(0, at), entry.subarray(at)];
    if (change === "change") return Buffer.concat([before, Buffer.of(byte), after.subarray(1)]);
    if (change === "insert") return Buffer.concat([before, Buffer.of(byte), after]);
    return change === "remove" ? Buffer.concat([before, after.subarray(1)]) : entry;
  });

test("the wasm scanner says of any bytes what the codec says, and finds the same in them", () => {
  fc.assert(
    fc.property(fc.oneof(almostEntry, fc.uint8Array({ maxLength: 200 })), (entry) => {
      const verdict = scanner.scan(entry, 0, entry.length);
      const packed = formatBundle([entry, entry]);
      reader.bundle(packed.length).set(packed);
      const isRight = reader.scan(2);
      expect(isRight).toBe(verdict !== ENTRY_MALFORMED);
      if (!isRight) return;
      for (const i of [0, 1]) {
        const word = (field: number): number => reader.word(i, field);
        const double = (field: number): number => reader.double(i, field);
        const has = (at: number, mine: number, length: number): void =>
          expect(reader.memory.compare(entry, mine, mine + length, at, at + length)).toBe(0);
        expect(word(VERDICT)).toBe(verdict);
        expect([double(KIND), double(SEQ), double(TIME)]).toEqual([
          scanner.kind,
          scanner.seq,
          scanner.time,
        ]);
        has(word(CHAIN_AT), scanner.chainAt, 16);
        has(word(PREV_AT), scanner.prevAt, 32);
        expect(word(STREAM_ID_AT) > 0).toBe(scanner.streamIdAt >= 0);
        if (scanner.streamIdAt >= 0) has(word(STREAM_ID_AT), scanner.streamIdAt, 16);
      }
    }),
    { numRuns: 20_000 },
  );
});

const [first = Buffer.alloc(0), second = Buffer.alloc(0)] = makeChain({
  batches: 2,
  perBatch: 7,
  entryBytes: 40,
});

test("a batch is in order at once exactly where it is entry by entry, wherever it lies", () => {
  let refused = 0;
  fc.assert(
    fc.property(
      fc.constantFrom(first, second),
      fc.array(fc.tuple(fc.nat(), fc.nat({ max: 255 })), { maxLength: 2 }),
      fc.constantFrom(0, 0, 0, -1, 1),
      (batch, changes, surplus) => {
        const changed = Buffer.alloc(batch.length + surplus);
        Buffer.from(batch).copy(changed);
        for (const [at, byte] of changes) changed[20 + (at % (changed.length - 20))] = byte;
        const header = parseBatchHeader(changed);
        if (header === null) return;
        const problem = problemOf(changed, header);
        const checked = look(changed, header);
        expect([problem, checked === null]).toEqual([problem, problem !== null]);
        if (problem !== null) refused++;
        const room = take(changed.length);
        changed.copy(room);
        const there = look(room.subarray(0, changed.length), header);
        expect(there === null).toBe(problem !== null);
        if (there !== null) {
          const { count, entriesAt } = header;
          expect(there.digests.equals(hashLeaves(changed.subarray(entriesAt), count))).toBe(true);
          expect(there.endOf(count - 1)).toBe(changed.length);
          expect(there.endOf(0)).toBe(endOfEntries(changed, entriesAt, 1));
        }
        release(room);
      },
    ),
    { numRuns: 5000 },
  );
  expect(refused).toBeGreaterThan(1000);
});

test("the longest batch of the shortest entries is in order", () => {
  // As many as the limit has room for: what desk.ts leaves for their digests and places is enough.
  const chain = Buffer.alloc(16, 1);
  const entries: Uint8Array[] = [];
  let left = MAX_BATCH_BYTES - BATCH_HEADER_BYTES;
  for (let prev: Uint8Array = Buffer.alloc(32), seq = 0; ; seq++) {
    const entry = encodeEntry([
      { number: F_KIND, value: seq === 0 ? KIND_OPEN : KIND_HEARTBEAT },
      { number: F_CHAIN, value: chain },
      { number: F_SEQ, value: seq },
      { number: F_PREV, value: prev },
      { number: F_TIME, value: 1 },
      { number: F_SALT, value: chain },
    ]);
    left -= ENTRY_PREFIX_BYTES + entry.length;
    if (left < 0) break;
    entries.push(entry);
    prev = leafHash(entry);
  }
  const batch = Buffer.from(formatBatch(chain, 0, entries));
  const header = parseBatchHeader(batch);
  expect(header?.count).toBeGreaterThan(12_900);
  if (header === null) return;
  expect(look(batch, header)?.endOf(entries.length - 1)).toBe(batch.length);
});

test("bundles hold the entries that were appended, however many at a time", () => {
  fc.assert(
    fc.property(
      fc.array(fc.nat({ max: 400 }), { minLength: 1, maxLength: 12 }),
      fc.nat({ max: 300 }),
      (counts, length) => {
        const bundles: Buffer[] = [];
        const tree = new Tree();
        const all: Buffer[] = [];
        for (const count of counts) {
          const some = Array.from({ length: count }, (_, i) =>
            Buffer.alloc((length * (i + 1)) % 331, all.length + i),
          );
          all.push(...some);
          const entries = Buffer.concat(
            some.map((one) =>
              Buffer.concat([Buffer.of(one.length >> 8, one.length & 255, 0), one]),
            ),
          );
          for (const { tile, bytes } of tree.append(entries, hashLeaves(entries, count))) {
            if (tile.level === "entries") bundles.push(Buffer.from(bytes));
          }
        }
        expect(tree.size).toBe(all.length);
        const [partial] = tree.partials().filter(({ tile }) => tile.level === "entries");
        if (partial !== undefined) bundles.push(partial.bytes);
        const found = bundles.flatMap((bundle, i) =>
          (parseBundle(bundle, Math.min(256, all.length - i * 256)) ?? []).map(Buffer.from),
        );
        expect(Buffer.concat(found).equals(Buffer.concat(all))).toBe(true);
        expect(found.length).toBe(all.length);
      },
    ),
    { numRuns: 50 },
  );
});
