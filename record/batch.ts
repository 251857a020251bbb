/**
 * Batches: the header in front of the entries that a filter sends, parsed and written. FORMAT.md section 4; the
 * offsets are in wire.ts.
 */
import { CHAIN_BYTES } from "./fields.ts";
import {
  BATCH_CHAIN_AT,
  BATCH_COUNT_AT,
  BATCH_FIRST_SEQ_AT,
  BATCH_HEADER_BYTES,
  BATCH_MAC_BYTES_AT,
  BATCH_MAGIC,
  BATCH_RECEIPT_BYTES_AT,
  ENTRY_PREFIX_BYTES,
  MAX_BATCH_BYTES,
} from "./wire.ts";

/** A parsed header. The byte arrays alias the batch. */
export type BatchHeader = {
  readonly chain: Uint8Array;
  readonly firstSeq: number;
  readonly count: number;
  /** A signed note, unverified; empty where the sender has none. */
  readonly receipt: Uint8Array;
  /** 32 bytes, or empty. */
  readonly mac: Uint8Array;
  /** Offset of the first entry's length. */
  readonly entriesAt: number;
};

/** Returns the header of `batch`, or null unless it is well formed. Says nothing about the entries behind it. */
export function parseBatchHeader(batch: Uint8Array): BatchHeader | null {
  if (batch.length < BATCH_HEADER_BYTES || batch.length > MAX_BATCH_BYTES) return null;
  const view = new DataView(batch.buffer, batch.byteOffset, batch.byteLength);
  if (view.getUint32(0, true) !== BATCH_MAGIC) return null;
  const firstSeq =
    view.getUint32(BATCH_FIRST_SEQ_AT) * 2 ** 32 + view.getUint32(BATCH_FIRST_SEQ_AT + 4);
  const count = view.getUint32(BATCH_COUNT_AT);
  const receiptBytes = view.getUint16(BATCH_RECEIPT_BYTES_AT);
  const macBytes = view.getUint16(BATCH_MAC_BYTES_AT);
  const receiptAt = BATCH_HEADER_BYTES;
  const macAt = receiptAt + receiptBytes;
  const entriesAt = macAt + macBytes;
  if (!Number.isSafeInteger(firstSeq + count) || count === 0) return null;
  if ((macBytes !== 0 && macBytes !== 32) || entriesAt > batch.length) return null;
  return {
    chain: batch.subarray(BATCH_CHAIN_AT, BATCH_CHAIN_AT + CHAIN_BYTES),
    firstSeq,
    count,
    receipt: batch.subarray(receiptAt, macAt),
    mac: batch.subarray(macAt, entriesAt),
    entriesAt,
  };
}

/** Returns a batch of `entries`, at least one, for tests and tools: the filter writes its own. */
export function formatBatch(
  chain: Uint8Array,
  firstSeq: number,
  entries: readonly Uint8Array[],
  receipt: Uint8Array = new Uint8Array(),
  mac: Uint8Array = new Uint8Array(),
): Uint8Array {
  const entriesAt = BATCH_HEADER_BYTES + receipt.length + mac.length;
  const total = entries.reduce((sum, entry) => sum + ENTRY_PREFIX_BYTES + entry.length, entriesAt);
  const batch = new Uint8Array(total);
  const view = new DataView(batch.buffer);
  view.setUint32(0, BATCH_MAGIC, true);
  batch.set(chain, BATCH_CHAIN_AT);
  view.setUint32(BATCH_FIRST_SEQ_AT, Math.floor(firstSeq / 2 ** 32));
  view.setUint32(BATCH_FIRST_SEQ_AT + 4, firstSeq % 2 ** 32);
  view.setUint32(BATCH_COUNT_AT, entries.length);
  view.setUint16(BATCH_RECEIPT_BYTES_AT, receipt.length);
  view.setUint16(BATCH_MAC_BYTES_AT, mac.length);
  batch.set(receipt, BATCH_HEADER_BYTES);
  batch.set(mac, BATCH_HEADER_BYTES + receipt.length);
  let at = entriesAt;
  for (const entry of entries) {
    view.setUint16(at, entry.length);
    batch.set(entry, at + ENTRY_PREFIX_BYTES);
    at += ENTRY_PREFIX_BYTES + entry.length;
  }
  return batch;
}
