import { hash } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import { hashBundle, hashLeaves, hashTree } from "../exporter/log/hasher.ts";
import { leafHash, nodeHash } from "../exporter/log/merkle.ts";
import { formatBundle } from "../exporter/log/tile.ts";
import { LOG_WASM } from "../exporter/log/wasm-code.ts";
import { compileLogWasm } from "../scripts/log-wasm.ts";

/** Lengths around the edges of SHA-256's blocks and paddings, and the longest. */
const length = fc.oneof(
  fc.integer({ min: 0, max: 400 }),
  fc.constantFrom(54, 55, 56, 62, 63, 64, 118, 119, 120, 65_534, 65_535),
);
const entries = fc
  .array(length, { minLength: 1, maxLength: 14 })
  .chain((lengths) =>
    fc.tuple(...lengths.map((n) => fc.uint8Array({ minLength: n, maxLength: n }))),
  );

test("leaves are hashed as Node hashes them, in a batch and in a bundle", () => {
  fc.assert(
    fc.property(entries, (list) => {
      const expected = Buffer.concat(list.map((entry) => leafHash(entry)));
      const batch = list.map((entry) =>
        Buffer.concat([Buffer.of(entry.length >> 8, entry.length & 0xff, 0), entry]),
      );
      expect(hashLeaves(Buffer.concat(batch), list.length).equals(expected)).toBe(true);
      expect(hashBundle(formatBundle(list), list.length).equals(expected)).toBe(true);
    }),
    { numRuns: 60 },
  );
});

test("a tree is hashed as node hashes one above the other", () => {
  for (let count = 1; count <= 256; count *= 2) {
    const leaves = Array.from({ length: count }, (_, i) => hash("sha256", `${i}`, "buffer"));
    let level: Uint8Array[] = leaves;
    while (level.length > 1) {
      level = level.flatMap((left, i) =>
        i % 2 === 0 ? [nodeHash(left, level[i + 1] ?? left)] : [],
      );
    }
    expect(Buffer.from(hashTree(Buffer.concat(leaves))).toString("hex")).toBe(
      Buffer.from(level[0] ?? []).toString("hex"),
    );
  }
});

test("more than the memory holds at first is hashed as well", () => {
  const list = Array.from({ length: 256 }, (_, i) => Buffer.alloc(65_535, i));
  const found = hashBundle(formatBundle(list), list.length);
  for (const i of [0, 1, 254, 255]) {
    expect(found.subarray(i * 32, i * 32 + 32).equals(leafHash(list[i] ?? Buffer.alloc(0)))).toBe(
      true,
    );
  }
});

test("the module in base64 is what its source compiles to", async () => {
  expect(Buffer.from(await compileLogWasm()).toString("base64")).toBe(LOG_WASM);
});
