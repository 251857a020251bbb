/**
 * Chained entries that no receipt covers yet, side by side as a batch has them: uint16 length, 0x00, bytes. In front
 * there is always room for a batch's header, so that a batch is sent from where it lies.
 */
import { MAX_RECEIPT } from "../record/fields";
import { BATCH_HEADER_BYTES, BATCH_MAC_BYTES } from "../record/wire";

/** Bytes in front of the first entry: header, receipt and MAC. */
export const HEADROOM: usize = ((BATCH_HEADER_BYTES + MAX_RECEIPT + BATCH_MAC_BYTES + 15) &
  ~15) as usize;

/** Kept free for entries that are not requests: a gap, a heartbeat, an open. */
const RESERVE: usize = 16_384;

/** As much as is worth moving after a receipt. */
const LITTLE: usize = 65_536;

let base: usize = 0;
let allocated: usize = 0;
let capacity: usize = 0;

/** The first entry's prefix, and behind the last entry. */
export let start: usize = 0;
export let end: usize = 0;

/** Gives the buffer room for `bytes` of entries. A smaller size than before counts as a limit; nothing held is lost. */
export function resize(bytes: usize): void {
  const wanted = HEADROOM + bytes + RESERVE;
  if (wanted > allocated) {
    const moved = heap.alloc(wanted);
    memory.copy(moved + HEADROOM, start, end - start);
    end = moved + HEADROOM + (end - start);
    start = moved + HEADROOM;
    base = moved;
    allocated = wanted;
  }
  capacity = wanted;
}

export function heldBytes(): usize {
  return end - start;
}

/** Tells if an entry of `bytes` fits; moves what is held to the front if that makes room. */
export function hasRoom(bytes: usize, isRequest: bool): bool {
  const limit = isRequest ? capacity - RESERVE : capacity;
  if (HEADROOM + (end - start) + bytes > limit) return false;
  if (end + bytes > base + limit) {
    memory.copy(base + HEADROOM, start, end - start);
    end = base + HEADROOM + (end - start);
    start = base + HEADROOM;
  }
  return true;
}

/** What the buffer has for entries, in bytes. */
export function size(): usize {
  return capacity === 0 ? 0 : capacity - HEADROOM - RESERVE;
}

/** The entry that was written behind `end` ends at `to`. */
export function keep(to: usize): void {
  end = to;
}

/** Frees the entries before `to`. */
export function free(to: usize): void {
  start = to;
}

/**
 * Moves what is held to the front, if it is little and the front is far. Otherwise entries would walk through the whole buffer, and
 * all of it would be resident, and cold in the processor's cache.
 */
export function settle(): void {
  const front = base + HEADROOM;
  const held = end - start;
  if (held > LITTLE || start - front < 2 * LITTLE) return;
  memory.copy(front, start, held);
  start = front;
  end = front + held;
}

/** Forgets everything. */
export function clear(): void {
  start = base + HEADROOM;
  end = start;
}
