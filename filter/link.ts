/** An entry's envelope and its link: each names the digest of the one before. FORMAT.md section 2. */
import {
  CHAIN_BYTES,
  DIGEST_BYTES,
  F_CHAIN,
  F_CONFIG,
  F_KIND,
  F_PREV,
  F_SALT,
  F_SEQ,
  F_TIME,
  GAP_BUFFER_FULL,
  GAP_HOST_FAILED,
  SALT_BYTES,
} from "../record/fields";
import { ENTRY_PREFIX_BYTES } from "../record/wire";
import * as buffer from "./buffer";
import { beginEntry, ENVELOPE_BYTES, endEntry, putBytes, putUint } from "./entry";
import * as host from "./host";
import * as metrics from "./metrics";
import { sha256 } from "./sha256";

export const ID: usize = memory.data(16, 16);
/** Digest of the newest entry. */
export const HEAD: usize = memory.data(32, 16);
export let nextSeq: u64 = 0;

/** Why the last entry that was tried could not be begun. */
export let cause: u32 = GAP_BUFFER_FULL;

let configNumber: u32 = 0;

/** One entry in as many has its hashing timed: reading the clock twice costs a sixth of what it measures. */
const TIMED: u64 = 256;

const SALTS: usize = memory.data(4096, 16);
const SALTS_BYTES: usize = 4096;
let saltAt: usize = 4096;

/** Entries from here on are made under another configuration. */
export function countConfig(): void {
  configNumber++;
}

/** Begins a chain with no entry in it. False where the host gives no id. */
export function restart(): bool {
  if (!host.random(ID, CHAIN_BYTES)) return fail(GAP_HOST_FAILED);
  memory.fill(HEAD, 0, DIGEST_BYTES);
  nextSeq = 0;
  return true;
}

/** Notes why an entry cannot be begun. Returns false. */
export function fail(why: u32): bool {
  cause = why;
  return false;
}

/** Tells if there is room for `bytes` behind an entry's envelope, and notes it if there is not. */
export function hasRoom(bytes: usize, isRequest: bool): bool {
  const room = (ENTRY_PREFIX_BYTES as usize) + ENVELOPE_BYTES + bytes;
  return buffer.hasRoom(room, isRequest) || fail(GAP_BUFFER_FULL);
}

/**
 * Begins an entry of at most `bytes` behind its envelope, if there is room. On true the caller writes its
 * fields and calls `finish`.
 */
export function begin(kind: u32, bytes: usize, now: u64, isRequest: bool = false): bool {
  if (!hasRoom(bytes, isRequest)) return false;
  if (saltAt >= SALTS_BYTES) {
    if (!host.random(SALTS, SALTS_BYTES)) return fail(GAP_HOST_FAILED);
    saltAt = 0;
  }
  beginEntry(buffer.end + ENTRY_PREFIX_BYTES);
  putUint(F_KIND, kind);
  putBytes(F_CHAIN, ID, CHAIN_BYTES, CHAIN_BYTES);
  putUint(F_SEQ, nextSeq);
  putBytes(F_PREV, HEAD, DIGEST_BYTES, DIGEST_BYTES);
  putUint(F_TIME, now);
  putBytes(F_SALT, SALTS + saltAt, SALT_BYTES, SALT_BYTES);
  saltAt += SALT_BYTES;
  putUint(F_CONFIG, configNumber);
  return true;
}

/** Ends the entry that was begun: it is chained. */
export function finish(): void {
  const from = buffer.end + ENTRY_PREFIX_BYTES;
  const to = endEntry();
  const bytes = (to - from) as u32;
  store<u8>(buffer.end, (bytes >> 8) as u8);
  store<u8>(buffer.end + 1, bytes as u8);
  store<u8>(buffer.end + 2, 0);
  if ((nextSeq & (TIMED - 1)) !== 0) sha256(from - 1, bytes + 1, HEAD);
  else hashTimed(from - 1, bytes + 1);
  metrics.bufferedBytes.add((to - buffer.end) as i64);
  metrics.bytes.add(bytes as i64);
  metrics.entries.add(1);
  // At once where all was receipted, so that the stats never say that nothing waits while something does.
  if (buffer.heldBytes() === 0) {
    metrics.entries.flush();
    metrics.bufferedBytes.flush();
  }
  buffer.keep(to);
  nextSeq++;
}

function hashTimed(from: usize, bytes: u32): void {
  const began = host.nanoseconds();
  sha256(from, bytes, HEAD);
  const ended = host.nanoseconds();
  if (ended > began) metrics.hashNs.record(ended - began);
}
