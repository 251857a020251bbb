/**
 * What vouches for the chain beside its links: a MAC over each batch where a key is configured, and signatures over
 * heads where the host can sign (Envoy 1.40, foreign function `sign`, P-256). FORMAT.md sections 4.7 and 4.8.
 */
import { CHAIN_BYTES, DIGEST_BYTES, MAX_SIGNATURE } from "../record/fields";
import {
  HEAD_LABEL,
  MAC_LABEL_BATCH,
  MAC_LABEL_RECEIPT,
  MAC_LABEL_REFUSAL,
  MAC_LABEL_SEAL,
  SEAL_LABEL,
} from "../record/wire";
import { hmac, Key } from "./hmac";
import * as host from "./host";
import { Text } from "./host";

/** The key of the MAC; null where none is configured. */
export let batchKey: Key | null = null;

/** Tells if heads are signed, and by which key. */
export let canSign: bool = false;
export let keyId: Text = new Text("");
/** Where the last signature lies: in the arena. */
export let signatureAt: usize = 0;

const BATCH = new Text(MAC_LABEL_BATCH);
const RECEIPT = new Text(MAC_LABEL_RECEIPT);
const REFUSAL = new Text(MAC_LABEL_REFUSAL);
const SEAL = new Text(MAC_LABEL_SEAL);
const HEAD = new Text(HEAD_LABEL + "\n");
const SEAL_HEAD = new Text(SEAL_LABEL + "\n");
const SIGN = new Text("sign");
const SHA256 = new Text("sha256");

const DERIVED: usize = memory.data(64, 16);
const MAC: usize = memory.data(32, 16);
const TO_SIGN: usize = memory.data(128, 16);
let pem: Text = new Text("");

/** Takes up keys: `key` for MACs, or null; `privateKey` a PEM for signatures, or "". Probes the host. */
export function configure(key: Key | null, id: string, privateKey: string): void {
  batchKey = key;
  keyId = new Text(id);
  pem = new Text(privateKey);
  canSign = privateKey !== "" && signed(SHA256.at, SHA256.bytes) > 0;
}

/** Derives this chain's key for a label: HKDF-Expand of RFC 5869 with label and chain as its info. */
function derive(label: Text, chain: usize): void {
  const bytes = label.bytes + CHAIN_BYTES + 1;
  const info = host.allocate(bytes);
  memory.copy(info, label.at, label.bytes);
  memory.copy(info + label.bytes, chain, CHAIN_BYTES);
  store<u8>(info + bytes - 1, 1);
  memory.fill(DERIVED, 0, 64);
  hmac((batchKey as Key).block, info, bytes, DERIVED);
}

/** Writes the MAC of a batch to `to`, 32 bytes. */
export function macBatch(chain: usize, first: u64, count: u32, last: usize, to: usize): void {
  derive(BATCH, chain);
  const text = host.allocate(CHAIN_BYTES + 12 + DIGEST_BYTES);
  memory.copy(text, chain, CHAIN_BYTES);
  store<u64>(text + CHAIN_BYTES, bswap<u64>(first));
  store<u32>(text + CHAIN_BYTES + 8, bswap<u32>(count));
  memory.copy(text + CHAIN_BYTES + 12, last, DIGEST_BYTES);
  hmac(DERIVED, text, CHAIN_BYTES + 12 + DIGEST_BYTES, to);
}

/** Tells if `mac`, 32 bytes, is that of a receipt. */
export function isReceiptMac(chain: usize, note: usize, bytes: u32, mac: usize): bool {
  return isMac(RECEIPT, chain, note, bytes, mac);
}

/** Tells if `mac`, 32 bytes, is that of a refusal: `text` is the batch's own MAC, and what the refusal says. */
export function isRefusalMac(chain: usize, text: usize, bytes: u32, mac: usize): bool {
  return isMac(REFUSAL, chain, text, bytes, mac);
}

function isMac(label: Text, chain: usize, text: usize, bytes: u32, mac: usize): bool {
  derive(label, chain);
  hmac(DERIVED, text, bytes, MAC);
  let difference: u8 = 0;
  for (let i: usize = 0; i < 32; i++) difference |= load<u8>(MAC + i) ^ load<u8>(mac + i);
  return difference === 0;
}

/** Returns where the MAC of a seal line lies. */
export function macSeal(chain: usize, line: usize, bytes: u32): usize {
  derive(SEAL, chain);
  hmac(DERIVED, line, bytes, MAC);
  return MAC;
}

/** Signs chain, seq and head. Returns the bytes of the signature, 0 where it failed. */
export function signHead(chain: usize, seq: u64, head: usize): u32 {
  memory.copy(TO_SIGN, HEAD.at, HEAD.bytes);
  const at = TO_SIGN + HEAD.bytes;
  memory.copy(at, chain, CHAIN_BYTES);
  store<u64>(at + CHAIN_BYTES, bswap<u64>(seq));
  memory.copy(at + CHAIN_BYTES + 8, head, DIGEST_BYTES);
  return signed(TO_SIGN, HEAD.bytes + CHAIN_BYTES + 8 + DIGEST_BYTES);
}

/** Signs a seal line. Returns the bytes of the signature, 0 where it failed. */
export function signSeal(line: usize, bytes: u32): u32 {
  const text = host.allocate(SEAL_HEAD.bytes + bytes);
  memory.copy(text, SEAL_HEAD.at, SEAL_HEAD.bytes);
  memory.copy(text + SEAL_HEAD.bytes, line, bytes);
  return signed(text, SEAL_HEAD.bytes + bytes);
}

/**
 * Calls the host's `sign`. Argument and result are protobuf, source/extensions/common/wasm/ext/sign.proto in Envoy:
 * {1 hash function, 3 text, 4 private key as PEM} and {1 whether it worked, 2 signature, 3 error}.
 */
function signed(text: usize, bytes: u32): u32 {
  const argument = host.allocate(64 + SHA256.bytes + bytes + pem.bytes);
  let to = putField(argument, 1, SHA256.at, SHA256.bytes);
  to = putField(to, 3, text, bytes);
  to = putField(to, 4, pem.at, pem.bytes);
  if (!host.foreign(SIGN.at, SIGN.bytes, argument, to - argument)) return 0;
  let at = host.data;
  const end = at + host.size;
  let isSigned = false;
  let found: u32 = 0;
  while (at + 2 <= end) {
    const tag = load<u8>(at);
    const value: u32 = load<u8>(at + 1);
    at += 2;
    if (value > 127) return 0;
    if (tag === 0x08) isSigned = value === 1;
    else {
      if ((tag & 7) !== 2 || at + value > end) return 0;
      if (tag === 0x12) {
        signatureAt = at;
        found = value;
      }
      at += value;
    }
  }
  return isSigned && found <= MAX_SIGNATURE ? found : 0;
}

function putField(to: usize, number: u8, from: usize, bytes: u32): usize {
  store<u8>(to++, (number << 3) | 2);
  let rest = bytes;
  while (rest > 127) {
    store<u8>(to++, (rest as u8) | 128);
    rest >>= 7;
  }
  store<u8>(to++, rest as u8);
  memory.copy(to, from, bytes);
  return to + bytes;
}
