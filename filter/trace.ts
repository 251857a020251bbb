/** The trace that a request belongs to: W3C traceparent (https://www.w3.org/TR/trace-context/), or Zipkin's B3 headers. */
import { F_SPAN_ID, F_TRACE_FLAGS, F_TRACE_ID, SPAN_BYTES, TRACE_BYTES } from "../record/fields";
import { readHex } from "./connections";
import { putBytes, putUint } from "./entry";
import { B3, B3_SAMPLED, B3_SPAN, B3_TRACE, Headers, TRACEPARENT } from "./headers";

const TRACE: usize = memory.data(16, 16);
const SPAN: usize = memory.data(8, 8);
const FLAGS: usize = memory.data(1, 1);
const DASH: u8 = 0x2d;
const NO_FLAGS: u32 = 256;

/** Writes what the headers say. What is not well formed is not written: no reader could use it. */
export function put(request: Headers): void {
  if (request.has(TRACEPARENT)) {
    const at = request.at(TRACEPARENT);
    // version "-" 32 "-" 16 "-" 2, and more only in versions after 00.
    const bytes = request.bytes(TRACEPARENT);
    const isShaped =
      bytes >= 55 &&
      load<u8>(at + 2) === DASH &&
      load<u8>(at + 35) === DASH &&
      load<u8>(at + 52) === DASH &&
      (bytes === 55 || load<u8>(at + 55) === DASH) &&
      load<u16>(at) !== 0x6666;
    if (!isShaped || !readHex(at + 3, TRACE_BYTES, TRACE) || !readHex(at + 36, SPAN_BYTES, SPAN))
      return;
    write(readHex(at + 53, 1, FLAGS) ? (load<u8>(FLAGS) as u32) : NO_FLAGS);
  } else if (request.has(B3)) readB3(request.at(B3), request.bytes(B3));
  else if (request.has(B3_TRACE)) {
    const isRead =
      readTrace(request.at(B3_TRACE), request.bytes(B3_TRACE)) &&
      request.bytes(B3_SPAN) === 2 * SPAN_BYTES &&
      readHex(request.at(B3_SPAN), SPAN_BYTES, SPAN);
    if (isRead)
      write(request.bytes(B3_SAMPLED) === 0 ? NO_FLAGS : sampled(load<u8>(request.at(B3_SAMPLED))));
  }
}

/** trace "-" span, then perhaps "-" sampled and more. */
function readB3(at: usize, bytes: u32): void {
  let dash: u32 = 0;
  while (dash < bytes && load<u8>(at + dash) !== DASH) dash++;
  const after = dash + 1 + 2 * SPAN_BYTES;
  if (after > bytes || !readTrace(at, dash) || !readHex(at + dash + 1, SPAN_BYTES, SPAN)) return;
  const hasSampled = after + 1 < bytes && load<u8>(at + after) === DASH;
  write(hasSampled ? sampled(load<u8>(at + after + 1)) : NO_FLAGS);
}

/** 1, d (debug) and true mean sampled. */
function sampled(c: u8): u32 {
  return c === 0x31 || c === 0x64 || c === 0x74 ? 1 : 0;
}

/** 32 digits, or 16 that stand for the lower half. */
function readTrace(at: usize, digits: u32): bool {
  if (digits === 2 * TRACE_BYTES) return readHex(at, TRACE_BYTES, TRACE);
  if (digits !== TRACE_BYTES) return false;
  store<u64>(TRACE, 0);
  return readHex(at, TRACE_BYTES / 2, TRACE + TRACE_BYTES / 2);
}

function write(flags: u32): void {
  if ((load<u64>(TRACE) | load<u64>(TRACE, 8)) === 0 || load<u64>(SPAN) === 0) return;
  putBytes(F_TRACE_ID, TRACE, TRACE_BYTES, TRACE_BYTES);
  putBytes(F_SPAN_ID, SPAN, SPAN_BYTES, SPAN_BYTES);
  if (flags !== NO_FLAGS) putUint(F_TRACE_FLAGS, flags);
}
