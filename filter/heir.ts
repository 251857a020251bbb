/**
 * Brings home what other VMs of the process left (estate.ts): one batch at a time, until the exporter's receipt covers it. Whoever
 * can write to the host's shared data can plant one: it is looked through, and the exporter judges it like any other.
 */
import { ABANDONED_HOLE } from "../record/fields";
import {
  BATCH_CHAIN_AT,
  BATCH_COUNT_AT,
  BATCH_FIRST_SEQ_AT,
  BATCH_HEADER_BYTES,
  BATCH_MAC_BYTES,
  BATCH_MAC_BYTES_AT,
  BATCH_MAGIC,
  BATCH_RECEIPT_BYTES_AT,
  ENTRY_PREFIX_BYTES,
  MAX_BATCH_BYTES,
} from "../record/wire";
import * as answer from "./answer";
import { entryBytes } from "./batch";
import * as estate from "./estate";
import * as host from "./host";
import * as metrics from "./metrics";
import * as outbox from "./outbox";
import { sha256 } from "./sha256";
import * as signer from "./signer";

const FIRST_WAIT_US: u64 = 500_000;
const MAX_WAIT_US: u64 = 10_000_000;
/** The part before may be with another VM, which sends it at its own pace. Longer than this, and it is gone. */
const MAX_HOLES: u32 = 30;

const HEADER: usize = BATCH_HEADER_BYTES as usize;
const MAC: usize = BATCH_MAC_BYTES as usize;
const PREFIX: usize = ENTRY_PREFIX_BYTES as usize;
const MAX_BYTES: usize = (MAX_BATCH_BYTES + 8192) as usize;

const LAST: usize = memory.data(32, 16);

/** The batch that is brought home, in memory that is used again. */
let isHeld: bool = false;
let block: usize = 0;
let room: usize = 0;
let from: usize = 0;
let to: usize = 0;
let mac: usize = 0;
let first: u64 = 0;
let count: u32 = 0;

let isUnderWay: bool = false;
let token: u32 = 0;
let sender: u32 = 0;
let sentAt: u64 = 0;
let nextTry: u64 = 0;
let failures: u32 = 0;
let holes: u32 = 0;

/** At each tick, and when a batch has come home. */
export function tick(now: u64): void {
  if (isUnderWay) {
    if (now - sentAt < outbox.patience()) return;
    isUnderWay = false;
    failed(now);
  }
  if (!isHeld && (!estate.take() || !adopt())) return;
  if (now < nextTry) return;
  if (!outbox.post(from, to - from)) return failed(now);
  token = outbox.lastToken();
  sender = outbox.root;
  sentAt = now;
  isUnderWay = true;
}

/** Takes the batch in host.data, if it is one: its frame is made for this VM's own key. */
function adopt(): bool {
  const bytes = host.size;
  if (bytes < HEADER || bytes > MAX_BYTES || load<u32>(host.data) !== BATCH_MAGIC) return false;
  const receiptBytes: usize = bswap<u16>(load<u16>(host.data, BATCH_RECEIPT_BYTES_AT));
  const oldMac: usize = bswap<u16>(load<u16>(host.data, BATCH_MAC_BYTES_AT));
  const before = HEADER + receiptBytes + oldMac;
  if (before >= bytes) return false;
  first = bswap<u64>(load<u64>(host.data, BATCH_FIRST_SEQ_AT));
  count = bswap<u32>(load<u32>(host.data, BATCH_COUNT_AT));
  const macBytes: usize = signer.batchKey === null ? 0 : MAC;
  if (room < MAC + bytes) {
    // Nothing is ever given back: at least twice as much as before.
    room = max<usize>(2 * room, MAC + bytes);
    block = heap.alloc(room);
  }
  const entries = block + HEADER + receiptBytes + macBytes;
  from = block;
  to = entries + (bytes - before);
  memory.copy(from, host.data, HEADER + receiptBytes);
  memory.copy(entries, host.data + before, bytes - before);
  store<u16>(from + BATCH_MAC_BYTES_AT, bswap<u16>(macBytes as u16));
  let last: usize = 0;
  let found: u32 = 0;
  let at = entries;
  while (at + PREFIX <= to) {
    last = at;
    at += PREFIX + entryBytes(at);
    found++;
  }
  if (at !== to || found !== count || found === 0) return false;
  sha256(last + PREFIX - 1, (entryBytes(last) as u32) + 1, LAST);
  mac = entries - macBytes;
  if (macBytes > 0) signer.macBatch(from + BATCH_CHAIN_AT, first, count, LAST, mac);
  isHeld = true;
  return true;
}

function drop(): void {
  isHeld = false;
  nextTry = 0;
  failures = 0;
  holes = 0;
}

function failed(now: u64): void {
  metrics.sendFailures.add(1);
  nextTry = now + min(FIRST_WAIT_US << min(failures++, 10), MAX_WAIT_US);
}

/** The host's answer to a call, if it is ours. */
export function answered(call: u32, headerCount: u32, now: u64): void {
  if (!isUnderWay || call !== token) return;
  isUnderWay = false;
  if (headerCount === 0 || !answer.read()) return failed(now);
  if (answer.isOk && answer.receiptBytes > 0) {
    const next = outbox.receiptOf(from + BATCH_CHAIN_AT);
    const end = first + count;
    // One for more than ours: it had all of it already.
    if (next < end || (next === end && !outbox.headIs(LAST))) {
      metrics.badReceipts.add(1);
      return failed(now);
    }
    metrics.batchesReceipted.add(1);
    metrics.receiptedEntries.add(count);
    drop();
    return tick(now);
  }
  if (!answer.isRefusal()) return failed(now);
  metrics.refusals.add(1);
  const cause = answer.finalCause(first);
  if (cause === 0 || (cause === ABANDONED_HOLE && holes++ < MAX_HOLES)) return failed(now);
  if (!outbox.isProven(from + BATCH_CHAIN_AT, mac)) return failed(now);
  host.log(host.WARN, "meshseal: a batch that another VM left was refused: see the exporter");
  metrics.lostEntries.add(count);
  drop();
}

/** A root takes its calls with it. */
export function rootEnded(context: u32): void {
  if (sender === context) isUnderWay = false;
}

/** This VM ends too. */
export function leave(): void {
  if (isHeld) estate.put(from, to - from);
}
