/** Reads the exporter's answer to a batch: the few headers that matter. FORMAT.md section 5. */

import {
  ABANDONED_FORK,
  ABANDONED_HOLE,
  ABANDONED_MALFORMED,
  ABANDONED_ROLLBACK,
  ABANDONED_TOO_LARGE,
} from "../record/fields";
import {
  RECEIPT_HEADER,
  RECEIPT_MAC_HEADER,
  REFUSAL_HEADER,
  REFUSAL_MAC_HEADER,
  REFUSED_FORK,
  REFUSED_HOLE,
  REFUSED_MALFORMED,
  REFUSED_ROLLBACK,
  REFUSED_TOO_LARGE,
  WANT_HEADER,
} from "../record/wire";
import * as host from "./host";
import { isText, Text } from "./host";

export let isOk: bool = false;
export let receiptAt: usize = 0;
export let receiptBytes: usize = 0;
/** The MAC of the receipt or of the refusal: an answer has one of them. */
export let macAt: usize = 0;
export let macBytes: usize = 0;
export let refusalAt: usize = 0;
export let refusalBytes: usize = 0;
export let wantAt: usize = 0;
export let wantBytes: usize = 0;
/** Seconds. */
export let retryAfter: u64 = 0;

const STATUS = new Text(":status");
const OK_STATUS = new Text("200");
const RETRY_AFTER = new Text("retry-after");
const RECEIPT = new Text(RECEIPT_HEADER);
const RECEIPT_MAC = new Text(RECEIPT_MAC_HEADER);
const REFUSAL = new Text(REFUSAL_HEADER);
const REFUSAL_MAC = new Text(REFUSAL_MAC_HEADER);
const WANT = new Text(WANT_HEADER);
const MALFORMED = new Text(REFUSED_MALFORMED);
const FORK = new Text(REFUSED_FORK);
const ROLLBACK = new Text(REFUSED_ROLLBACK);
const TOO_LARGE = new Text(REFUSED_TOO_LARGE);
const HOLE = new Text(REFUSED_HOLE);

/** Reads the headers. False if there are none, or no whole ones. */
export function read(): bool {
  isOk = false;
  receiptBytes = 0;
  macBytes = 0;
  refusalBytes = 0;
  wantBytes = 0;
  retryAfter = 0;
  if (!host.headerPairs(host.CALL_RESPONSE_HEADERS) || host.size < 4) return false;
  const from = host.data;
  const to = from + host.size;
  const count = load<u32>(from) as usize;
  if (count > (host.size - 4) / 8) return false;
  let at = from + 4 + 8 * count;
  for (let i: usize = 0; i < count; i++) {
    const keyBytes = load<u32>(from + 4 + 8 * i) as usize;
    const bytes = load<u32>(from + 8 + 8 * i) as usize;
    const key = at;
    if (key > to || keyBytes > to - key || bytes + 2 > to - key - keyBytes) return false;
    const value = key + keyBytes + 1;
    at = value + bytes + 1;
    take(key, keyBytes, value, bytes);
  }
  return true;
}

function take(key: usize, keyBytes: usize, value: usize, bytes: usize): void {
  if (isText(key, keyBytes, STATUS)) isOk = isText(value, bytes, OK_STATUS);
  else if (isText(key, keyBytes, RECEIPT)) {
    receiptAt = value;
    receiptBytes = bytes;
  } else if (isText(key, keyBytes, RECEIPT_MAC) || isText(key, keyBytes, REFUSAL_MAC)) {
    macAt = value;
    macBytes = bytes;
  } else if (isText(key, keyBytes, REFUSAL)) {
    refusalAt = value;
    refusalBytes = bytes;
  } else if (isText(key, keyBytes, WANT)) {
    wantAt = value;
    wantBytes = bytes;
  } else if (isText(key, keyBytes, RETRY_AFTER)) retryAfter = decimal(value, bytes);
}

export function isRefusal(): bool {
  return refusalBytes > 0;
}

/** Returns the cause for which the chain must be given up, or 0. `first` is the oldest seq that is still held. */
export function finalCause(first: u64): u32 {
  if (isText(refusalAt, refusalBytes, MALFORMED)) return ABANDONED_MALFORMED;
  if (isText(refusalAt, refusalBytes, FORK)) return ABANDONED_FORK;
  if (isText(refusalAt, refusalBytes, ROLLBACK)) return ABANDONED_ROLLBACK;
  if (isText(refusalAt, refusalBytes, TOO_LARGE)) return ABANDONED_TOO_LARGE;
  // A hole before our first entry cannot be filled: what a receipt covered is freed.
  const isHole = isText(refusalAt, refusalBytes, HOLE);
  return isHole && wantBytes > 0 && decimal(wantAt, wantBytes) < first ? ABANDONED_HOLE : 0;
}

/** Reads up to 15 digits; anything else is 0. */
function decimal(from: usize, bytes: usize): u64 {
  if (bytes > 15) return 0;
  let value: u64 = 0;
  for (let i: usize = 0; i < bytes; i++) {
    const c = load<u8>(from + i);
    if (c < 0x30 || c > 0x39) return 0;
    value = value * 10 + (c - 0x30);
  }
  return value;
}
