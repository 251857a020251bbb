/** Entries as bytes, written straight into the batch buffer. FORMAT.md section 2. */
import { CHAIN_BYTES, DIGEST_BYTES, F_CUT, SALT_BYTES } from "../record/fields";

/** Where the next byte of the entry goes. */
export let at: usize = 0;

/** How many cuts an entry can name; there are never as many values that can be cut. */
const MAX_CUTS: u32 = 64;
const CUT: StaticArray<u32> = new StaticArray<u32>(64);
let cuts: u32 = 0;
/** F_CUT and a number, at most. */
const CUT_BYTES: usize = 4;

// Facts are written here first: so that the room they need is known before the chain is asked for it.
const FACTS: usize = memory.data(65_536, 16);
const HELD_CUT: StaticArray<u32> = new StaticArray<u32>(64);
let heldCuts: u32 = 0;
let factBytes: usize = 0;

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

/** Begins facts that the envelope is not there for yet. */
export function beginFacts(): void {
  beginEntry(FACTS);
}

/** Writes elsewhere for a while: fields that are kept. What is cut there is the caller's to note. */
export function writeAt(to: usize): void {
  at = to;
}

/** Ends the facts, and returns how much room `putFacts` needs. */
export function holdFacts(): usize {
  factBytes = at - FACTS;
  heldCuts = cuts;
  for (let i: u32 = 0; i < cuts; i++) unchecked((HELD_CUT[i] = unchecked(CUT[i])));
  return factBytes + CUT_BYTES * heldCuts;
}

/** Writes the facts that are held behind what the entry has already. */
export function putFacts(): void {
  memory.copy(at, FACTS, factBytes);
  at += factBytes;
  for (let i: u32 = 0; i < heldCuts; i++) noteCut(unchecked(HELD_CUT[i]));
}

/** Says that a field's value was cut, or that there were more of them. */
export function noteCut(number: u32): void {
  // A field that stands more than once is named once.
  if (cuts > 0 && unchecked(CUT[cuts - 1]) === number) return;
  if (cuts < MAX_CUTS) unchecked((CUT[cuts++] = number));
}

/** Writes fields that were encoded before, and what of them was cut: a bit for each number from `first`. */
export function putBlock(from: usize, bytes: usize, first: u32, cut: u32): void {
  memory.copy(at, from, bytes);
  at += bytes;
  for (let bit: u32 = 0; cut >> bit !== 0; bit++) if ((cut >> bit) & 1) noteCut(first + bit);
}

/** Writes a uint field. Numbers must come in ascending order. */
export function putUint(number: u32, value: u64): void {
  varint(number << 3);
  varint(value <= 0x1f_ffff_ffff_ffff ? value : 0x1f_ffff_ffff_ffff);
}

/** Writes a bytes field, cut to `most` bytes. */
export function putBytes(number: u32, from: usize, bytes: u32, most: u32): void {
  const length = min(bytes, most);
  if (length < bytes) noteCut(number);
  varint((number << 3) | 2);
  varint(length);
  memory.copy(at, from, length);
  at += length;
}

/** Writes a bytes field of two parts, cut to `most` bytes together. */
export function putTwo(
  number: u32,
  first: usize,
  firstBytes: u32,
  from: usize,
  bytes: u32,
  most: u32,
): void {
  const length = min(firstBytes + bytes, most);
  if (length < firstBytes + bytes) noteCut(number);
  varint((number << 3) | 2);
  varint(length);
  const head = min(firstBytes, length);
  memory.copy(at, first, head);
  memory.copy(at + head, from, length - head);
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
