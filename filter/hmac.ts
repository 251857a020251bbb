/** HMAC-SHA-256 (RFC 2104, FIPS 198-1), and keys as text: an id, a colon, and the key in hex. */
import { allocate, Text } from "./host";
import { sha256 } from "./sha256";

const BLOCK: usize = 64;
const DIGEST: usize = 32;

/** 128 bits at least; 64 bytes at most, so that no key needs hashing first. */
const MIN_KEY_BYTES: i32 = 16;
const MAX_KEY_BYTES: i32 = 64;
const MAX_ID_CHARACTERS: i32 = 64;

/** A secret with a name. Lives as long as the module. */
export class Key {
  id: Text;
  /** The key, filled up with zeros to a block. */
  block: usize = 0;
  constructor(id: string) {
    this.id = new Text(id);
    this.block = heap.alloc(BLOCK);
    memory.fill(this.block, 0, BLOCK);
  }
}

/** What `readKey` takes, for the sentence that refuses anything else. */
export const KEY_FORM: string =
  "ID:HEX, an id of 1 to 64 letters, digits, '.', '_' or '-', and 32 to 128 hex digits";

/** Returns the key in `text`, which may end with white space as files do; null unless it is KEY_FORM. */
export function readKey(text: string): Key | null {
  const value = text.trimEnd();
  const colon = value.indexOf(":");
  if (colon < 1 || colon > MAX_ID_CHARACTERS) return null;
  for (let i = 0; i < colon; i++) if (!isIdCharacter(value.charCodeAt(i))) return null;
  const digits = value.length - colon - 1;
  if ((digits & 1) !== 0 || digits < 2 * MIN_KEY_BYTES || digits > 2 * MAX_KEY_BYTES) return null;
  const key = new Key(value.substring(0, colon));
  for (let i = 0; i < digits; i += 2) {
    const high = hexValue(value.charCodeAt(colon + 1 + i));
    const low = hexValue(value.charCodeAt(colon + 2 + i));
    if (high < 0 || low < 0) return null;
    store<u8>(key.block + (i >> 1), ((high << 4) | low) as u8);
  }
  return key;
}

function isIdCharacter(c: i32): bool {
  const isDigit = c >= 0x30 && c <= 0x39;
  const isLetter = (c >= 0x41 && c <= 0x5a) || (c >= 0x61 && c <= 0x7a);
  return isDigit || isLetter || c === 0x2e || c === 0x5f || c === 0x2d;
}

/** Returns the value of a hex digit, or -1. */
export function hexValue(c: i32): i32 {
  if (c >= 0x30 && c <= 0x39) return c - 0x30;
  if (c >= 0x61 && c <= 0x66) return c - 0x57;
  if (c >= 0x41 && c <= 0x46) return c - 0x37;
  return -1;
}

/** Writes HMAC-SHA-256 of the `bytes` bytes from `from` to `to`, 32 bytes. `key` is a block of 64 bytes. */
export function hmac(key: usize, from: usize, bytes: u32, to: usize): void {
  const inner = allocate(BLOCK + bytes);
  for (let i: usize = 0; i < BLOCK; i += 4) store<u32>(inner + i, load<u32>(key + i) ^ 0x36363636);
  memory.copy(inner + BLOCK, from, bytes);
  const outer = allocate(BLOCK + DIGEST);
  for (let i: usize = 0; i < BLOCK; i += 4) store<u32>(outer + i, load<u32>(key + i) ^ 0x5c5c5c5c);
  sha256(inner, (BLOCK as u32) + bytes, outer + BLOCK);
  sha256(outer, (BLOCK + DIGEST) as u32, to);
}
