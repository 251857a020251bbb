/** Entries as bytes, written straight into the batch buffer. FORMAT.md section 2. */
import { CHAIN_BYTES, DIGEST_BYTES, F_CUT, MAX_HINTS, SALT_BYTES } from "../record/fields";

/** Where the next byte of the entry goes. */
export let at: usize = 0;

const CUT: StaticArray<u32> = new StaticArray<u32>(MAX_HINTS);
let cuts: u32 = 0;

/** A kind, an id, seq, prev, time, salt and config take at most this many bytes. */
export const ENVELOPE_BYTES: u32 =
  2 + (2 + CHAIN_BYTES) + 9 + (2 + DIGEST_BYTES) + 9 + (2 + SALT_BYTES) + 9;
/** A field's number and length, or its number and a varint, take at most this many bytes. */
export const FIELD_BYTES: u32 = 10;

/** Begins an entry at `to`. */
export function beginEntry(to: usize): void {
  at = to;
  cuts = 0;
}

/** Writes a uint field. Numbers must come in ascending order. */
export function putUint(number: u32, value: u64): void {
  varint(number << 3);
  varint(value <= 0x1f_ffff_ffff_ffff ? value : 0x1f_ffff_ffff_ffff);
}

/** Writes a bytes field, cut to `most` bytes. */
export function putBytes(number: u32, from: usize, bytes: u32, most: u32): void {
  const length = min(bytes, most);
  if (length < bytes) {
    unchecked((CUT[cuts] = number));
    cuts++;
  }
  varint((number << 3) | 2);
  varint(length);
  memory.copy(at, from, length);
  at += length;
}

/** Writes what was cut, and returns where the entry ends. */
export function endEntry(): usize {
  for (let i: u32 = 0; i < cuts; i++) putUint(F_CUT, unchecked(CUT[i]));
  return at;
}

function varint(value: u64): void {
  let rest = value;
  while (rest > 127) {
    store<u8>(at++, (rest as u8) | 128);
    rest >>= 7;
  }
  store<u8>(at++, rest as u8);
}
