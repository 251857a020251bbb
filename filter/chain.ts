/** The chain of this VM: how it opens and goes on, what it says of itself, and what of it waits for a receipt. FORMAT.md section 4. */
import {
  CHAIN_BYTES,
  DIGEST_BYTES,
  F_ABANDONED_CAUSE,
  F_ABANDONED_CHAIN,
  F_ABANDONED_COUNT,
  F_ABANDONED_HEAD,
  F_ABANDONED_SEQ,
  F_CONFIG_DIGEST,
  F_DELIVERY,
  F_FORMAT,
  F_HEARTBEAT_MS,
  F_HINT,
  F_HINT_SEQ,
  F_KEY_ID,
  F_MODULE_DIGEST,
  F_NAMESPACE,
  F_NODE_CLUSTER,
  F_NODE_ID,
  F_PLUGIN,
  F_POD,
  F_POLICY_DIGEST,
  F_PRODUCER,
  F_RECEIPT,
  F_SIGN_KEY,
  F_SIGNATURE,
  F_WORKLOAD,
  FORMAT_VERSION,
  GAP_BEST_EFFORT,
  GAP_HOST_FAILED,
  KIND_CLOSE,
  KIND_CONFIG,
  KIND_HEARTBEAT,
  KIND_OPEN,
  KIND_SIGNATURE,
  MAX_NAME,
  MAX_RECEIPT,
  MAX_SIGNATURE,
} from "../record/fields";
import { ENTRY_PREFIX_BYTES } from "../record/wire";
import * as buffer from "./buffer";
import { Config } from "./config";
import * as delivery from "./delivery";
import { FIELD_BYTES, putBytes, putUint } from "./entry";
import * as fates from "./fates";
import { hexValue, Key } from "./hmac";
import * as host from "./host";
import { Text } from "./host";
import * as link from "./link";
import * as metrics from "./metrics";
import * as register from "./register";
import * as signer from "./signer";

/** Digest of the newest entry that a receipt covers. */
export const RECEIPTED_HEAD: usize = memory.data(32, 16);
export const CONFIG_DIGEST: usize = memory.data(32, 16);
const MODULE_DIGEST: usize = memory.data(32, 16);

export let isOpen: bool = false;
/** The seq of the first entry in the buffer. */
export let firstSeq: u64 = 0;

/** The newest receipt for this chain, as a signed note. */
export const RECEIPT: usize = memory.data(4096, 16);
export let receiptBytes: u32 = 0;

/** The chain is open, and does not say yet what configuration the next entry is made under. */
let isConfigDue: bool = false;
const POLICY_DIGESTS: usize = memory.data(16 * 32, 16);
let settings: Config = new Config();
let lastTime: u64 = 0;
let lastHeartbeat: u64 = 0;

/** The seq from which on nothing is signed. */
let unsignedSeq: u64 = 0;

// What the next `open` says of the chain before it.
const OLD_ID: usize = memory.data(16, 16);
const OLD_HEAD: usize = memory.data(32, 16);
let oldCause: u32 = 0;
let oldSeq: u64 = 0;
let oldCount: u64 = 0;

const NODE_ID = new Text("xds\0node\0id");
const NODE_CLUSTER = new Text("xds\0node\0cluster");
const POD = new Text("xds\0node\0metadata\0NAME");
const NAMESPACE = new Text("xds\0node\0metadata\0NAMESPACE");
const WORKLOAD = new Text("xds\0node\0metadata\0WORKLOAD_NAME");
const PLUGIN = new Text("plugin_name");
const PRODUCER = new Text("meshseal-filter/0.1.0");

const MAX_UINT: u64 = 0x1f_ffff_ffff_ffff;
const OPEN_BYTES: usize = 16_000;
const CONFIG_BYTES: usize = (17 * (FIELD_BYTES + DIGEST_BYTES)) as usize;

/** Takes up a configuration; its digest is in CONFIG_DIGEST already. */
export function configure(config: Config): void {
  settings = config;
  link.countConfig();
  isConfigDue = isOpen;
  if (config.moduleDigest !== "") readDigest(config.moduleDigest, MODULE_DIGEST);
  for (let i = 0; i < config.policyDigests.length; i++)
    readDigest(config.policyDigests[i], POLICY_DIGESTS + (i as usize) * DIGEST_BYTES);
}

/** 64 hex digits, as the configuration was found to hold. */
function readDigest(hex: string, to: usize): void {
  for (let i = 0; i < 64; i += 2) {
    const byte = (hexValue(hex.charCodeAt(i)) << 4) | hexValue(hex.charCodeAt(i + 1));
    store<u8>(to + (i >> 1), byte as u8);
  }
}

