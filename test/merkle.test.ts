import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  consistencyProof,
  emptyRoot,
  inclusionProof,
  leafHash,
  nodeHash,
  rangeRoot,
  splitPoint,
  verifyConsistency,
  verifyInclusion,
} from "../exporter/log/merkle.ts";

/** MTH of RFC 6962, section 2.1, word by word: the slow reference. */
function mth(leaves: readonly Uint8Array[]): Uint8Array {
  const [only] = leaves;
  if (only === undefined) return emptyRoot();
  if (leaves.length === 1) return only;
  const k = splitPoint(leaves.length);
  return nodeHash(mth(leaves.slice(0, k)), mth(leaves.slice(k)));
}

const LEAVES = Array.from({ length: 70 }, (_, i) => leafHash(Buffer.from(`entry ${i}`)));
const subtree = (height: number, index: number) =>
  mth(LEAVES.slice(index * 2 ** height, (index + 1) * 2 ** height));
const rootOf = (size: number) => rangeRoot(0, size, subtree);

describe("the tree", () => {
  // Tessera's testdata/log: 15 leaves, no newline after each.
  it("has the roots of Tessera's test log", () => {
    const words =
      "one two three four five six seven eit nain ten ileven twelf threeten fourten fivten";
    const leaves = words.split(" ").map((word) => leafHash(Buffer.from(word)));
    expect(Buffer.from(mth(leaves.slice(0, 1))).toString("base64")).toBe(
      "0Nc2CrefWKseHj/mStd+LqC8B+NrX0btIiPt2SmN+ek=",
    );
    expect(Buffer.from(mth(leaves)).toString("base64")).toBe(
      "rKbDipCvhuX1GZ7g5BBe8sA6BbJ7ja/1nk427v383cs=",
    );
  });

  it("is SHA-256 of nothing when empty, and of 0x00 for an empty leaf", () => {
    expect(Buffer.from(emptyRoot()).toString("base64")).toBe(
      "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    );
    expect(Buffer.from(leafHash(new Uint8Array())).toString("base64")).toBe(
      "bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=",
    );
  });

  it("proves every leaf in every tree, and no other leaf, index, size or root", () => {
    for (let size = 1; size <= LEAVES.length; size++) {
      const root = rootOf(size);
      expect(root).toEqual(mth(LEAVES.slice(0, size)));
      for (let index = 0; index < size; index++) {
        const leaf = LEAVES[index] ?? new Uint8Array();
        const proof = inclusionProof(index, size, subtree);
        expect(verifyInclusion(index, size, leaf, proof, root)).toBe(true);
        expect(verifyInclusion(index, size, root, proof, leaf)).toBe(size === 1);
        if (index + 1 < size) {
          expect(verifyInclusion(index + 1, size, leaf, proof, root)).toBe(false);
        }
        expect(verifyInclusion(index, size, leaf, [...proof, root], root)).toBe(false);
      }
    }
  });

  it("proves that every tree extends every smaller one, and nothing after a flipped bit", () => {
    for (let size = 1; size <= LEAVES.length; size++) {
      for (let old = 1; old <= size; old++) {
        const proof = consistencyProof(old, size, subtree);
        expect(verifyConsistency(old, size, rootOf(old), rootOf(size), proof)).toBe(true);
        proof.forEach((hash, i) => {
          const wrong = proof.map((h) => Uint8Array.from(h));
          (wrong[i] as Uint8Array)[0] = (hash[0] ?? 0) ^ 1;
          expect(verifyConsistency(old, size, rootOf(old), rootOf(size), wrong)).toBe(false);
        });
      }
    }
  });

  it("refuses proofs of any shape without throwing", () => {
    const hashes = fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 70 });
    fc.assert(
      fc.property(fc.double(), fc.double(), hashes, (a, b, proof) => {
        const [root = new Uint8Array(32)] = proof;
        expect(verifyInclusion(a, b, LEAVES[0] as Uint8Array, proof, root)).toBe(false);
        expect(verifyConsistency(a, b, root, LEAVES[0] as Uint8Array, proof)).toBe(false);
      }),
    );
  });
});
