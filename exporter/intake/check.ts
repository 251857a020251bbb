/**
 * What can be said of a batch by itself: every entry is canonical, of the batch's chain, in order, and linked to the one
 * before by its digest (FORMAT.md sections 2 and 4). All at once in wasm (desk.ts); where that says no, entry by entry, which
 * says why.
 */
import type { BatchHeader } from "../../record/batch.ts";
import { ENTRY_MALFORMED, Scanner } from "../../record/codec.ts";
import { CHAIN_BYTES, DIGEST_BYTES, FIRST_OWN_KIND, LAST_OWN_KIND } from "../../record/fields.ts";
import { ENTRY_PREFIX_BYTES } from "../../record/wire.ts";
import { hashLeaves } from "../log/hasher.ts";
import { type Checked, look } from "./desk.ts";

const scanner = new Scanner();

/** Returns what is known of a batch in order, or what is wrong with it. */
export function checkEntries(batch: Buffer, header: BatchHeader): Checked | string {
  const checked = look(batch, header);
  if (checked !== null) return checked;
  const problem = problemOf(batch, header);
  // Both look for the same. What only one of them refuses is refused.
  return problem ?? "the entries are not in order";
}

/** Returns what is wrong with the first entry that is not as it must be, or null. */
export function problemOf(batch: Buffer, header: BatchHeader): string | null {
  const { chain, firstSeq, count, entriesAt } = header;
  if (count * ENTRY_PREFIX_BYTES > batch.length) return "the count is too large";
  let at = entriesAt;
  const prevs = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    const start = at + ENTRY_PREFIX_BYTES;
    if (start > batch.length) return `entry ${i} is cut off`;
    const end = start + batch.readUInt16BE(at);
    if (end > batch.length) return `entry ${i} is cut off`;
    if (batch[at + 2] !== 0) return `entry ${i} is not behind a byte 0x00`;
    if (scanner.scan(batch, start, end) === ENTRY_MALFORMED) return `entry ${i} is malformed`;
    const { kind, chainAt, prevAt, seq } = scanner;
    if (kind >= FIRST_OWN_KIND && kind <= LAST_OWN_KIND)
      return `entry ${i} is of a kind that only a log writes`;
    if (batch.compare(chain, 0, CHAIN_BYTES, chainAt, chainAt + CHAIN_BYTES) !== 0)
      return `entry ${i} is of another chain`;
    if (seq !== firstSeq + i) return `entry ${i} has seq ${seq}, not ${firstSeq + i}`;
    prevs[i] = prevAt;
    at = end;
  }
  if (at !== batch.length) return "bytes behind the last entry";
  const digests = hashLeaves(batch.subarray(entriesAt), count);
  for (let i = 1; i < count; i++) {
    const prevAt = prevs[i] as number;
    const before = digests.subarray((i - 1) * DIGEST_BYTES, i * DIGEST_BYTES);
    if (batch.compare(before, 0, DIGEST_BYTES, prevAt, prevAt + DIGEST_BYTES) !== 0)
      return `entry ${i} does not follow the one before it`;
  }
  return null;
}
