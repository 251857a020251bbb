/**
 * Delivery: one batch of the chain under way at a time, sent again until it is receipted. A receipt frees entries only
 * after chain, seq and head were compared with our own. FORMAT.md sections 4 and 5.
 */
import {
  proxy_http_call,
  proxy_set_effective_context,
} from "@solo-io/proxy-runtime/assembly/imports";
import { DIGEST_BYTES, MAX_RECEIPT } from "../record/fields";
import {
  BATCH_MAC_BYTES,
  BATCH_PATH,
  BATCH_TYPE,
  ENTRY_PREFIX_BYTES,
  KEY_ID_HEADER,
} from "../record/wire";
import * as answer from "./answer";
import * as batch from "./batch";
import * as buffer from "./buffer";
import * as chain from "./chain";
import { Config } from "./config";
import { Key } from "./hmac";
import * as host from "./host";
import { Text } from "./host";
import * as link from "./link";
import * as metrics from "./metrics";
import { decodeBase64, headHex, hexOf, readReceipt } from "./receipt";
import * as seal from "./seal";
import { sha256 } from "./sha256";
import * as signer from "./signer";

/** A call that the host dropped silently is given up this long after its own time limit. */
const SILENCE_US: u64 = 1_000_000;
const MAX_BACKOFF_US: u64 = 10_000_000;
const MAX_RETRY_AFTER_S: u64 = 30;

let settings: Config = new Config();
/** The root context that calls are made from. */
export let root: u32 = 0;
let cluster: Text = new Text("");
let headers: usize = 0;
let headersBytes: usize = 0;

const TOKEN: usize = memory.data(4, 4);
const NO_TRAILERS: usize = memory.data(4, 4);
const DIGEST: usize = memory.data(32, 16);
const NOTE: usize = memory.data(4096, 16);
let noteBytes: u32 = 0;
const MAC: usize = memory.data(48, 16);
const DICE: usize = memory.data(4, 4);

let isUnderWay: bool = false;
let token: u32 = 0;
let sender: u32 = 0;
let sentAt: u64 = 0;
let nextTry: u64 = 0;
let failures: u32 = 0;

