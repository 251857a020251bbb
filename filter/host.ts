/**
 * The host: Proxy-Wasm 0.2.1 as Envoy gives it. What a host call returns lies in the arena, which is emptied at the start
 * of each callback: nothing is garbage-collected, and nothing read from the host outlives its callback.
 */
import {
  proxy_call_foreign_function,
  proxy_define_metric,
  proxy_get_buffer_bytes,
  proxy_get_current_time_nanoseconds,
  proxy_get_header_map_pairs,
  proxy_get_property,
  proxy_get_shared_data,
  proxy_log,
  proxy_replace_header_map_value,
  proxy_set_shared_data,
} from "@solo-io/proxy-runtime/assembly/imports";
import { random_get } from "./wasi";

export const OK: u32 = 0;
export const CAS_MISMATCH: u32 = 8;
export const WARN: u32 = 3;
export const ERROR: u32 = 4;

export const REQUEST_HEADERS: i32 = 0;
export const RESPONSE_HEADERS: i32 = 2;
export const CALL_RESPONSE_HEADERS: i32 = 6;
export const REQUEST_BODY: i32 = 0;
export const RESPONSE_BODY: i32 = 1;
const PLUGIN_CONFIGURATION: i32 = 7;

// All that one callback can be given by the host; header blocks are at most some 100 KB in Envoy's defaults.
const ARENA_BYTES: usize = 2 << 20;
const ARENA: usize = memory.data(2 << 20, 16);
let used: usize = 0;

/** Where the last call that returns data put it, and how long it is. */
export let data: usize = 0;
export let size: usize = 0;
const DATA: usize = memory.data(4, 4);
const SIZE: usize = memory.data(4, 4);
const CAS: usize = memory.data(4, 4);
const CLOCK: usize = memory.data(8, 8);

/** What shared data was read at: a write that names it fails with CAS_MISMATCH if another came between. 0 writes over anything. */
export let cas: u32 = 0;

/** The host asks for room. Beyond the arena it comes from the heap and stays there: that is bounded by what Envoy lets in. */
export function allocate(bytes: usize): usize {
  const at = (used + 15) & ~15;
  if (at + bytes > ARENA_BYTES) return heap.alloc(bytes);
  used = at + bytes;
  return ARENA + at;
}

/** Empties the arena: at the start of each callback. */
export function begin(): void {
  used = 0;
}

function take(status: u32): bool {
  data = load<u32>(DATA);
  size = load<u32>(SIZE);
  return status === OK;
}

/** Reads an attribute of the current stream, its path's parts each behind a NUL. False if it is absent. */
export function property(path: usize, bytes: usize): bool {
  return take(proxy_get_property(path, bytes, DATA, SIZE));
}

/** Reads a header map as the host serialises it (see `Pairs`). */
export function headerPairs(map: i32): bool {
  return take(proxy_get_header_map_pairs(map, DATA, SIZE));
}

/** Calls a function of Envoy's own: `expr_create`, `expr_evaluate`. */
export function foreign(name: usize, nameBytes: usize, argument: usize, bytes: usize): bool {
  store<u32>(DATA, 0);
  store<u32>(SIZE, 0);
  return take(proxy_call_foreign_function(name, nameBytes, argument, bytes, DATA, SIZE));
}

/** Reads a part of what passes of a body. */
export function body(which: i32, start: u32, bytes: u32): bool {
  return take(proxy_get_buffer_bytes(which, start, bytes, DATA, SIZE));
}

/** Sets a header of the response that is on its way to the client. */
export function setResponseHeader(name: Text, value: usize, bytes: usize): bool {
  const status = proxy_replace_header_map_value(
    RESPONSE_HEADERS,
    name.at,
    name.bytes,
    value,
    bytes,
  );
  return status === OK;
}

/** Reads the plugin's configuration. */
export function configuration(bytes: u32): bool {
  data = 0;
  size = 0;
  if (bytes === 0) return true;
  return take(proxy_get_buffer_bytes(PLUGIN_CONFIGURATION, 0, bytes, DATA, SIZE));
}

/** Reads a value of the process's shared data. False, and nothing read, if there is none. */
export function sharedData(key: usize, bytes: usize): bool {
  store<u32>(DATA, 0);
  store<u32>(SIZE, 0);
  cas = 0;
  if (!take(proxy_get_shared_data(key, bytes, DATA, SIZE, CAS))) return false;
  cas = load<u32>(CAS);
  return true;
}

/** Writes a value of the process's shared data. Returns the host's status. */
export function setSharedData(
  key: usize,
  keyBytes: usize,
  from: usize,
  bytes: usize,
  expected: u32,
): u32 {
  return proxy_set_shared_data(key, keyBytes, from, bytes, expected);
}

/** Microseconds since 1970, or 0 where the host has no clock. */
export function now(): u64 {
  return nanoseconds() / 1000;
}

/** Nanoseconds since 1970, or 0 where the host has no clock. */
export function nanoseconds(): u64 {
  return proxy_get_current_time_nanoseconds(CLOCK) === OK ? load<u64>(CLOCK) : 0;
}

/** Fills with random bytes. False where the host gives none: under a capability list that leaves it out. */
export function random(to: usize, bytes: usize): bool {
  return random_get(to, bytes) === OK;
}

/** Writes to Envoy's log. */
export function log(level: u32, text: string): void {
  const bytes = String.UTF8.encode(text);
  // There is nowhere to report a failure to.
  proxy_log(level, changetype<usize>(bytes), bytes.byteLength);
}

/** Returns a metric's id, or u32.MAX_VALUE where the host refuses it. */
export function defineMetric(kind: i32, name: string): u32 {
  const bytes = String.UTF8.encode(name);
  const status = proxy_define_metric(kind, changetype<usize>(bytes), bytes.byteLength, DATA);
  return status === OK ? load<u32>(DATA) : u32.MAX_VALUE;
}

/** Bytes of a text that lives as long as the module. */
export class Text {
  at: usize;
  bytes: u32;
  constructor(text: string) {
    this.bytes = String.UTF8.byteLength(text) as u32;
    this.at = heap.alloc(this.bytes + 1);
    String.UTF8.encodeUnsafe(changetype<usize>(text), text.length, this.at);
  }
}

/** Tells if the bytes are those of an ASCII text. */
export function isText(at: usize, bytes: usize, text: Text): bool {
  return bytes === (text.bytes as usize) && memory.compare(at, text.at, bytes) === 0;
}
