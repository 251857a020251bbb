/**
 * What can be said of a batch by itself: every entry is canonical, of the batch's chain, in order, and linked to the one
 * before by its digest (FORMAT.md sections 2 and 4). Pure, and the exporter's hottest loop: no object an entry.
 */
import type { BatchHeader } from "../../record/batch.ts";
import { ENTRY_MALFORMED, Scanner } from "../../record/codec.ts";
import { CHAIN_BYTES, DIGEST_BYTES, FIRST_OWN_KIND, LAST_OWN_KIND } from "../../record/fields.ts";
import { ENTRY_PREFIX_BYTES } from "../../record/wire.ts";
import { hashLeaves } from "../log/hasher.ts";

export type Checked = {
  /** Where each entry ends in the batch. */
  readonly ends: Uint32Array;
  /** Digests of the entries, one behind the other. */
  readonly digests: Buffer;
  /** Where the first entry's prev stands in the batch. */
  readonly prevAt: number;
};

const scanner = new Scanner();

/** Returns where each entry of `batch` ends and its digest, or what is wrong with it. */
export function checkEntries(batch: Buffer, header: BatchHeader): Checked | string {
  const { chain, firstSeq, count, entriesAt } = header;
  if (count * ENTRY_PREFIX_BYTES > batch.length) return "the count is too large";
  const ends = new Uint32Array(count);
  const prevs = new Uint32Array(count);
  let at = entriesAt;
  for (let i = 0; i < count; i++) {
    const start = at + ENTRY_PREFIX_BYTES;
    if (start > batch.length) return `entry ${i} is cut off`;
    const end = start + (((batch[at] as number) << 8) | (batch[at + 1] as number));
    if (end > batch.length) return `entry ${i} is cut off`;
    if (batch[at + 2] !== 0) return `entry ${i} is not behind a byte 0x00`;
    if (scanner.scan(batch, start, end) === ENTRY_MALFORMED) return `entry ${i} is malformed`;
    const { kind, chainAt, prevAt, seq } = scanner;
    if (kind >= FIRST_OWN_KIND && kind <= LAST_OWN_KIND)
      return `entry ${i} is of a kind that only a log writes`;
    if (!isSame(batch, chainAt, chain, 0, CHAIN_BYTES)) return `entry ${i} is of another chain`;
    if (seq !== firstSeq + i) return `entry ${i} has seq ${seq}, not ${firstSeq + i}`;
    prevs[i] = prevAt;
    ends[i] = end;
    at = end;
  }
  if (at !== batch.length) return "bytes behind the last entry";
  const digests = hashLeaves(batch.subarray(entriesAt), count);
  for (let i = 1; i < count; i++) {
    if (!isSame(batch, prevs[i] as number, digests, (i - 1) * DIGEST_BYTES, DIGEST_BYTES)) {
      return `entry ${i} does not follow the one before it`;
    }
  }
  return { ends, digests, prevAt: prevs[0] as number };
}

/** Tells if two runs of bytes are equal. A loop: a call of Buffer.compare costs more than 32 bytes do. */
function isSame(a: Uint8Array, aAt: number, b: Uint8Array, bAt: number, length: number): boolean {
  for (let i = 0; i < length; i++) if (a[aAt + i] !== b[bAt + i]) return false;
  return true;
}
