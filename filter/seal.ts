/**
 * The chain's last word, in Envoy's log: what can still be said when nothing can be sent any more. A seal line names the last
 * entry; behind it, where the configuration wants it, stand the entries themselves. FORMAT.md section 4.9.
 */
import { proxy_log } from "@solo-io/proxy-runtime/assembly/imports";
import { CHAIN_BYTES, DIGEST_BYTES } from "../record/fields";
import * as batch from "./batch";
import * as buffer from "./buffer";
import * as chain from "./chain";
import * as estate from "./estate";
import * as fates from "./fates";
import { Key } from "./hmac";
import * as host from "./host";
import { Text } from "./host";
import * as link from "./link";
import * as metrics from "./metrics";
import * as signer from "./signer";

/** Base64 in a line: container runtimes cut longer ones at 16 KiB. */
const PIECE_BYTES: usize = 9000;
const SPILL_BATCH_BYTES: usize = 262_144;
const LINE: usize = memory.data(12_288, 16);

/** Writes the seal line, with a signature or a MAC where there is a key. */
export function write(why: string): void {
  if (!chain.isOpen) return;
  const line =
    "meshseal " +
    why +
    " chain=" +
    hex(link.ID, CHAIN_BYTES) +
    " seq=" +
    (link.nextSeq - 1).toString() +
    " head=" +
    hex(link.HEAD, DIGEST_BYTES) +
    " unreceipted=" +
    (link.nextSeq - chain.firstSeq).toString() +
    " missed=" +
    fates.gapCount.toString();
  host.log(host.WARN, line + proof(line));
}

function proof(line: string): string {
  const bytes = String.UTF8.encode(line);
  const at = changetype<usize>(bytes);
  let text = "";
  if (signer.canSign) {
    const length = signer.signSeal(at, bytes.byteLength);
    if (length > 0) {
      text += " sign_key=" + textOf(signer.keyId) + " sig=" + base64(signer.signatureAt, length);
    }
  }
  if (signer.batchKey !== null) {
    text += " key=" + textOf((signer.batchKey as Key).id);
    text += " mac=" + base64(signer.macSeal(link.ID, at, bytes.byteLength), DIGEST_BYTES);
  }
  return text;
}

/** Writes every entry that no receipt covers, as batches in pieces. They are freed: nothing can be sent after this. */
export function spill(): void {
  empty(SPILL_BATCH_BYTES, false, true);
}

/** Leaves every entry that no receipt covers to the VMs of this process that come after this one, and where it is wanted in the log too. */
export function leave(isSpilled: bool, batchBytes: usize): void {
  empty(batchBytes, true, isSpilled);
}

function empty(batchBytes: usize, isLeft: bool, isSpilled: bool): void {
  while (buffer.heldBytes() > 0 && (isLeft || isSpilled)) {
    host.begin();
    batch.frame(batchBytes);
    isLeft = isLeft && estate.put(batch.from, batch.to - batch.from);
    if (isSpilled) writeBatch();
    if (isLeft || isSpilled) chain.spilled(batch.count, batch.to);
  }
}

/** Writes the batch framed last, in pieces. */
function writeBatch(): void {
  const bytes = batch.to - batch.from;
  const parts = (bytes + PIECE_BYTES - 1) / PIECE_BYTES;
  for (let part: usize = 0; part < parts; part++) {
    const from = batch.from + part * PIECE_BYTES;
    const head =
      "meshseal spill chain=" +
      hex(link.ID, CHAIN_BYTES) +
      " first=" +
      chain.firstSeq.toString() +
      " part=" +
      (part + 1).toString() +
      "/" +
      parts.toString() +
      " data=";
    const at = String.UTF8.encodeUnsafe(changetype<usize>(head), head.length, LINE);
    const length = putBase64(from, min(PIECE_BYTES, batch.to - from), LINE + at);
    // There is nowhere to report a failure to.
    proxy_log(host.WARN, LINE, at + length);
  }
  metrics.spilledEntries.add(batch.count);
}

function textOf(text: Text): string {
  return String.UTF8.decodeUnsafe(text.at, text.bytes);
}

function hex(from: usize, bytes: u32): string {
  let digits = "";
  for (let i: u32 = 0; i < bytes; i++) {
    const byte = load<u8>(from + i);
    digits += ((byte >> 4) as u32).toString(16) + ((byte & 15) as u32).toString(16);
  }
  return digits;
}

function base64(from: usize, bytes: u32): string {
  return String.UTF8.decodeUnsafe(LINE, putBase64(from, bytes, LINE));
}

/** Writes standard base64 with padding to `to`. Returns how many characters. */
function putBase64(from: usize, bytes: usize, to: usize): usize {
  let at = to;
  for (let i: usize = 0; i < bytes; i += 3) {
    const rest = bytes - i;
    const a: u32 = load<u8>(from + i);
    const b: u32 = rest > 1 ? (load<u8>(from + i + 1) as u32) : 0;
    const c: u32 = rest > 2 ? (load<u8>(from + i + 2) as u32) : 0;
    store<u8>(at++, digit(a >> 2));
    store<u8>(at++, digit(((a & 3) << 4) | (b >> 4)));
    store<u8>(at++, rest > 1 ? digit(((b & 15) << 2) | (c >> 6)) : 0x3d);
    store<u8>(at++, rest > 2 ? digit(c & 63) : 0x3d);
  }
  return at - to;
}

function digit(value: u32): u8 {
  if (value < 26) return (value + 0x41) as u8;
  if (value < 52) return (value - 26 + 0x61) as u8;
  if (value < 62) return (value - 52 + 0x30) as u8;
  return value === 62 ? 0x2b : 0x2f;
}
