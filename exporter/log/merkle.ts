/**
 * The Merkle tree of RFC 6962, section 2.1, over SHA-256: leaf and node hashes, roots, inclusion and
 * consistency proofs, and their verification (RFC 9162, sections 2.1.3.2 and 2.1.4.2).
 *
 * Pure: bytes in, bytes out. Hashes are 32-byte arrays; indexes and sizes are integers below 2^53.
 */
import { createHash, hash } from "node:crypto";

export const HASH_BYTES = 32;

const NODE_PREFIX = 0x01;

/** Returns SHA-256 of `bytes`. */
export function sha256(bytes: Uint8Array): Uint8Array {
  return hash("sha256", bytes, "buffer");
}

/** Returns the root of the empty tree, SHA-256 of nothing (RFC 6962, section 2.1). */
export function emptyRoot(): Uint8Array {
  return createHash("sha256").digest();
}

/** Returns the leaf hash SHA-256(0x00 || entry) (RFC 6962, section 2.1). */
export function leafHash(entry: Uint8Array): Uint8Array {
  // Leaf and node hashes differ by a first byte, so that no node can be passed off as a leaf.
  const prefixed = new Uint8Array(entry.length + 1);
  prefixed.set(entry, 1);
  return sha256(prefixed);
}

/** Returns the node hash SHA-256(0x01 || left || right) (RFC 6962, section 2.1). */
export function nodeHash(left: Uint8Array, right: Uint8Array): Uint8Array {
  const prefixed = new Uint8Array(1 + 2 * HASH_BYTES);
  prefixed[0] = NODE_PREFIX;
  prefixed.set(left, 1);
  prefixed.set(right, 1 + HASH_BYTES);
  return sha256(prefixed);
}

/** Returns the largest power of two strictly smaller than `n`. Requires n >= 2. */
export function splitPoint(n: number): number {
  let k = 1;
  while (k * 2 < n) k *= 2;
  return k;
}

/** Gives the root of the complete subtree over leaves [index * 2^height, (index + 1) * 2^height). */
export type SubtreeHash = (height: number, index: number) => Uint8Array;

/** Returns MTH(D[from:to]). `from` must be a multiple of the smallest power of two >= to - from. */
export function rangeRoot(from: number, to: number, subtree: SubtreeHash): Uint8Array {
  const count = to - from;
  if (count === 0) return emptyRoot();
  const height = Math.log2(count);
  if (Number.isInteger(height)) return subtree(height, from / count);
  const k = splitPoint(count);
  return nodeHash(rangeRoot(from, from + k, subtree), rangeRoot(from + k, to, subtree));
}

/** Returns PATH(index, D[0:size]), leaf's sibling first (RFC 6962, section 2.1.1). */
export function inclusionProof(index: number, size: number, subtree: SubtreeHash): Uint8Array[] {
  if (!(index >= 0 && index < size))
    throw new RangeError(`leaf ${index} is not in a tree of ${size}`);
  const proof: Uint8Array[] = [];
  let from = 0;
  let to = size;
  while (to - from > 1) {
    const middle = from + splitPoint(to - from);
    if (index < middle) {
      proof.push(rangeRoot(middle, to, subtree));
      to = middle;
    } else {
      proof.push(rangeRoot(from, middle, subtree));
      from = middle;
    }
  }
  return proof.reverse();
}

/** Returns PROOF(oldSize, D[0:size]) (RFC 6962, section 2.1.2). Empty for oldSize 0 or size. */
export function consistencyProof(
  oldSize: number,
  size: number,
  subtree: SubtreeHash,
): Uint8Array[] {
  if (!(oldSize >= 0 && oldSize <= size)) {
    throw new RangeError(`tree of ${size} cannot extend a tree of ${oldSize}`);
  }
  const proof: Uint8Array[] = [];
  if (oldSize === 0 || oldSize === size) return proof;
  let from = 0;
  let to = size;
  // SUBPROOF with b = true while `from` is 0: the old root is known to the verifier and left out.
  while (oldSize !== to) {
    const middle = from + splitPoint(to - from);
    if (oldSize <= middle) {
      proof.push(rangeRoot(middle, to, subtree));
      to = middle;
    } else {
      proof.push(rangeRoot(from, middle, subtree));
      from = middle;
    }
  }
  if (from !== 0) proof.push(rangeRoot(from, to, subtree));
  return proof.reverse();
}

/** Verifies an inclusion proof (RFC 9162, section 2.1.3.2). Returns false for any malformed input. */
export function verifyInclusion(
  index: number,
  size: number,
  leaf: Uint8Array,
  proof: readonly Uint8Array[],
  root: Uint8Array,
): boolean {
  if (!isSize(index) || !isSize(size) || index >= size) return false;
  if (!allHashes([leaf, root, ...proof])) return false;
  let fn = BigInt(index);
  let sn = BigInt(size - 1);
  let r = leaf;
  for (const p of proof) {
    if (sn === 0n) return false;
    if ((fn & 1n) === 1n || fn === sn) {
      r = nodeHash(p, r);
      while ((fn & 1n) === 0n && fn !== 0n) {
        fn >>= 1n;
        sn >>= 1n;
      }
    } else {
      r = nodeHash(r, p);
    }
    fn >>= 1n;
    sn >>= 1n;
  }
  return sn === 0n && equalBytes(r, root);
}

/**
 * Verifies a consistency proof (RFC 9162, section 2.1.4.2) from size `m`, root `root1`, to size `n`, root `root2`.
 * Returns false for any malformed input, and for m = 0: a tlog-witness treats that case before calling.
 */
export function verifyConsistency(
  m: number,
  n: number,
  root1: Uint8Array,
  root2: Uint8Array,
  proof: readonly Uint8Array[],
): boolean {
  if (!isSize(m) || !isSize(n) || m === 0 || m > n) return false;
  if (!allHashes([root1, root2, ...proof])) return false;
  if (m === n) return proof.length === 0 && equalBytes(root1, root2);
  let fn = BigInt(m - 1);
  let sn = BigInt(n - 1);
  while ((fn & 1n) === 1n) {
    fn >>= 1n;
    sn >>= 1n;
  }
  // Where m is a power of two the old root is itself the first node of the path.
  const path = fn === 0n ? [root1, ...proof] : [...proof];
  if (proof.length === 0) return false;
  const first = path.shift();
  if (first === undefined) return false;
  let fr = first;
  let sr = first;
  for (const c of path) {
    if (sn === 0n) return false;
    if ((fn & 1n) === 1n || fn === sn) {
      fr = nodeHash(c, fr);
      sr = nodeHash(c, sr);
      while ((fn & 1n) === 0n && fn !== 0n) {
        fn >>= 1n;
        sn >>= 1n;
      }
    } else {
      sr = nodeHash(sr, c);
    }
    fn >>= 1n;
    sn >>= 1n;
  }
  return sn === 0n && equalBytes(fr, root1) && equalBytes(sr, root2);
}

/** Returns whether two byte arrays are equal. Not constant time: hashes here are public. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

function isSize(n: number): boolean {
  return Number.isSafeInteger(n) && n >= 0;
}

function allHashes(list: readonly Uint8Array[]): boolean {
  return list.every((h) => h.length === HASH_BYTES);
}
