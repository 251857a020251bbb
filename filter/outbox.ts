/**
 * Delivery: one batch of the chain under way at a time, sent again until it is receipted. A receipt frees entries only
 * after chain, seq and head were compared with our own. FORMAT.md sections 4 and 5.
 */
import {
  proxy_http_call,
  proxy_set_effective_context,
} from "@solo-io/proxy-runtime/assembly/imports";
import {
  ABANDONED_FORK,
  ABANDONED_HOLE,
  ABANDONED_MALFORMED,
  ABANDONED_ROLLBACK,
  ABANDONED_TOO_LARGE,
  CHAIN_BYTES,
  DIGEST_BYTES,
  MAX_RECEIPT,
} from "../record/fields";
import {
  BATCH_CHAIN_AT,
  BATCH_COUNT_AT,
  BATCH_FIRST_SEQ_AT,
  BATCH_HEADER_BYTES,
  BATCH_MAC_BYTES_AT,
  BATCH_MAGIC,
  BATCH_PATH,
  BATCH_RECEIPT_BYTES_AT,
  BATCH_TYPE,
  ENTRY_PREFIX_BYTES,
  RECEIPT_HEADER,
  REFUSAL_HEADER,
  REFUSED_FORK,
  REFUSED_HOLE,
  REFUSED_MALFORMED,
  REFUSED_ROLLBACK,
  REFUSED_TOO_LARGE,
  WANT_HEADER,
} from "../record/wire";
import * as buffer from "./buffer";
import * as chain from "./chain";
import { Config } from "./config";
import * as host from "./host";
import { isText, Text } from "./host";
import * as metrics from "./metrics";
import { decodeBase64, headHex, hexOf, readReceipt } from "./receipt";
import { sha256 } from "./sha256";

/** A call that the host dropped silently is given up this long after its own time limit. */
const SILENCE_US: u64 = 1_000_000;
const MAX_BACKOFF_US: u64 = 10_000_000;

let settings: Config = new Config();
let root: u32 = 0;
let cluster: Text = new Text("");
let headers: usize = 0;
let headersBytes: usize = 0;

const TOKEN: usize = memory.data(4, 4);
const NO_TRAILERS: usize = memory.data(4, 4);
const DIGEST: usize = memory.data(32, 16);
const NOTE: usize = memory.data(4096, 16);
const DICE: usize = memory.data(4, 4);

let isUnderWay: bool = false;
let token: u32 = 0;
let sentAt: u64 = 0;
let nextTry: u64 = 0;
let failures: u32 = 0;

const STATUS = new Text(":status");
const RETRY_AFTER = new Text("retry-after");
const RECEIPT = new Text(RECEIPT_HEADER);
const REFUSAL = new Text(REFUSAL_HEADER);
const WANT = new Text(WANT_HEADER);
const MALFORMED = new Text(REFUSED_MALFORMED);
const FORK = new Text(REFUSED_FORK);
const ROLLBACK = new Text(REFUSED_ROLLBACK);
const TOO_LARGE = new Text(REFUSED_TOO_LARGE);
const HOLE = new Text(REFUSED_HOLE);
const OK_STATUS = new Text("200");

/** Batches go out of the newest root: an older one takes its calls with it when it ends. */
export function configure(config: Config, newRoot: u32): void {
  settings = config;
  root = newRoot;
  cluster = new Text(config.cluster);
  const names: StaticArray<string> = [":method", ":path", ":authority", "content-type"];
  const values: StaticArray<string> = ["POST", BATCH_PATH, config.authority, BATCH_TYPE];
  headers = heap.alloc(1024);
  store<u32>(headers, names.length);
  let to = headers + 4 + 8 * names.length;
  for (let i = 0; i < names.length; i++) {
    store<u32>(headers + 4 + 8 * i, names[i].length);
    store<u32>(headers + 8 + 8 * i, values[i].length);
    to = append(append(to, names[i]), values[i]);
  }
  headersBytes = to - headers;
}

function append(to: usize, text: string): usize {
  const bytes = String.UTF8.encodeUnsafe(changetype<usize>(text), text.length, to);
  store<u8>(to + bytes, 0);
  return to + bytes + 1;
}

/** After an entry was chained: sends when a batch is full. */
export function poke(now: u64): void {
  if (buffer.heldBytes() >= settings.batchBytes) send(now);
}

/** Sends the oldest entries, if nothing is under way and the last failure is long enough ago. */
export function send(now: u64): void {
  if (isUnderWay) {
    if (now - sentAt < (settings.timeoutMs as u64) * 1000 + SILENCE_US) return;
    isUnderWay = false;
    failed(now);
  }
  if (buffer.heldBytes() === 0 || now < nextTry || !chain.isOpen) return;
  let to = buffer.start;
  let count: u32 = 0;
  while (to < buffer.end) {
    const next = to + ENTRY_PREFIX_BYTES + entryBytes(to);
    if (count > 0 && next - buffer.start > (settings.batchBytes as usize)) break;
    to = next;
    count++;
  }
  const body = writeHeader(count);
  // Calls belong to a root; this may run in a stream's callback.
  if (proxy_set_effective_context(root) !== host.OK) return failed(now);
  const status = proxy_http_call(
    cluster.at,
    cluster.bytes,
    headers,
    headersBytes,
    body,
    to - body,
    NO_TRAILERS,
    4,
    settings.timeoutMs,
    TOKEN,
  );
  if (status !== host.OK) return failed(now);
  token = load<u32>(TOKEN);
  isUnderWay = true;
  sentAt = now;
  metrics.batchesSent.add(1);
}

function entryBytes(at: usize): usize {
  return ((load<u8>(at) as usize) << 8) | load<u8>(at + 1);
}

