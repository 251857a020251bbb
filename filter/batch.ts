/** A batch of the oldest entries, framed where they lie: header, receipt and MAC go in front. FORMAT.md section 4. */
import { CHAIN_BYTES } from "../record/fields";
import {
  BATCH_CHAIN_AT,
  BATCH_COUNT_AT,
  BATCH_FIRST_SEQ_AT,
  BATCH_HEADER_BYTES,
  BATCH_MAC_BYTES,
  BATCH_MAC_BYTES_AT,
  BATCH_MAGIC,
  BATCH_RECEIPT_BYTES_AT,
  ENTRY_PREFIX_BYTES,
} from "../record/wire";
import * as buffer from "./buffer";
import * as chain from "./chain";
import * as link from "./link";
import { sha256 } from "./sha256";
import * as signer from "./signer";

/** The batch framed last: its first byte, the byte behind it, and its entries. */
export let from: usize = 0;
export let to: usize = 0;
export let count: u32 = 0;

/** Its MAC, where there is a key. */
export const MAC: usize = memory.data(32, 16);

const LAST: usize = memory.data(32, 16);

/** Frames at most `most` bytes of entries, at least one entry. The buffer must hold one. */
export function frame(most: usize): void {
  to = buffer.start;
  count = 0;
  let last = to;
  while (to < buffer.end) {
    const next = to + ENTRY_PREFIX_BYTES + entryBytes(to);
    if (count > 0 && next - buffer.start > most) break;
    last = to;
    to = next;
    count++;
  }
  const macBytes = signer.batchKey === null ? 0 : BATCH_MAC_BYTES;
  from = buffer.start - BATCH_HEADER_BYTES - chain.receiptBytes - macBytes;
  store<u32>(from, BATCH_MAGIC);
  memory.copy(from + BATCH_CHAIN_AT, link.ID, CHAIN_BYTES);
  store<u64>(from + BATCH_FIRST_SEQ_AT, bswap<u64>(chain.firstSeq));
  store<u32>(from + BATCH_COUNT_AT, bswap<u32>(count));
  store<u16>(from + BATCH_RECEIPT_BYTES_AT, bswap<u16>(chain.receiptBytes as u16));
  store<u16>(from + BATCH_MAC_BYTES_AT, bswap<u16>(macBytes as u16));
  memory.copy(from + BATCH_HEADER_BYTES, chain.RECEIPT, chain.receiptBytes);
  if (macBytes === 0) return;
  sha256(last + ENTRY_PREFIX_BYTES - 1, (entryBytes(last) as u32) + 1, LAST);
  signer.macBatch(link.ID, chain.firstSeq, count, LAST, MAC);
  memory.copy(buffer.start - macBytes, MAC, macBytes);
}

/** Bytes of the entry whose prefix is at `at`. */
export function entryBytes(at: usize): usize {
  return ((load<u8>(at) as usize) << 8) | load<u8>(at + 1);
}
