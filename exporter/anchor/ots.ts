/**
 * Proofs of OpenTimestamps: how a digest became, by appending and hashing, the Merkle root of a Bitcoin block. The file format is that
 * of opentimestamps.org's own tools:
 *
 *     header magic || 01 || 08 (SHA-256) || 32-byte digest || node
 *     node         := (ff item)* item
 *     item         := 00 || 8-byte tag || varbytes payload      an attestation on the message here
 *                  |  op || node                                what follows is about the op's result
 *
 * Pure. Whoever sent the bytes may have meant harm: depth, lengths and the number of items have limits.
 */
import { createHash } from "node:crypto";
import { keccak_256 } from "@noble/hashes/sha3.js";

const MAGIC = Buffer.from("004f70656e54696d657374616d7073000050726f6f6600bf89e2e884e89294", "hex");
const MAJOR_VERSION = 1;
const SHA256 = 0x08;
const APPEND = 0xf0;
const PREPEND = 0xf1;
const FORK = 0xff;
const ATTESTATION = 0x00;
const TAG_BYTES = 8;
const PENDING = "83dfe30d2ef90c8e";
const BITCOIN = "0588960d73d71901";

/** A whole file at most: many calendars' answers, each of which has at most 10,000 bytes. */
export const MAX_OTS_BYTES = 262_144;
export const MAX_CALENDAR_BYTES = 10_000;
// The reference implementation's limits.
const MAX_MESSAGE = 4096;
const MAX_PAYLOAD = 8192;
const MAX_URI = 1000;
const MAX_DEPTH = 256;
const MAX_ITEMS = 10_000;
const HEADER_BYTES = 80;

/** Bytes that are no proof. */
export class OtsError extends Error {
  override name = "OtsError";
}

export type OtsNode = {
  readonly attestations: { readonly tag: string; readonly payload: Buffer }[];
  readonly ops: { readonly op: number; readonly argument: Buffer; readonly node: OtsNode }[];
};

export type Attested =
  | { readonly kind: "bitcoin"; readonly message: Buffer; readonly height: number }
  | {
      readonly kind: "pending";
      readonly message: Buffer;
      readonly uri: string;
      readonly node: OtsNode;
    }
  | { readonly kind: "other"; readonly message: Buffer; readonly tag: string };

export function emptyNode(): OtsNode {
  return { attestations: [], ops: [] };
}

/** Returns the tree in a file, which must be for `digest`. Throws OtsError. */
export function parseOts(bytes: Buffer, digest: Uint8Array): OtsNode {
  if (bytes.length > MAX_OTS_BYTES) throw new OtsError("the proof is too long");
  const reader = new Reader(bytes);
  if (!reader.take(MAGIC.length).equals(MAGIC))
    throw new OtsError("this is no OpenTimestamps proof");
  if (reader.varint() !== MAJOR_VERSION) throw new OtsError("another version of proofs");
  if (reader.byte() !== SHA256) throw new OtsError("the proof is for another hash");
  const held = reader.take(32);
  if (!held.equals(digest)) throw new OtsError("the proof is for other bytes");
  return reader.whole(held);
}

/** Returns the tree in a calendar's answer about `message`. Throws OtsError. */
export function parseCalendarAnswer(bytes: Buffer, message: Buffer): OtsNode {
  if (bytes.length > MAX_CALENDAR_BYTES) throw new OtsError("the answer is too long");
  return new Reader(bytes).whole(message);
}

export function formatOts(digest: Uint8Array, root: OtsNode): Buffer {
  return Buffer.concat([MAGIC, Buffer.of(MAJOR_VERSION, SHA256), digest, ...formatNode(root)]);
}

/** Adds an op below a node, and returns the node of its result. */
export function addOp(
  node: OtsNode,
  op: "append" | "prepend" | "sha256",
  argument: Buffer = Buffer.alloc(0),
): OtsNode {
  const below = emptyNode();
  const code = { append: APPEND, prepend: PREPEND, sha256: SHA256 }[op];
  node.ops.push({ op: code, argument, node: below });
  return below;
}

/** Adds to `node` what `other`, about the same message, says more. */
export function mergeInto(node: OtsNode, other: OtsNode): void {
  for (const more of other.attestations) {
    const isSame = node.attestations.some(
      ({ tag, payload }) => tag === more.tag && payload.equals(more.payload),
    );
    if (!isSame) node.attestations.push(more);
  }
  for (const more of other.ops) {
    const same = node.ops.find(
      ({ op, argument }) => op === more.op && argument.equals(more.argument),
    );
    if (same === undefined) node.ops.push(more);
    else mergeInto(same.node, more.node);
  }
}

/** Returns every attestation of the tree, with the message it is about. */
export function attestationsOf(root: OtsNode, digest: Uint8Array): Attested[] {
  const found: Attested[] = [];
  const visit = (node: OtsNode, message: Buffer): void => {
    for (const { tag, payload } of node.attestations)
      found.push(attested(node, message, tag, payload));
    for (const { op, argument, node: below } of node.ops)
      visit(below, apply(op, argument, message));
  };
  visit(root, Buffer.from(digest));
  return found;
}

/** Returns when the block with this header was made, Unix seconds, or null if its Merkle root is not `message`. */
export function blockTime(header: Buffer, message: Buffer): number | null {
  if (header.length !== HEADER_BYTES || !header.subarray(36, 68).equals(message)) return null;
  return header.readUInt32LE(68);
}

