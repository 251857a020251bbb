/** filter/sha256.ts, filter/hmac.ts and filter/environment.ts alone, for test/hmac.test.ts. Compiled by asc. */
import "../../filter/abort";
import { environment } from "../../filter/environment";
import { hmac, readKey } from "../../filter/hmac";
import * as host from "../../filter/host";
import * as sha256 from "../../filter/sha256";

const KEY: usize = memory.data(64, 16);
const DIGEST: usize = memory.data(32, 16);
const STREAM: usize = memory.data(104, 16);
const INPUT: usize = memory.data(200_000, 16);

export function input(): usize {
  return INPUT;
}

export function digest(): usize {
  return DIGEST;
}

/** The bytes of a key, then those of the message. */
export function run(keyBytes: u32, bytes: u32): void {
  host.begin();
  memory.fill(KEY, 0, 64);
  memory.copy(KEY, INPUT, keyBytes);
  hmac(KEY, INPUT + keyBytes, bytes, DIGEST);
}

/** Reads a key as text; with it, the digest of its id. False if it is none. */
export function read(bytes: u32): bool {
  host.begin();
  const key = readKey(String.UTF8.decodeUnsafe(INPUT, bytes));
  if (key === null) return false;
  hmac(key.block, key.id.at, key.id.bytes, DIGEST);
  return true;
}

/** Looks a variable up, and leaves its value in place of its name. Returns the value's bytes, or -1. */
export function look(bytes: u32): i32 {
  host.begin();
  const value = environment(String.UTF8.decodeUnsafe(INPUT, bytes));
  if (value === null) return -1;
  return String.UTF8.encodeUnsafe(changetype<usize>(value), value.length, INPUT) as i32;
}

/** SHA-256 of the input, added `piece` bytes at a time. */
export function inPieces(bytes: u32, piece: u32): void {
  sha256.begin(STREAM);
  for (let at: u32 = 0; at < bytes; at += piece) {
    sha256.update(STREAM, INPUT + at, min(piece, bytes - at));
  }
  sha256.end(STREAM, DIGEST);
}