/** Writes the batch's header and the newest receipt in front of the entries. Returns where it begins. */
function writeHeader(count: u32): usize {
  const body = buffer.start - BATCH_HEADER_BYTES - chain.receiptBytes;
  store<u32>(body, BATCH_MAGIC);
  memory.copy(body + BATCH_CHAIN_AT, chain.ID, CHAIN_BYTES);
  store<u64>(body + BATCH_FIRST_SEQ_AT, bswap<u64>(chain.firstSeq));
  store<u32>(body + BATCH_COUNT_AT, bswap<u32>(count));
  store<u16>(body + BATCH_RECEIPT_BYTES_AT, bswap<u16>(chain.receiptBytes as u16));
  store<u16>(body + BATCH_MAC_BYTES_AT, 0);
  memory.copy(body + BATCH_HEADER_BYTES, chain.RECEIPT, chain.receiptBytes);
  return body;
}

/** Waits twice as long after each failure, plus up to as much again by chance, so that proxies do not come all at once. */
function failed(now: u64): void {
  metrics.sendFailures.add(1);
  const base = min(((settings.tickMs as u64) * 1000) << min(failures, 10), MAX_BACKOFF_US / 2);
  failures++;
  let jitter: u64 = base / 2;
  if (host.random(DICE, 4)) jitter = (base * (load<u32>(DICE) as u64)) >> 32;
  nextTry = now + base + jitter;
}

// The headers of an answer that matter.
let receiptAt: usize = 0;
let receiptLength: usize = 0;
let refusalAt: usize = 0;
let refusalLength: usize = 0;
let want: u64 = 0;
let hasWant: bool = false;
let retryAfter: u64 = 0;
let isOk: bool = false;

/** The host's answer to a call: read, judged, and the next batch sent if there is one. */
export function answered(call: u32, headerCount: u32, now: u64): void {
  if (!isUnderWay || call !== token) return;
  isUnderWay = false;
  if (headerCount === 0 || !readAnswer()) return failed(now);
  if (isOk && receiptLength > 0) {
    if (!receipted()) return failed(now);
    metrics.batchesReceipted.add(1);
    failures = 0;
    nextTry = 0;
    // What came meanwhile goes at once when it is much, otherwise at the next tick.
    if (buffer.heldBytes() >= settings.batchBytes) send(now);
    return;
  }
  if (refusalLength === 0) return failed(now);
  metrics.refusals.add(1);
  if (isText(refusalAt, refusalLength, MALFORMED)) return giveUp(ABANDONED_MALFORMED, now);
  if (isText(refusalAt, refusalLength, FORK)) return giveUp(ABANDONED_FORK, now);
  if (isText(refusalAt, refusalLength, ROLLBACK)) return giveUp(ABANDONED_ROLLBACK, now);
  if (isText(refusalAt, refusalLength, TOO_LARGE)) return giveUp(ABANDONED_TOO_LARGE, now);
  // A hole before our first entry cannot be filled: what a receipt covered is freed.
  if (isText(refusalAt, refusalLength, HOLE) && hasWant && want < chain.firstSeq)
    return giveUp(ABANDONED_HOLE, now);
  failed(now);
  if (retryAfter > 0) nextTry = max(nextTry, now + min(retryAfter, 30) * 1_000_000);
}

function giveUp(cause: u32, now: u64): void {
  chain.abandon(cause);
  failures = 0;
  nextTry = 0;
  chain.ensureOpen(now);
}

function readAnswer(): bool {
  receiptLength = 0;
  refusalLength = 0;
  hasWant = false;
  retryAfter = 0;
  isOk = false;
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
    if (isText(key, keyBytes, STATUS)) isOk = isText(value, bytes, OK_STATUS);
    else if (isText(key, keyBytes, RECEIPT)) {
      receiptAt = value;
      receiptLength = bytes;
    } else if (isText(key, keyBytes, REFUSAL)) {
      refusalAt = value;
      refusalLength = bytes;
    } else if (isText(key, keyBytes, WANT)) {
      want = decimal(value, bytes);
      hasWant = bytes > 0;
    } else if (isText(key, keyBytes, RETRY_AFTER)) retryAfter = decimal(value, bytes);
  }
  return true;
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

/** Frees what the receipt covers, if it speaks of our chain, of entries we hold, and of the digest we have there. */
function receipted(): bool {
  const bytes = decodeBase64(receiptAt, receiptLength, NOTE, MAX_RECEIPT);
  if (bytes === 0) return false;
  const receipt = readReceipt(NOTE, bytes, chain.ID);
  if (receipt === 0 || receipt <= chain.firstSeq || receipt > chain.nextSeq) return false;
  let at = buffer.start;
  let last = at;
  for (let seq = chain.firstSeq; seq < receipt; seq++) {
    last = at;
    at += (ENTRY_PREFIX_BYTES as usize) + entryBytes(at);
  }
  sha256(last + ENTRY_PREFIX_BYTES - 1, (entryBytes(last) as u32) + 1, DIGEST);
  if (!headIs(DIGEST)) return false;
  chain.receipted(receipt, at, DIGEST, NOTE, bytes);
  return true;
}

/** Compares the head that the last receipt names, in hex, with a digest. */
function headIs(digest: usize): bool {
  for (let i: usize = 0; i < (DIGEST_BYTES as usize); i++) {
    const byte = load<u8>(digest + i);
    if (
      load<u8>(headHex + 2 * i) !== hexOf(byte >> 4) ||
      load<u8>(headHex + 2 * i + 1) !== hexOf(byte & 15)
    ) {
      return false;
    }
  }
  return true;
}
