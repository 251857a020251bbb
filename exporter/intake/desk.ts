/**
 * Where batches lie while they are looked at: places in the memory of a wasm instance of the intake's own, into which bodies
 * are read, so that they are copied only once before they are checked. The memory never grows: views of it stay good.
 *
 * A fresh Buffer a batch would be memory outside of V8's heap: at 1,000 batches a second its collector marks the whole heap
 * some times a second, for a third of all CPU (measured).
 */
import type { BatchHeader } from "../../record/batch.ts";
import { DIGEST_BYTES } from "../../record/fields.ts";
import { BATCH_CHAIN_AT, ENTRY_PREFIX_BYTES, MAX_BATCH_BYTES } from "../../record/wire.ts";
import { END, growTo, instantiate, PLACE_BYTES, PREV_AT } from "../log/wasm.ts";

/** Bytes of a place: 128 KiB of entries, and what stands before them. */
const SLOT_BYTES = 132 * 1024;
const SLOTS = 64;
/** The six fields of the envelope, at their shortest: no entry is shorter. */
const MIN_ENTRY_BYTES = 76;
const MAX_ENTRIES = Math.ceil(MAX_BATCH_BYTES / (ENTRY_PREFIX_BYTES + MIN_ENTRY_BYTES));

/** What is known of a batch whose entries are all in order. Good until the next is looked at. */
export type Checked = {
  /** Digests of the entries, one behind the other. */
  readonly digests: Buffer;
  /** Where the first entry's prev stands in the batch. */
  readonly prevAt: number;
  /** Where entry `i` ends in the batch. */
  readonly endOf: (i: number) => number;
};

const wasm = instantiate();
const slotsAt = wasm.free();
/** For a batch that lies elsewhere. */
const copyAt = slotsAt + SLOTS * SLOT_BYTES;
const digestsAt = copyAt + MAX_BATCH_BYTES;
const placesAt = digestsAt + MAX_ENTRIES * DIGEST_BYTES;
growTo(wasm, placesAt + MAX_ENTRIES * PLACE_BYTES);
const memory = Buffer.from(wasm.memory.buffer);
const words = new Uint32Array(wasm.memory.buffer);
const freeSlots: number[] = Array.from({ length: SLOTS }, (_, i) => slotsAt + i * SLOT_BYTES);

/** Returns room for a body of at least `bytes`, to be given back with `release`. */
export function take(bytes: number): Buffer {
  const slot = bytes > SLOT_BYTES ? undefined : freeSlots.pop();
  if (slot === undefined) return Buffer.allocUnsafeSlow(bytes);
  return memory.subarray(slot, slot + SLOT_BYTES);
}

/** Takes back what `take` gave. Nobody may use it any more. */
export function release(room: Buffer): void {
  if (room.buffer === memory.buffer) freeSlots.push(room.byteOffset);
}

/** Checks all of a batch at once: what checkEntries checks. Null where something is wrong, or there is more than fits. */
export function look(batch: Buffer, header: BatchHeader): Checked | null {
  const { count, entriesAt, firstSeq } = header;
  if (count > MAX_ENTRIES || batch.length > MAX_BATCH_BYTES) return null;
  const isHere = batch.buffer === memory.buffer;
  const at = isHere ? batch.byteOffset : copyAt;
  if (!isHere) memory.set(batch, at);
  const from = at + entriesAt;
  if (wasm.scan(from, at + batch.length, count, ENTRY_PREFIX_BYTES, placesAt) !== count)
    return null;
  wasm.leaves(from, count, ENTRY_PREFIX_BYTES, digestsAt);
  if (!wasm.follow(placesAt, count, at + BATCH_CHAIN_AT, firstSeq, digestsAt)) return null;
  const word = (i: number, field: number): number =>
    words[(placesAt + i * PLACE_BYTES) / 4 + field] as number;
  return {
    digests: memory.subarray(digestsAt, digestsAt + count * DIGEST_BYTES),
    prevAt: word(0, PREV_AT) - at,
    endOf: (i) => word(i, END) - at,
  };
}
