/**
 * Entries in the exporter's hot loops: judged, held against the entries before them, and packed into bundles, many in one
 * call. Says the same as the Scanner of record/codec.ts and the loops of intake/check.ts, which are to be read first: where
 * this says no, they say why. test/entries.test.ts holds them together. Compiled by asc into wasm-code.ts.
 */
import {
  F_CHAIN,
  F_KIND,
  F_PREV,
  F_SALT,
  F_SEQ,
  F_STREAM_ID,
  F_TIME,
  FIRST_OWN_KIND,
  KIND_OPEN,
  LAST_OWN_KIND,
  MAX_ENTRY_BYTES,
  TYPE_BYTES,
  TYPE_UINT,
} from "../../record/fields";

/**
 * The field table, 16 bytes a number: kinds that may carry it (0: not known), fewest and most bytes, times at most, type. And a
 * bit for each kind that is known. The caller fills both in from record/fields.ts.
 */
const NUMBERS: u32 = 2048;
const TABLE: usize = memory.data(2048 * 16, 16);
const KINDS: usize = memory.data(4, 4);

/** What `scan` finds of each entry: 48 bytes, as Places of hasher.ts reads them. */
const PLACE: usize = 48;

const MAX_SAFE: i64 = 0x1f_ffff_ffff_ffff;

/** Where the caller puts the field table, and behind it the known kinds. */
export function table(): usize {
  return TABLE;
}

export function kinds(): usize {
  return KINDS;
}

let at: usize = 0;

/**
 * Judges `count` entries that stand at `from` and end at `end`, each behind its length and, in a batch, 0x00. Writes a place for
 * each to `to`. Returns how many are right before the first that is not; more than `count` where bytes are left over.
 */
export function scan(from: usize, end: usize, count: u32, prefix: usize, to: usize): u32 {
  let next = from;
  let place = to;
  for (let i: u32 = 0; i < count; i++) {
    const start = next + prefix;
    if (start > end) return i;
    next = start + (bswap<u16>(load<u16>(next)) as usize);
    if (next > end) return i;
    if (prefix > 2 && load<u8>(start - 1) !== 0) return i;
    if (!scanOne(start, next, place)) return i;
    place += PLACE;
  }
  return next === end ? count : count + 1;
}

function scanOne(start: usize, end: usize, place: usize): bool {
  if (end - start > (MAX_ENTRY_BYTES as usize)) return false;
  const known = load<u32>(KINDS);
  let kind: i64 = 0;
  let seq: i64 = 0;
  let time: i64 = 0;
  let prevAt: usize = 0;
  let streamIdAt: usize = 0;
  let last: u32 = 0;
  let times: u32 = 0;
  let seen: u32 = 0;
  let kindBit: u32 = 0;
  let isNewer = false;
  let next = start;
  while (next < end) {
    // Of one or two bytes mostly: read here, since a call and a global cost more than they do.
    let tag = load<u8>(next) as i64;
    if (tag < 0x80) next++;
    else if (next + 1 < end && load<u8>(next, 1) - 1 < 0x7f) {
      tag = (tag & 0x7f) | ((load<u8>(next, 1) as i64) << 7);
      next += 2;
    } else {
      at = next;
      tag = varint(end);
      if (tag < 0 || tag > 0xffff_ffff) return false;
      next = at;
    }
    const number = (tag as u32) >>> 3;
    const type = (tag as u32) & 7;
    if (number === 0 || number < last) return false;
    if (type !== TYPE_UINT && type !== TYPE_BYTES) return false;
    times = number === last ? times + 1 : 1;
    last = number;
    if (next >= end) return false;
    let value = load<u8>(next) as i64;
    if (value < 0x80) next++;
    else if (next + 1 < end && load<u8>(next, 1) - 1 < 0x7f) {
      value = (value & 0x7f) | ((load<u8>(next, 1) as i64) << 7);
      next += 2;
    } else {
      at = next;
      value = varint(end);
      if (value < 0) return false;
      next = at;
    }
    const valueAt = next;
    if (type === TYPE_BYTES) {
      if (value > ((end - valueAt) as i64)) return false;
      next = valueAt + (value as usize);
    }
    const field = TABLE + ((number as usize) << 4);
    const allowed = number < NUMBERS ? load<u32>(field) : 0;
    if (allowed === 0) {
      isNewer = true;
      continue;
    }
    if (type !== (load<u8>(field, 14) as u32) || times > (load<u16>(field, 12) as u32))
      return false;
    if (
      type === TYPE_BYTES &&
      ((value as u32) < load<u32>(field, 4) || (value as u32) > load<u32>(field, 8))
    ) {
      return false;
    }
    if (number <= F_SALT) {
      seen |= 1 << number;
      if (number === F_KIND) {
        kind = value;
        kindBit = value < 32 ? (1 << (value as u32)) & known : 0;
      } else if (number === F_CHAIN) store<u32>(place, valueAt as u32, 8);
      else if (number === F_SEQ) seq = value;
      else if (number === F_PREV) prevAt = valueAt;
      else if (number === F_TIME) time = value;
    } else if (number === F_STREAM_ID) streamIdAt = valueAt;
    if (kindBit === 0) isNewer = true;
    else if ((allowed & kindBit) === 0) return false;
  }
  // Fields 1 to 6 stand in every entry. A chain begins with its `open`, and nothing else is its beginning.
  if (seen !== 0x7e || kind === 0) return false;
  if ((kind === (KIND_OPEN as i64)) !== (seq === 0)) return false;
  if (seq === 0) {
    const zero = v128.or(v128.load(prevAt), v128.load(prevAt, 16));
    if (v128.any_true(zero)) return false;
  }
  store<u32>(place, start as u32);
  store<u32>(place, end as u32, 4);
  store<u32>(place, prevAt as u32, 12);
  store<u32>(place, streamIdAt as u32, 16);
  store<u32>(place, isNewer ? 2 : 0, 20);
  store<f64>(place, kind as f64, 24);
  store<f64>(place, seq as f64, 32);
  store<f64>(place, time as f64, 40);
  return true;
}

