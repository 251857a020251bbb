/**
 * The process's register of chains, in the host's shared data: what each VM last made and had receipted. A new VM, after a
 * trap or a code update, names in its `open` what it finds. Hints only: nothing tells a VM whose successor it is.
 */
import { CHAIN_BYTES, DIGEST_BYTES, MAX_HINTS } from "../record/fields";
import * as host from "./host";
import { Text } from "./host";

const TRIES: i32 = 3;

// A row: chain id, next seq, seq receipted, time of the last change in microseconds, head. Little-endian.
const NEXT_AT: usize = 16;
const RECEIPTED_AT: usize = 24;
const TIME_AT: usize = 32;
const HEAD_AT: usize = 40;
const ROW: usize = 72;
const MOST: usize = MAX_HINTS as usize;

const KEY = new Text("meshseal/v1/chains");
const ROWS: usize = memory.data(4608, 16);

/** Rows that `read` found. */
export let count: usize = 0;
let cas: u32 = 0;

let notedNext: u64 = 0;
let notedFirst: u64 = 0;

/** Reads the register. False where the host has none: the count is then 0. */
export function read(): bool {
  count = 0;
  const isThere = host.sharedData(KEY.at, KEY.bytes);
  cas = host.cas;
  if (!isThere) return false;
  count = min(host.size / ROW, MOST);
  memory.copy(ROWS, host.data, count * ROW);
  return true;
}

/** The id of row `i`, and the next seq noted there. */
export function idAt(i: usize): usize {
  return ROWS + i * ROW;
}

export function nextSeqAt(i: usize): u64 {
  return load<u64>(ROWS + i * ROW + NEXT_AT);
}

/** Notes our chain, if it has changed. A row that is fully receipted when it ends is taken out. */
export function note(id: usize, next: u64, first: u64, head: usize, now: u64, isOver: bool): void {
  if (!isOver && next === notedNext && first === notedFirst) return;
  for (let i = 0; i < TRIES; i++) {
    read();
    let at = rowOf(id);
    if (isOver && next === first) {
      if (at === 0) return;
      count--;
      memory.copy(at, ROWS + count * ROW, ROW);
    } else {
      if (at === 0) at = newRow();
      memory.copy(at, id, CHAIN_BYTES);
      store<u64>(at + NEXT_AT, next);
      store<u64>(at + RECEIPTED_AT, first);
      store<u64>(at + TIME_AT, now);
      memory.copy(at + HEAD_AT, head, DIGEST_BYTES);
    }
    const status = host.setSharedData(KEY.at, KEY.bytes, ROWS, (count * ROW) as u32, cas);
    if (status === host.OK) {
      notedNext = next;
      notedFirst = first;
    }
    if (status !== host.CAS_MISMATCH) return;
  }
}

function rowOf(id: usize): usize {
  for (let i: usize = 0; i < count; i++) {
    if (memory.compare(ROWS + i * ROW, id, CHAIN_BYTES) === 0) return ROWS + i * ROW;
  }
  return 0;
}

/** A row at the end, or in place of the one that is silent for longest. */
function newRow(): usize {
  if (count < MOST) return ROWS + count++ * ROW;
  let oldest = ROWS;
  for (let i: usize = 1; i < count; i++) {
    const at = ROWS + i * ROW;
    if (load<u64>(at + TIME_AT) < load<u64>(oldest + TIME_AT)) oldest = at;
  }
  return oldest;
}