function attested(node: OtsNode, message: Buffer, tag: string, payload: Buffer): Attested {
  if (tag === BITCOIN) {
    const reader = new Reader(payload);
    const height = reader.varint();
    reader.end();
    return { kind: "bitcoin", message, height };
  }
  if (tag !== PENDING) return { kind: "other", message, tag };
  const reader = new Reader(payload);
  const uri = reader.varbytes(MAX_URI).toString("latin1");
  reader.end();
  if (!/^[A-Za-z0-9\-._/:]*$/.test(uri))
    throw new OtsError("a calendar's URI has other characters");
  return { kind: "pending", message, uri, node };
}

function apply(op: number, argument: Buffer, message: Buffer): Buffer {
  const result = resultOf(op, argument, message);
  if (result.length === 0 || result.length > MAX_MESSAGE)
    throw new OtsError("a message is too long");
  return result;
}

function resultOf(op: number, argument: Buffer, message: Buffer): Buffer {
  if (op === SHA256) return createHash("sha256").update(message).digest();
  if (op === APPEND) return Buffer.concat([message, argument]);
  if (op === PREPEND) return Buffer.concat([argument, message]);
  if (op === 0xf2) return Buffer.from(message).reverse();
  if (op === 0xf3) return Buffer.from(message.toString("hex"));
  if (op === 0x02) return createHash("sha1").update(message).digest();
  if (op === 0x03) return createHash("ripemd160").update(message).digest();
  if (op === 0x67) return Buffer.from(keccak_256(message));
  throw new OtsError(`an op ${op.toString(16)} that nobody knows`);
}

function formatNode({ attestations, ops }: OtsNode): Buffer[] {
  const items = [
    ...attestations.map(({ tag, payload }) => [
      Buffer.of(ATTESTATION),
      Buffer.from(tag, "hex"),
      formatVarbytes(payload),
    ]),
    ...ops.map(({ op, argument, node }) => [
      Buffer.of(op),
      ...(op === APPEND || op === PREPEND ? [formatVarbytes(argument)] : []),
      ...formatNode(node),
    ]),
  ];
  return items.flatMap((item, i) => (i < items.length - 1 ? [Buffer.of(FORK), ...item] : item));
}

/** Returns the payload of a pending or a Bitcoin attestation. */
export function formatAttestation(
  of: { uri: string } | { height: number },
): OtsNode["attestations"][number] {
  if ("uri" in of) return { tag: PENDING, payload: formatVarbytes(Buffer.from(of.uri)) };
  return { tag: BITCOIN, payload: formatVarint(of.height) };
}

/** Returns a tree's bytes, as a calendar answers. */
export function formatCalendarAnswer(node: OtsNode): Buffer {
  return Buffer.concat(formatNode(node));
}

function formatVarbytes(bytes: Buffer): Buffer {
  return Buffer.concat([formatVarint(bytes.length), bytes]);
}

function formatVarint(value: number): Buffer {
  const out: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) out.push((rest % 128) | 0x80);
  return Buffer.from([...out, rest]);
}

class Reader {
  readonly #bytes: Buffer;
  #at = 0;
  #items = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  take(length: number): Buffer {
    if (this.#at + length > this.#bytes.length) throw new OtsError("the proof is cut off");
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  byte(): number {
    return this.take(1)[0] ?? 0;
  }

  /** LEB128 of at most 2^53 - 1, in its shortest form. */
  varint(): number {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.byte();
      value += (byte & 0x7f) * scale;
      if (!Number.isSafeInteger(value) || scale > 2 ** 49)
        throw new OtsError("a number is too large");
      if (byte >= 0x80) continue;
      if (byte === 0 && scale > 1) throw new OtsError("a number is longer than it must be");
      return value;
    }
  }

  varbytes(most: number): Buffer {
    const length = this.varint();
    if (length > most) throw new OtsError("a value is too long");
    return this.take(length);
  }

  end(): void {
    if (this.#at !== this.#bytes.length)
      throw new OtsError("the proof has bytes that do not belong to it");
  }

  /** Reads a tree that ends where the bytes end. */
  whole(message: Buffer): OtsNode {
    const node = this.#node(message, 0);
    this.end();
    return node;
  }

  #node(message: Buffer, depth: number): OtsNode {
    if (depth > MAX_DEPTH) throw new OtsError("the proof is too deep");
    const node = emptyNode();
    for (;;) {
      const first = this.byte();
      this.#item(first === FORK ? this.byte() : first, node, message, depth);
      if (first !== FORK) return node;
    }
  }

  #item(tag: number, node: OtsNode, message: Buffer, depth: number): void {
    if (++this.#items > MAX_ITEMS) throw new OtsError("the proof has too many items");
    if (tag === ATTESTATION) {
      const name = this.take(TAG_BYTES).toString("hex");
      const attestation = { tag: name, payload: this.varbytes(MAX_PAYLOAD) };
      // Refuses now what could not be read later.
      attested(node, message, attestation.tag, attestation.payload);
      node.attestations.push(attestation);
      return;
    }
    const isBinary = tag === APPEND || tag === PREPEND;
    const argument = isBinary ? this.varbytes(MAX_MESSAGE) : Buffer.alloc(0);
    if (isBinary && argument.length === 0) throw new OtsError("nothing is appended or prepended");
    const result = apply(tag, argument, message);
    node.ops.push({ op: tag, argument, node: this.#node(result, depth + 1) });
  }
}