/** The time, never going back within a chain by a failing clock. */
export function time(): u64 {
  const now = host.now();
  if (now !== 0) lastTime = now;
  return lastTime;
}

/** Begins the entry of a request, after opening the chain and chaining a gap where needed. False: it cannot be written. */
export function beginRequest(kind: u32, bytes: usize, now: u64): bool {
  if (!ensureOpen(now)) return false;
  if (delivery.givesWay()) return link.fail(GAP_BEST_EFFORT);
  if (fates.gapCount > 0) {
    // Only together with the request that shows that there is room again: a gap for each request would fill the buffer.
    if (!link.hasRoom(bytes + fates.GAPS_BYTES, true) || !fates.writeGaps(now)) return false;
  }
  return link.begin(kind, bytes, now, true);
}

/** Opens the chain if it is not. False where there is no room or no randomness. */
export function ensureOpen(now: u64): bool {
  if (isOpen) return !isConfigDue || writeConfig(now);
  if (buffer.start === 0) return link.fail(GAP_HOST_FAILED);
  if (!link.restart()) return false;
  register.read();
  memory.fill(RECEIPTED_HEAD, 0, DIGEST_BYTES);
  firstSeq = 0;
  receiptBytes = 0;
  if (!link.begin(KIND_OPEN, OPEN_BYTES, now)) return false;
  putPolicies();
  putUint(F_FORMAT, FORMAT_VERSION);
  putProperty(F_NODE_ID, NODE_ID);
  putProperty(F_NODE_CLUSTER, NODE_CLUSTER);
  putProperty(F_POD, POD);
  putProperty(F_NAMESPACE, NAMESPACE);
  putProperty(F_WORKLOAD, WORKLOAD);
  putProperty(F_PLUGIN, PLUGIN);
  putBytes(F_PRODUCER, PRODUCER.at, PRODUCER.bytes, MAX_NAME);
  if (settings.moduleDigest !== "")
    putBytes(F_MODULE_DIGEST, MODULE_DIGEST, DIGEST_BYTES, DIGEST_BYTES);
  putBytes(F_CONFIG_DIGEST, CONFIG_DIGEST, DIGEST_BYTES, DIGEST_BYTES);
  if (signer.batchKey !== null) {
    const id = (signer.batchKey as Key).id;
    putBytes(F_KEY_ID, id.at, id.bytes, MAX_NAME);
  }
  putUint(F_HEARTBEAT_MS, settings.heartbeatMs);
  for (let i: usize = 0; i < register.count; i++)
    putBytes(F_HINT, register.idAt(i), CHAIN_BYTES, CHAIN_BYTES);
  if (oldCause !== 0) {
    putBytes(F_ABANDONED_CHAIN, OLD_ID, CHAIN_BYTES, CHAIN_BYTES);
    putUint(F_ABANDONED_SEQ, oldSeq);
    putBytes(F_ABANDONED_HEAD, OLD_HEAD, DIGEST_BYTES, DIGEST_BYTES);
    putUint(F_ABANDONED_CAUSE, oldCause);
    putUint(F_ABANDONED_COUNT, oldCount);
  }
  if (signer.canSign) putBytes(F_SIGN_KEY, signer.keyId.at, signer.keyId.bytes, MAX_NAME);
  for (let i: usize = 0; i < register.count; i++)
    putUint(F_HINT_SEQ, min(register.nextSeqAt(i), MAX_UINT));
  putUint(F_DELIVERY, delivery.plugin);
  oldCause = 0;
  link.finish();
  unsignedSeq = 0;
  isOpen = true;
  isConfigDue = false;
  lastHeartbeat = now;
  metrics.chains.add(1);
  return true;
}

/** Says under which configuration, and which rules, the entries from here on are made. */
function writeConfig(now: u64): bool {
  if (!link.begin(KIND_CONFIG, CONFIG_BYTES, now)) return false;
  putPolicies();
  putBytes(F_CONFIG_DIGEST, CONFIG_DIGEST, DIGEST_BYTES, DIGEST_BYTES);
  link.finish();
  isConfigDue = false;
  return true;
}

function putPolicies(): void {
  for (let i = 0; i < settings.policyDigests.length; i++) {
    const at = POLICY_DIGESTS + (i as usize) * DIGEST_BYTES;
    putBytes(F_POLICY_DIGEST, at, DIGEST_BYTES, DIGEST_BYTES);
  }
}

function putProperty(number: u32, path: Text): void {
  if (host.property(path.at, path.bytes)) putBytes(number, host.data, host.size as u32, MAX_NAME);
}