export function configure(config: Config): void {
  settings = config;
  cluster = new Text(config.cluster);
  const names: string[] = [":method", ":path", ":authority", "content-type"];
  const values: string[] = ["POST", BATCH_PATH, config.authority, BATCH_TYPE];
  if (signer.batchKey !== null) {
    const id = (signer.batchKey as Key).id;
    names.push(KEY_ID_HEADER);
    values.push(String.UTF8.decodeUnsafe(id.at, id.bytes));
  }
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

/** Batches go out of `newest` from now on: a root takes its calls with it when it ends, without a word. */
export function useRoot(newest: u32): void {
  root = newest;
}

/** A root has ended: what it had under way goes out of the one in use. */
export function rootEnded(context: u32, now: u64): void {
  if (!isUnderWay || sender !== context) return;
  isUnderWay = false;
  nextTry = 0;
  send(now);
}

/** After an entry was chained: sends when a batch is full. */
export function poke(now: u64): void {
  if (buffer.heldBytes() >= settings.batchBytes) send(now);
}

/** Sends the oldest entries, if nothing is under way and the last failure is long enough ago. */
export function send(now: u64): void {
  if (isUnderWay) {
    if (now - sentAt < patience()) return;
    isUnderWay = false;
    failed(now);
  }
  if (buffer.heldBytes() === 0 || now < nextTry || !chain.isOpen) return;
  chain.sign(now);
  batch.frame(settings.batchBytes);
  if (!post(batch.from, batch.to - batch.from)) return failed(now);
  token = load<u32>(TOKEN);
  sender = root;
  isUnderWay = true;
  sentAt = now;
}

/** Sends a batch. On true its call is `lastToken`. */
export function post(from: usize, bytes: usize): bool {
  // Calls belong to a root; this may run in a stream's callback.
  if (proxy_set_effective_context(root) !== host.OK) return false;
  const status = proxy_http_call(
    cluster.at,
    cluster.bytes,
    headers,
    headersBytes,
    from,
    bytes,
    NO_TRAILERS,
    4,
    settings.timeoutMs,
    TOKEN,
  );
  if (status !== host.OK) return false;
  metrics.batchesSent.add(1);
  return true;
}

export function lastToken(): u32 {
  return load<u32>(TOKEN);
}

/** The host answers a call within this time, in microseconds, or never. */
export function patience(): u64 {
  return (settings.timeoutMs as u64) * 1000 + SILENCE_US;
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

/** The host's answer to a call: read, judged, and the next batch sent if there is one. */
export function answered(call: u32, headerCount: u32, now: u64): void {
  if (!isUnderWay || call !== token) return;
  isUnderWay = false;
  if (headerCount === 0 || !answer.read()) return failed(now);
  if (answer.isOk && answer.receiptBytes > 0) {
    if (!receipted(now)) {
      metrics.badReceipts.add(1);
      return failed(now);
    }
    metrics.batchesReceipted.add(1);
    failures = 0;
    nextTry = 0;
    // What came meanwhile goes at once when it is much, otherwise at the next tick.
    if (buffer.heldBytes() >= settings.batchBytes) send(now);
    return;
  }
  if (!answer.isRefusal()) return failed(now);
  metrics.refusals.add(1);
  const cause = answer.finalCause(chain.firstSeq);
  if (cause !== 0 && isProven(link.ID, batch.MAC)) return giveUp(cause, now);
  failed(now);
  if (answer.retryAfter > 0)
    nextTry = max(nextTry, now + min(answer.retryAfter, MAX_RETRY_AFTER_S) * 1_000_000);
}

function giveUp(cause: u32, now: u64): void {
  seal.write("abandoned");
  chain.abandon(cause, now);
  if (settings.spill) seal.spill();
  chain.forget();
  failures = 0;
  nextTry = 0;
  chain.ensureOpen(now);
}

/** Tells if entries wait for a receipt longer than the configuration allows. */
export function isLate(now: u64): bool {
  const oldest = chain.oldestTime();
  return oldest !== 0 && now > oldest + (settings.enforceMs as u64) * 1000;
}

/** Frees what the receipt covers, if it speaks of our chain, of entries we hold, and of the digest we have there. */
function receipted(now: u64): bool {
  const next = receiptOf(link.ID);
  if (next === 0 || next <= chain.firstSeq || next > link.nextSeq) return false;
  let at = buffer.start;
  let last = at;
  for (let seq = chain.firstSeq; seq < next; seq++) {
    last = at;
    at += (ENTRY_PREFIX_BYTES as usize) + batch.entryBytes(at);
  }
  sha256(last + ENTRY_PREFIX_BYTES - 1, (batch.entryBytes(last) as u32) + 1, DIGEST);
  if (!headIs(DIGEST)) return false;
  const oldest = chain.oldestTime();
  if (now > oldest) metrics.receiptMs.record((now - oldest) / 1000);
  chain.receipted(next, at, DIGEST, NOTE, noteBytes);
  return true;
}

/** Reads the receipt of the answer that was read last. Returns the next seq; 0 if it is none, for another chain, or without its MAC. */
export function receiptOf(id: usize): u64 {
  noteBytes = decodeBase64(answer.receiptAt, answer.receiptBytes, NOTE, MAX_RECEIPT);
  if (noteBytes === 0) return 0;
  if (signer.batchKey !== null) {
    if (decodeBase64(answer.macAt, answer.macBytes, MAC, 48) !== 32) return 0;
    if (!signer.isReceiptMac(id, NOTE, noteBytes, MAC)) return 0;
  }
  return readReceipt(NOTE, noteBytes, id);
}

/** Tells if the refusal that was read last is of the batch with this MAC, by who holds the key; true where there is no key. */
export function isProven(id: usize, batchMac: usize): bool {
  if (signer.batchKey === null) return true;
  const bytes = (BATCH_MAC_BYTES as usize) + answer.refusalBytes + answer.wantBytes;
  const text = host.allocate(bytes);
  memory.copy(text, batchMac, BATCH_MAC_BYTES);
  memory.copy(text + BATCH_MAC_BYTES, answer.refusalAt, answer.refusalBytes);
  memory.copy(text + bytes - answer.wantBytes, answer.wantAt, answer.wantBytes);
  const isIt =
    decodeBase64(answer.macAt, answer.macBytes, MAC, 48) === 32 &&
    signer.isRefusalMac(id, text, bytes as u32, MAC);
  if (!isIt) metrics.badReceipts.add(1);
  return isIt;
}

/** Compares the head that the last receipt names, in hex, with a digest. */
export function headIs(digest: usize): bool {
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
