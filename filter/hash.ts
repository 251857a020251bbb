/** Values as hashes: the first 16 bytes of their HMAC-SHA-256 under the configured key. FORMAT.md section 3.7. */
import { F_HASH_KEY, HASH_BYTES, MAX_KEY_NAME } from "../record/fields";
import { putBytes } from "./entry";
import { hmac, Key } from "./hmac";
import { hexOf } from "./receipt";

let key: Key | null = null;
let isUsed: bool = false;

const DIGEST: usize = memory.data(32, 16);
/** Where `hex` leaves the hash, 32 digits. */
export const HEX: usize = memory.data(32, 16);

export function prepare(configured: Key | null): void {
  key = configured;
}

/** Begins an entry: no hash is in it yet. */
export function begin(): void {
  isUsed = false;
}

export function hasKey(): bool {
  return key !== null;
}

/** Hashes a value. Without a key nothing can be hashed, and nothing is. */
function digest(from: usize, bytes: u32): void {
  const current = key;
  if (current === null) return;
  hmac(current.block, from, bytes, DIGEST);
  isUsed = true;
}

/** Writes a value as a field of HASH_BYTES. */
export function put(number: u32, from: usize, bytes: u32): void {
  if (!hasKey()) return;
  digest(from, bytes);
  putBytes(number, DIGEST, HASH_BYTES, HASH_BYTES);
}

/** Leaves the hash of a value in HEX. */
export function hex(from: usize, bytes: u32): void {
  digest(from, bytes);
  for (let i: usize = 0; i < (HASH_BYTES as usize); i++) {
    const byte = load<u8>(DIGEST + i);
    store<u8>(HEX + 2 * i, hexOf(byte >> 4));
    store<u8>(HEX + 2 * i + 1, hexOf(byte & 15));
  }
}

/** Says which key the hashes of this entry were made with, if there are any. */
export function putKey(): void {
  const current = key;
  if (current !== null && isUsed)
    putBytes(F_HASH_KEY, current.id.at, current.id.bytes, MAX_KEY_NAME);
}
