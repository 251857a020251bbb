/** Reads a receipt: base64 of a signed note. FORMAT.md section 5. Its signature is the verifier's business, not the filter's. */
import { CHAIN_BYTES, DIGEST_BYTES } from "../record/fields";
import { isText, Text } from "./host";

const LABEL = new Text("meshseal/v1/receipt");

/** Where the head of the last receipt stands, 64 hex digits. */
export let headHex: usize = 0;

let at: usize = 0;
let end: usize = 0;
let line: usize = 0;
let lineBytes: usize = 0;

/** Returns the hex digit of a value below 16, as ASCII. */
export function hexOf(value: u8): u8 {
  return value < 10 ? value + 0x30 : value + 0x57;
}

/** Returns the next seq of the receipt in `bytes` bytes of `note`, with headHex set; 0 if it is none or for another chain. */
export function readReceipt(note: usize, bytes: u32, chain: usize): u64 {
  at = note;
  end = note + bytes;
  if (!nextLine() || !isText(line, lineBytes, LABEL)) return 0;
  if (!nextLine()) return 0;
  if (!nextLine() || lineBytes !== 2 * CHAIN_BYTES) return 0;
  for (let i: usize = 0; i < (CHAIN_BYTES as usize); i++) {
    const byte = load<u8>(chain + i);
    if (
      load<u8>(line + 2 * i) !== hexOf(byte >> 4) ||
      load<u8>(line + 2 * i + 1) !== hexOf(byte & 15)
    )
      return 0;
  }
  if (!nextLine() || lineBytes === 0 || lineBytes > 15) return 0;
  let seq: u64 = 0;
  for (let i: usize = 0; i < lineBytes; i++) {
    const c = load<u8>(line + i);
    if (c < 0x30 || c > 0x39) return 0;
    seq = seq * 10 + (c - 0x30);
  }
  if (!nextLine() || lineBytes !== 2 * DIGEST_BYTES) return 0;
  headHex = line;
  return seq;
}

function nextLine(): bool {
  line = at;
  while (at < end) {
    if (load<u8>(at) === 0x0a) {
      lineBytes = at - line;
      at++;
      return true;
    }
    at++;
  }
  return false;
}

/** Decodes standard base64 with padding. Returns the number of bytes, 0 if it is malformed or longer than `most`. */
export function decodeBase64(from: usize, bytes: usize, to: usize, most: u32): u32 {
  if (bytes === 0 || (bytes & 3) !== 0 || (bytes / 4) * 3 > (most as usize)) return 0;
  let out: u32 = 0;
  for (let i: usize = 0; i < bytes; i += 4) {
    const isLast = i + 4 === bytes;
    const pads: u32 = !isLast
      ? 0
      : load<u8>(from + i + 3) !== 0x3d
        ? 0
        : load<u8>(from + i + 2) !== 0x3d
          ? 1
          : 2;
    let group: u32 = 0;
    for (let j: usize = 0; j < 4; j++) {
      const value = j + pads >= 4 ? 0 : sextet(load<u8>(from + i + j));
      if (value > 63) return 0;
      group = (group << 6) | value;
    }
    store<u8>(to + out, (group >> 16) as u8);
    if (pads < 2) store<u8>(to + out + 1, (group >> 8) as u8);
    if (pads < 1) store<u8>(to + out + 2, group as u8);
    out += 3 - pads;
  }
  return out;
}

function sextet(c: u8): u32 {
  if (c >= 0x41 && c <= 0x5a) return c - 0x41;
  if (c >= 0x61 && c <= 0x7a) return c - 0x61 + 26;
  if (c >= 0x30 && c <= 0x39) return c - 0x30 + 52;
  if (c === 0x2b) return 62;
  if (c === 0x2f) return 63;
  return 64;
}
