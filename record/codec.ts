/**
 * Entries as bytes: strict decoding and canonical encoding, as FORMAT.md section 2 has them. For the exporter and
 * the tools; the filter writes the same bytes straight from host memory (filter/entry.ts).
 *
 * Every byte here may come from an attacker. Nothing throws on bad bytes, and what decodes encodes to the same bytes.
 */
import {
  DIGEST_BYTES,
  F_CHAIN,
  F_KIND,
  F_PREV,
  F_SALT,
  F_SEQ,
  F_STREAM_ID,
  F_TIME,
  Field,
  fieldTable,
  KIND_OPEN,
  kindName,
  MAX_ENTRY_BYTES,
  TYPE_BYTES,
  TYPE_UINT,
} from "./fields.ts";

/** Well formed, and every field and kind is known to this version. */
export const ENTRY_OK = 0 as const;
/** Not an entry: malformed, not canonical, or against the field table. */
export const ENTRY_MALFORMED = 1 as const;
/** Canonical, but with a field or a kind that this version does not know: a newer writer, nobody's fault. */
export const ENTRY_NEWER = 2 as const;
export type Verdict = typeof ENTRY_OK | typeof ENTRY_MALFORMED | typeof ENTRY_NEWER;

export type FieldValue = { readonly number: number; readonly value: number | Uint8Array };

/** One decoded entry. Byte values alias the bytes it was decoded from. */
export type Entry = {
  readonly kind: number;
  readonly chain: Uint8Array;
  readonly seq: number;
  readonly prev: Uint8Array;
  /** Microseconds since the Unix epoch. */
  readonly time: number;
  readonly salt: Uint8Array;
  /** Every field in order, the envelope too. */
  readonly fields: readonly FieldValue[];
  /** True if a field or the kind is newer than this version. */
  readonly isNewer: boolean;
};

const TABLE: readonly (Field | undefined)[] = (() => {
  const table: (Field | undefined)[] = [];
  for (const field of fieldTable()) table[field.number] = field;
  return table;
})();

const FIELDS_BY_NAME: ReadonlyMap<string, Field> = new Map(
  fieldTable().map((field) => [field.name, field]),
);

/** Field numbers of protobuf end at 2^29 - 1: so do tags. */
const MAX_TAG = 2 ** 32 - 1;

// The table by number, for the scanner.
const NUMBERS = 2048;
const TYPE_OF = new Uint8Array(NUMBERS);
const MIN_OF = new Uint32Array(NUMBERS);
const MAX_OF = new Uint32Array(NUMBERS);
const TIMES_OF = new Uint8Array(NUMBERS);
/** Kinds that may carry a field; 0 for a number that this version does not know. */
const KINDS_OF = new Int32Array(NUMBERS);
for (const { number, type, min, max, times, kinds } of fieldTable()) {
  TYPE_OF[number] = type;
  MIN_OF[number] = min;
  MAX_OF[number] = max;
  TIMES_OF[number] = times;
  KINDS_OF[number] = kinds;
}

/** A bit for each kind that this version knows. */
const KNOWN_KINDS: number = (() => {
  let known = 0;
  for (let kind = 1; kind < 32; kind++) if (kindName(kind) !== "") known |= 1 << kind;
  return known;
})();

/** The fields 1 to 6 stand in every entry: bits 1 to 6. */
const ENVELOPE = 0x7e;

/** Returns the field with this number, or undefined where this version knows none. */
export function fieldOf(number: number): Field | undefined {
  return TABLE[number];
}

/** Returns the field with this name, or undefined. */
export function fieldNamed(name: string): Field | undefined {
  return FIELDS_BY_NAME.get(name);
}

/**
 * Reads one entry without making objects, for the intake's hot path. After `scan` returned OK or NEWER its fields
 * hold the envelope; after MALFORMED they hold nothing of use. One scanner is used again and again.
 */
export class Scanner {
  kind = 0;
  seq = 0;
  time = 0;
  /** Offsets into the scanned bytes of 16, 32 and 16 bytes. */
  chainAt = 0;
  prevAt = 0;
  saltAt = 0;
  /** Likewise of a stream's id; -1 where the entry has none. */
  streamIdAt = -1;

  #at = 0;

