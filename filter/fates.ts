/** What became of requests whose end was seen: written, missed, refused. What was missed is chained as gaps. FORMAT.md section 2. */
import {
  F_GAP_CAUSE,
  F_GAP_COUNT,
  F_GAP_FROM,
  F_GAP_TO,
  F_STREAMS,
  F_STREAMS_MISSED,
  F_STREAMS_REFUSED,
  F_STREAMS_WRITTEN,
  GAP_BEST_EFFORT,
  GAP_BUFFER_FULL,
  KIND_GAP,
} from "../record/fields";
import { ENTRY_PREFIX_BYTES } from "../record/wire";
import { ENVELOPE_BYTES, FIELD_BYTES, putUint } from "./entry";
import * as link from "./link";
import * as metrics from "./metrics";

/** What `putCounts` writes at most. */
export const COUNTS_BYTES: usize = (4 * FIELD_BYTES) as usize;
const GAP_BYTES: usize = (ENVELOPE_BYTES + 4 * FIELD_BYTES) as usize;
/** What `writeGaps` needs at most. */
export const GAPS_BYTES: usize = 3 * (GAP_BYTES + (ENTRY_PREFIX_BYTES as usize));

let written: u64 = 0;
let missed: u64 = 0;
let refused: u64 = 0;

/** Requests that wait to be chained as a gap: all, and by cause. */
export let gapCount: u64 = 0;
const CAUSES: i32 = 4;
const GAP_COUNT: StaticArray<u64> = new StaticArray<u64>(CAUSES);
const GAP_FROM: StaticArray<u64> = new StaticArray<u64>(CAUSES);
const GAP_TO: StaticArray<u64> = new StaticArray<u64>(CAUSES);

/** Counts a request whose entry was made at its end. */
export function write(): void {
  written++;
  metrics.requests.add(1);
}

/** Counts a request that could not be written, for the reason that its entry's begin met. */
export function miss(now: u64): void {
  const cause = link.cause as i32;
  if (unchecked(GAP_COUNT[cause]) === 0) unchecked((GAP_FROM[cause] = now));
  unchecked((GAP_TO[cause] = now));
  unchecked(GAP_COUNT[cause]++);
  gapCount++;
  missed++;
  metrics.gapRequests.add(1);
  if (cause === (GAP_BUFFER_FULL as i32)) metrics.gapBufferFull.add(1);
  else if (cause === (GAP_BEST_EFFORT as i32)) metrics.gapBestEffort.add(1);
  else metrics.gapHostFailed.add(1);
}

/** Counts a request that `enforced` delivery refused. Its entry is made like any other's. */
export function refuse(): void {
  refused++;
  metrics.enforcedRefusals.add(1);
}

/** Chains what was missed, an entry a cause. */
export function writeGaps(now: u64): bool {
  for (let i = 1; i < CAUSES; i++) {
    const count = unchecked(GAP_COUNT[i]);
    if (count === 0) continue;
    if (!link.begin(KIND_GAP, GAP_BYTES, now)) return false;
    putUint(F_GAP_COUNT, count);
    putUint(F_GAP_FROM, unchecked(GAP_FROM[i]));
    putUint(F_GAP_TO, unchecked(GAP_TO[i]));
    putUint(F_GAP_CAUSE, i);
    link.finish();
    gapCount -= count;
    unchecked((GAP_COUNT[i] = 0));
  }
  return true;
}

/** Writes how many requests ended, and what became of them: for comparison with Envoy's own counters. */
export function putCounts(): void {
  putUint(F_STREAMS, written + missed);
  putUint(F_STREAMS_WRITTEN, written);
  putUint(F_STREAMS_MISSED, missed);
  putUint(F_STREAMS_REFUSED, refused);
}