/** At each tick: opens the chain, chains a gap when the buffer has drained, writes the heartbeat when it is due. */
export function tick(now: u64): void {
  if (!ensureOpen(now)) return;
  if (fates.gapCount > 0 && buffer.hasRoom(fates.GAPS_BYTES + OPEN_BYTES, true))
    fates.writeGaps(now);
  note(now, false);
  if (now - lastHeartbeat < (settings.heartbeatMs as u64) * 1000) return;
  const room = (MAX_RECEIPT + FIELD_BYTES) as usize;
  if (!link.begin(KIND_HEARTBEAT, room + fates.COUNTS_BYTES, now)) return;
  if (receiptBytes > 0) putBytes(F_RECEIPT, RECEIPT, receiptBytes, MAX_RECEIPT);
  fates.putCounts();
  link.finish();
  lastHeartbeat = now;
}

/** Notes how far the chain is, for the VMs that come after this one. */
export function note(now: u64, isOver: bool): void {
  register.note(link.ID, link.nextSeq, firstSeq, link.HEAD, now, isOver);
}

/** Signs the head, where the host can and something came since the last time. FORMAT.md section 4.8. */
export function sign(now: u64): void {
  if (!signer.canSign || !isOpen || link.nextSeq === unsignedSeq) return;
  const bytes = signer.signHead(link.ID, link.nextSeq - 1, link.HEAD);
  if (bytes === 0 || !link.begin(KIND_SIGNATURE, (MAX_SIGNATURE + FIELD_BYTES) as usize, now))
    return;
  putBytes(F_SIGNATURE, signer.signatureAt, bytes, MAX_SIGNATURE);
  link.finish();
  unsignedSeq = link.nextSeq;
  metrics.signatures.add(1);
}

/** The last entry of all, where it can still be brought home: gaps and counts, then `close`. */
export function close(now: u64): void {
  if (!isOpen) return;
  if (fates.gapCount > 0) fates.writeGaps(now);
  if (!link.begin(KIND_CLOSE, fates.COUNTS_BYTES, now)) return;
  fates.putCounts();
  link.finish();
}

/** When the oldest entry that no receipt covers was made, in microseconds; 0 where there is none. */
export function oldestTime(): u64 {
  if (buffer.heldBytes() === 0) return 0;
  // The envelope has one form: kind 2 bytes, chain 18, then seq, then prev 34, then time. FORMAT.md section 2.
  let at = buffer.start + ENTRY_PREFIX_BYTES + 2 + 18 + 1;
  while (load<u8>(at++) > 127) {}
  at += 34 + 1;
  let value: u64 = 0;
  for (let shift: u64 = 0; shift < 63; shift += 7) {
    const byte = load<u8>(at++);
    value |= ((byte & 127) as u64) << shift;
    if (byte < 128) break;
  }
  return value;
}

/** A receipt covers everything before `seq`, which begins at `to`; `head` is the digest of the entry before it. */
export function receipted(seq: u64, to: usize, head: usize, note: usize, bytes: u32): void {
  metrics.receiptedEntries.add((seq - firstSeq) as i64);
  metrics.bufferedBytes.add(-((to - buffer.start) as i64));
  memory.copy(RECEIPTED_HEAD, head, DIGEST_BYTES);
  memory.copy(RECEIPT, note, bytes);
  receiptBytes = bytes;
  firstSeq = seq;
  buffer.free(to);
  buffer.settle();
}

/** The first `count` entries, up to `to`, stand in Envoy's log: what can still be done for them. */
export function spilled(count: u32, to: usize): void {
  metrics.bufferedBytes.add(-((to - buffer.start) as i64));
  firstSeq += count;
  buffer.free(to);
}

/** Gives the chain up: the exporter refused it for good. The next entry opens another, which names this one. */
export function abandon(cause: u32, now: u64): void {
  oldCause = cause;
  oldSeq = firstSeq;
  oldCount = link.nextSeq - firstSeq;
  memory.copy(OLD_ID, link.ID, CHAIN_BYTES);
  memory.copy(OLD_HEAD, RECEIPTED_HEAD, DIGEST_BYTES);
  // Its row goes: the next `open` names it, and says more.
  register.note(link.ID, link.nextSeq, link.nextSeq, link.HEAD, now, true);
  metrics.lostEntries.add(oldCount as i64);
}

/** Lets go of the chain that was given up, with all that is held of it. */
export function forget(): void {
  metrics.bufferedBytes.add(-(buffer.heldBytes() as i64));
  buffer.clear();
  isOpen = false;
}