  /**
   * Judges bytes [from, to) of `bytes`, which must be within it. `onField` gets each field; for bytes, value is the length
   * and `at` the offset.
   */
  scan(
    bytes: Uint8Array,
    from: number,
    to: number,
    onField?: (number: number, type: number, value: number, at: number) => void,
  ): Verdict {
    if (to - from > MAX_ENTRY_BYTES) return ENTRY_MALFORMED;
    this.kind = 0;
    this.streamIdAt = -1;
    this.#at = from;
    let last = 0;
    let times = 0;
    let seen = 0;
    let kindBit = 0;
    let isNewer = false;
    while (this.#at < to) {
      const tag = this.#varint(bytes, to);
      if (tag < 0 || tag > MAX_TAG) return ENTRY_MALFORMED;
      const number = tag >>> 3;
      const type = tag & 7;
      if (number === 0 || number < last) return ENTRY_MALFORMED;
      if (type !== TYPE_UINT && type !== TYPE_BYTES) return ENTRY_MALFORMED;
      times = number === last ? times + 1 : 1;
      last = number;
      const value = this.#varint(bytes, to);
      if (value < 0) return ENTRY_MALFORMED;
      const at = this.#at;
      if (type === TYPE_BYTES) {
        if (value > to - at) return ENTRY_MALFORMED;
        this.#at = at + value;
      }
      // Typed arrays and not the table's objects: a third of the time (measured).
      if (number >= NUMBERS || KINDS_OF[number] === 0) {
        isNewer = true;
      } else {
        if (type !== TYPE_OF[number] || times > (TIMES_OF[number] as number))
          return ENTRY_MALFORMED;
        if (
          type === TYPE_BYTES &&
          (value < (MIN_OF[number] as number) || value > (MAX_OF[number] as number))
        ) {
          return ENTRY_MALFORMED;
        }
        if (number <= F_SALT) {
          seen |= 1 << number;
          if (number === F_KIND) {
            this.kind = value;
            kindBit = value < 32 ? (1 << value) & KNOWN_KINDS : 0;
          } else if (number === F_CHAIN) this.chainAt = at;
          else if (number === F_SEQ) this.seq = value;
          else if (number === F_PREV) this.prevAt = at;
          else if (number === F_TIME) this.time = value;
          else this.saltAt = at;
        } else if (number === F_STREAM_ID) this.streamIdAt = at;
        if (kindBit === 0) isNewer = true;
        else if (((KINDS_OF[number] as number) & kindBit) === 0) return ENTRY_MALFORMED;
      }
      if (onField !== undefined) onField(number, type, value, at);
    }
    if (seen !== ENVELOPE || this.kind === 0) return ENTRY_MALFORMED;
    // A chain begins with its `open`, and nothing else is its beginning.
    if ((this.kind === KIND_OPEN) !== (this.seq === 0)) return ENTRY_MALFORMED;
    if (this.seq === 0 && !isZero(bytes, this.prevAt, DIGEST_BYTES)) return ENTRY_MALFORMED;
    return isNewer ? ENTRY_NEWER : ENTRY_OK;
  }

  /** Returns a minimal varint of at most 2^53 - 1 and moves past it, or -1. */
  #varint(bytes: Uint8Array, to: number): number {
    let at = this.#at;
    if (at >= to) return -1;
    let value = bytes[at++] as number;
    if (value < 0x80) {
      this.#at = at;
      return value;
    }
    value &= 0x7f;
    let scale = 128;
    for (;;) {
      if (at >= to) return -1;
      const byte = bytes[at++] as number;
      value += (byte & 0x7f) * scale;
      // Eight bytes carry 56 bits; the sum stays exact below 2^53, and what passes it is refused.
      if (value > Number.MAX_SAFE_INTEGER) return -1;
      if (byte < 0x80) {
        if (byte === 0 && scale > 1) return -1;
        this.#at = at;
        return value;
      }
      scale *= 128;
      if (scale > 2 ** 49) return -1;
    }
  }
}

const scanner = new Scanner();

/** Returns the entry in `bytes`, or null unless it is exactly one canonical entry of this or a newer version. */
export function decodeEntry(bytes: Uint8Array): Entry | null {
  const fields: FieldValue[] = [];
  const verdict = scanner.scan(bytes, 0, bytes.length, (number, type, value, at) => {
    fields.push({ number, value: type === TYPE_UINT ? value : bytes.subarray(at, at + value) });
  });
  if (verdict === ENTRY_MALFORMED) return null;
  return {
    kind: scanner.kind,
    chain: bytes.subarray(scanner.chainAt, scanner.chainAt + 16),
    seq: scanner.seq,
    prev: bytes.subarray(scanner.prevAt, scanner.prevAt + 32),
    time: scanner.time,
    salt: bytes.subarray(scanner.saltAt, scanner.saltAt + 16),
    fields,
    isNewer: verdict === ENTRY_NEWER,
  };
}

/**
 * Returns the canonical bytes of `fields`, in any order. Throws RangeError if they are not an entry: this is for
 * entries we make ourselves, never for input.
 */
export function encodeEntry(fields: readonly FieldValue[]): Uint8Array {
  const out: number[] = [];
  for (const { number, value } of fields.toSorted((a, b) => a.number - b.number)) {
    const type = typeof value === "number" ? TYPE_UINT : TYPE_BYTES;
    putVarint(out, number * 8 + type);
    putVarint(out, typeof value === "number" ? value : value.length);
    if (typeof value !== "number") for (const byte of value) out.push(byte);
  }
  const bytes = Uint8Array.from(out);
  if (scanner.scan(bytes, 0, bytes.length) === ENTRY_MALFORMED) {
    throw new RangeError("these fields are not an entry: see record/FORMAT.md");
  }
  return bytes;
}

/** Returns the first value of a uint field, or undefined where it is absent. */
export function uintOf(entry: Entry, number: number): number | undefined {
  const value = entry.fields.find((field) => field.number === number)?.value;
  return typeof value === "number" ? value : undefined;
}

/** Returns the first value of a bytes field, or undefined where it is absent. */
export function bytesOf(entry: Entry, number: number): Uint8Array | undefined {
  const value = entry.fields.find((field) => field.number === number)?.value;
  return typeof value === "number" ? undefined : value;
}

function putVarint(out: number[], value: number): void {
  if (!Number.isSafeInteger(value) || value < 0)
    throw new RangeError(`${value} is not a field's value`);
  let rest = value;
  while (rest >= 128) {
    out.push((rest % 128) | 0x80);
    rest = Math.floor(rest / 128);
  }
  out.push(rest);
}

function isZero(bytes: Uint8Array, at: number, length: number): boolean {
  for (let i = at; i < at + length; i++) if (bytes[i] !== 0) return false;
  return true;
}
