/**
 * What is kept of a stream while it runs, in the build with all callbacks: an id, and the digests of its bodies. Found by the stream's
 * context, in memory that is used again; there is as much as there ever were streams at a time.
 */
import {
  F_REQUEST_DIGEST,
  F_RESPONSE_DIGEST,
  F_STREAM_ID,
  STREAM_ID_BYTES,
} from "../record/fields";
import { putBytes } from "./entry";
import * as sha256 from "./sha256";

// A stream: usize next, u32 context, u32 flags; 16 bytes of id; two digests under way.
const CONTEXT_AT: usize = 4;
const FLAGS_AT: usize = 8;
const ID_AT: usize = 16;
const REQUEST_AT: usize = 32;
const RESPONSE_AT: usize = 136;
const STREAM: usize = 240;
const AT_A_TIME: i32 = 32;

const HAS_ID: u32 = 1;
const HASHES: u32 = 2;
const REQUEST_ENDED: u32 = 4;
const RESPONSE_ENDED: u32 = 8;

/** Streams by the low bits of their context. */
const BUCKETS: u32 = 1024;
const TABLE: usize = memory.data(4096, 16);
const DIGEST: usize = memory.data(32, 16);
let free: usize = 0;
let count: u32 = 0;

/** The stream that an entry is written of, or 0. */
let current: usize = 0;

function bucket(context: u32): usize {
  return TABLE + 4 * (context & (BUCKETS - 1));
}

/** Returns the stream of a context, 0 if nothing is kept of it. */
export function find(context: u32): usize {
  if (count === 0) return 0;
  let stream: usize = load<u32>(bucket(context));
  while (stream !== 0 && load<u32>(stream, CONTEXT_AT) !== context) stream = load<u32>(stream);
  return stream;
}

/** Begins to keep a stream. */
export function open(context: u32): usize {
  if (free === 0) {
    let at = heap.alloc(STREAM * AT_A_TIME);
    for (let i = 0; i < AT_A_TIME; i++, at += STREAM) {
      store<u32>(at, free as u32);
      free = at;
    }
  }
  const stream = free;
  free = load<u32>(stream);
  store<u32>(stream, load<u32>(bucket(context)));
  store<u32>(bucket(context), stream as u32);
  store<u32>(stream, context, CONTEXT_AT);
  store<u32>(stream, 0, FLAGS_AT);
  count++;
  return stream;
}

/** Makes a context's stream the one that `put` writes of. */
export function select(context: u32): void {
  current = find(context);
}

/** Forgets the selected stream. */
export function close(): void {
  if (current === 0) return;
  let link = bucket(load<u32>(current, CONTEXT_AT));
  while ((load<u32>(link) as usize) !== current) link = load<u32>(link);
  store<u32>(link, load<u32>(current));
  store<u32>(current, free as u32);
  free = current;
  current = 0;
  count--;
}

function flag(stream: usize, bits: u32): void {
  store<u32>(stream, load<u32>(stream, FLAGS_AT) | bits, FLAGS_AT);
}

function has(stream: usize, bits: u32): bool {
  return (load<u32>(stream, FLAGS_AT) & bits) !== 0;
}

/** Where a stream's id stands: 16 random bytes that the caller has put there. */
export function id(stream: usize): usize {
  return stream + ID_AT;
}

export function keepId(stream: usize): void {
  flag(stream, HAS_ID);
}

export function hasId(stream: usize): bool {
  return has(stream, HAS_ID);
}

/** Begins to hash both bodies. */
export function beginBodies(stream: usize): void {
  flag(stream, HASHES);
  sha256.begin(stream + REQUEST_AT);
  sha256.begin(stream + RESPONSE_AT);
}

export function hashes(stream: usize): bool {
  return has(stream, HASHES);
}

/** A part of a body could not be read: neither gets a digest. */
export function giveUpBodies(stream: usize): void {
  store<u32>(stream, load<u32>(stream, FLAGS_AT) & ~HASHES, FLAGS_AT);
}

export function addBody(stream: usize, isRequest: bool, from: usize, bytes: u32): void {
  sha256.update(stream + (isRequest ? REQUEST_AT : RESPONSE_AT), from, bytes);
}

/** A digest is written only of a body whose end was seen. */
export function endBody(stream: usize, isRequest: bool): void {
  flag(stream, isRequest ? REQUEST_ENDED : RESPONSE_ENDED);
}

/** Writes fields 60 to 62 of the selected stream. */
export function put(): void {
  if (current === 0) return;
  if (has(current, HAS_ID))
    putBytes(F_STREAM_ID, current + ID_AT, STREAM_ID_BYTES, STREAM_ID_BYTES);
  if (!has(current, HASHES)) return;
  if (has(current, REQUEST_ENDED)) {
    sha256.end(current + REQUEST_AT, DIGEST);
    putBytes(F_REQUEST_DIGEST, DIGEST, 32, 32);
  }
  if (has(current, RESPONSE_ENDED)) {
    sha256.end(current + RESPONSE_AT, DIGEST);
    putBytes(F_RESPONSE_DIGEST, DIGEST, 32, 32);
  }
}
