/**
 * MACs of batches, receipts and seal lines, for senders that share a key with the exporter. FORMAT.md sections 4.7, 4.9
 * and 5.8. HMAC-SHA-256 (RFC 2104); a chain's own keys by HKDF-Expand (RFC 5869, section 2.3).
 */
import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { type BatchHeader, parseBatchHeader } from "../../record/batch.ts";
import { bytesOf, decodeEntry } from "../../record/codec.ts";
import { F_KEY_ID, SENDER_MAC } from "../../record/fields.ts";
import {
  ENTRY_PREFIX_BYTES,
  MAC_LABEL_BATCH,
  MAC_LABEL_RECEIPT,
  MAC_LABEL_REFUSAL,
  MAC_LABEL_SEAL,
} from "../../record/wire.ts";
import { MeshsealError } from "../errors.ts";
import type { Sender } from "./identity.ts";

/** Keys by id. */
export type BatchKeys = ReadonlyMap<string, Buffer>;

const LINE = /^([A-Za-z0-9._-]{1,64}):((?:[0-9a-fA-F]{2}){16,64})$/;
const MAX_KEYS = 100_000;

/** Returns the keys in a file: `ID:HEX` a line, and lines that begin with #. Throws MeshsealError that names file and line. */
export function readBatchKeys(path: string, flag = "--batch-keys"): BatchKeys {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new MeshsealError(`${flag} ${path}: ${error instanceof Error ? error.message : error}`);
  }
  const keys = new Map<string, Buffer>();
  for (const [i, line] of text.split("\n").entries()) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    const [, id, hex] = LINE.exec(line.trim()) ?? [];
    // The line itself may be a secret: only its number is said.
    const where = `${flag} ${path}, line ${i + 1}`;
    if (id === undefined || hex === undefined) {
      throw new MeshsealError(`${where}: is not ID:HEX, with 32 to 128 hex digits.`);
    }
    if (keys.has(id)) throw new MeshsealError(`${where}: the id ${id} is given twice.`);
    if (keys.size >= MAX_KEYS)
      throw new MeshsealError(`${flag} ${path}: more than ${MAX_KEYS} keys.`);
    keys.set(id, Buffer.from(hex, "hex"));
  }
  return keys;
}

function derive(key: Uint8Array, label: string, chain: Uint8Array): Buffer {
  return createHmac("sha256", key).update(label).update(chain).update(Buffer.of(1)).digest();
}

/** Returns the MAC of a batch: over chain, first seq, count, and the digest of its last entry. */
export function macOfBatch(
  key: Uint8Array,
  { chain, firstSeq, count }: Pick<BatchHeader, "chain" | "firstSeq" | "count">,
  last: Uint8Array,
): Buffer {
  const numbers = Buffer.alloc(12);
  numbers.writeBigUInt64BE(BigInt(firstSeq));
  numbers.writeUInt32BE(count, 8);
  const mac = createHmac("sha256", derive(key, MAC_LABEL_BATCH, chain));
  return mac.update(chain).update(numbers).update(last).digest();
}

/** Returns the MAC of a receipt, a signed note, for the sender of a chain. */
export function macOfReceipt(key: Uint8Array, chain: Uint8Array, receipt: string): Buffer {
  return createHmac("sha256", derive(key, MAC_LABEL_RECEIPT, chain))
    .update(receipt)
    .digest();
}

/** Returns the MAC of a refusal, a word and the seq that is wanted if there is one, for the sender of the batch with the MAC `batchMac`. */
export function macOfRefusal(
  key: Uint8Array,
  chain: Uint8Array,
  batchMac: Uint8Array,
  refusal: string,
  want?: number,
): Buffer {
  return createHmac("sha256", derive(key, MAC_LABEL_REFUSAL, chain))
    .update(batchMac)
    .update(refusal)
    .update(want === undefined ? "" : String(want))
    .digest();
}

/** Returns the MAC of a seal line up to the proofs behind it. */
export function macOfSeal(key: Uint8Array, chain: Uint8Array, line: string): Buffer {
  return createHmac("sha256", derive(key, MAC_LABEL_SEAL, chain))
    .update(line)
    .digest();
}

/** What a batch's MAC says: whose it is, none at all, or what is wrong with it. */
export type MacVerdict =
  | {
      readonly sender: Sender;
      readonly key: Buffer;
      readonly chain: Uint8Array;
      readonly mac: Uint8Array;
    }
  | { readonly problem: string }
  | null;

/**
 * Judges the MAC of a batch whose sender names the key `keyId`. It covers the last entry's digest and so, once the links are
 * checked, all entries. A batch that is no batch has none: the intake will say so.
 */
export function judgeMac(batch: Buffer, keyId: string | undefined, keys: BatchKeys): MacVerdict {
  const header = parseBatchHeader(batch);
  if (header === null) return null;
  const opened = header.firstSeq === 0 ? keyIdInOpen(batch, header.entriesAt) : undefined;
  if (header.mac.length === 0) {
    if (opened === undefined || opened === "") return null;
    return { problem: `the chain opens with the key ${opened}, and its batch has no MAC` };
  }
  if (keyId === undefined) return { problem: "a MAC, and no key id beside it" };
  if (opened !== undefined && opened !== keyId) {
    return {
      problem: `the chain opens with the key "${opened}", and its batch comes with another`,
    };
  }
  const key = keys.get(keyId);
  if (key === undefined) return { problem: "the key of the MAC is not known here" };
  const last = lastDigest(batch, header.entriesAt);
  if (last === null) return null;
  if (!timingSafeEqual(macOfBatch(key, header, last), header.mac)) {
    return { problem: `the MAC is not by the key ${keyId}` };
  }
  const sender = { name: `mac:${keyId}`, auth: SENDER_MAC };
  return { sender, key, chain: header.chain, mac: header.mac };
}

/** Returns the key id in the first entry; "" if that is an `open` without one, undefined if it is no entry. */
function keyIdInOpen(batch: Buffer, at: number): string | undefined {
  const from = at + ENTRY_PREFIX_BYTES;
  if (from > batch.length) return undefined;
  const open = decodeEntry(batch.subarray(from, from + batch.readUInt16BE(at)));
  return open === null ? undefined : Buffer.from(bytesOf(open, F_KEY_ID) ?? []).toString("latin1");
}

/** Returns the digest of the last entry, or null unless the lengths fit. */
function lastDigest(batch: Buffer, from: number): Buffer | null {
  let at = from;
  for (;;) {
    if (at + ENTRY_PREFIX_BYTES > batch.length) return null;
    const end = at + ENTRY_PREFIX_BYTES + batch.readUInt16BE(at);
    if (end > batch.length) return null;
    if (end === batch.length) {
      return createHash("sha256")
        .update(batch.subarray(at + 2))
        .digest();
    }
    at = end;
  }
}