/**
 * Tells if the scanned entries at `places` are of the chain at `chain`, of kinds that a filter writes, of the seqs from `first`
 * on, and each but the first holds the digest before its own, of which the first is at `digests`.
 */
export function follow(places: usize, count: u32, chain: usize, first: f64, digests: usize): bool {
  const id = v128.load(chain);
  for (let i: u32 = 0; i < count; i++) {
    const place = places + (i as usize) * PLACE;
    const kind = load<f64>(place, 24);
    if (kind >= (FIRST_OWN_KIND as f64) && kind <= (LAST_OWN_KIND as f64)) return false;
    if (v128.any_true(v128.xor(id, v128.load(load<u32>(place, 8))))) return false;
    if (load<f64>(place, 32) !== first + (i as f64)) return false;
    if (i > 0 && !isDigest(load<u32>(place, 12), digests + ((i - 1) as usize) * 32)) return false;
  }
  return true;
}

/**
 * Returns how many of the `count` scanned entries at `places` from entry `from` on are a row: of one chain and one kind, each of the
 * seq after the one before and with its digest, of those at `digests`; and all of them with a stream's id or newer than this
 * version, or none. Writes to `to`: the latest time in the row, the last, and how often time went back, as doubles.
 */
export function row(places: usize, from: u32, count: u32, digests: usize, to: usize): u32 {
  const first = places + (from as usize) * PLACE;
  const id = v128.load(load<u32>(first, 8));
  const kind = load<f64>(first, 24);
  const isSpecial = isSpecialAt(first);
  let time = load<f64>(first, 40);
  let newest = time;
  let steps: f64 = 0;
  let i = from + 1;
  for (; i < count; i++) {
    const place = places + (i as usize) * PLACE;
    if (load<f64>(place, 24) !== kind || isSpecialAt(place) !== isSpecial) break;
    if (v128.any_true(v128.xor(id, v128.load(load<u32>(place, 8))))) break;
    if (load<f64>(place, 32) !== load<f64>(place - PLACE, 32) + 1) break;
    if (!isDigest(load<u32>(place, 12), digests + ((i - 1) as usize) * 32)) break;
    const next = load<f64>(place, 40);
    if (next < time) steps++;
    time = next;
    newest = max<f64>(newest, time);
  }
  store<f64>(to, newest);
  store<f64>(to, time, 8);
  store<f64>(to, steps, 16);
  return i - from;
}

function isSpecialAt(place: usize): bool {
  return (load<u32>(place, 16) | load<u32>(place, 20)) !== 0;
}

/** Tells if the 32 bytes at `a` and at `b` are the same. */
function isDigest(a: usize, b: usize): bool {
  const low = v128.xor(v128.load(a), v128.load(b));
  const high = v128.xor(v128.load(a, 16), v128.load(b, 16));
  return !v128.any_true(v128.or(low, high));
}

/** Returns a minimal varint of at most 2^53 - 1 and moves `at` past it, or -1. */
function varint(end: usize): i64 {
  if (at >= end) return -1;
  const byte = load<u8>(at++);
  return byte < 0x80 ? (byte as i64) : longVarint(byte & 0x7f, end);
}

function longVarint(low: i64, end: usize): i64 {
  let value = low;
  for (let shift: i64 = 7; shift <= 49; shift += 7) {
    if (at >= end) return -1;
    const byte = load<u8>(at++) as i64;
    value |= (byte & 0x7f) << shift;
    if (byte < 0x80) return byte === 0 || value > MAX_SAFE ? -1 : value;
  }
  return -1;
}

let packedTo: usize = 0;

/**
 * Packs entries that stand at `from` as in a batch as a bundle has them: at most `count`, and only those that end at `end` or
 * before. Returns how many.
 */
export function pack(from: usize, end: usize, count: u32, to: usize): u32 {
  let next = from;
  packedTo = to;
  for (let i: u32 = 0; i < count; i++) {
    if (next + 3 > end) return i;
    const length = load<u16>(next);
    const bytes = bswap<u16>(length) as usize;
    if (next + 3 + bytes > end) return i;
    store<u16>(packedTo, length);
    memory.copy(packedTo + 2, next + 3, bytes);
    packedTo += 2 + bytes;
    next += 3 + bytes;
  }
  return count;
}

/** Where the last `pack` ended. */
export function packed(): usize {
  return packedTo;
}
