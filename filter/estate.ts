/**
 * What VMs left to those that come after them, in the host's shared data: batches that no receipt covers, framed as they would have
 * been sent. With new code by extension discovery Envoy ends a VM at once, and takes its calls with it.
 */
import { BATCH_CHAIN_AT } from "../record/wire";
import * as host from "./host";
import { Text } from "./host";

const TRIES: i32 = 8;

// An item of the list: chain and first seq, as a batch's header has them side by side. Its batch is under the list's key and the item.
const ITEM: usize = 24;
const MOST: usize = 256;

const LIST = new Text("meshseal/v1/left");
const ITEMS: usize = memory.data(6144, 16);
const KEY: usize = memory.data(48, 16);

let count: usize = 0;
let cas: u32 = 0;

/** Reads the list. A host that has none has an empty one. */
function read(): void {
  count = 0;
  const isThere = host.sharedData(LIST.at, LIST.bytes);
  cas = host.cas;
  if (!isThere) return;
  count = min(host.size / ITEM, MOST);
  memory.copy(ITEMS, host.data, count * ITEM);
}

function writeList(): u32 {
  return host.setSharedData(LIST.at, LIST.bytes, ITEMS, (count * ITEM) as u32, cas);
}

/** Writes an item's key. Returns how long it is. */
function keyOf(item: usize): usize {
  memory.copy(KEY, LIST.at, LIST.bytes);
  memory.copy(KEY + LIST.bytes, item, ITEM);
  return (LIST.bytes as usize) + ITEM;
}

/** Leaves a batch. False if there is no room, or the host will not have it. */
export function put(from: usize, bytes: usize): bool {
  const item = from + BATCH_CHAIN_AT;
  if (host.setSharedData(KEY, keyOf(item), from, bytes, 0) !== host.OK) return false;
  for (let i = 0; i < TRIES; i++) {
    read();
    if (count === MOST) return false;
    memory.copy(ITEMS + count++ * ITEM, item, ITEM);
    const status = writeList();
    if (status !== host.CAS_MISMATCH) return status === host.OK;
  }
  return false;
}

/** Takes the batch that was left first: it is then in host.data, and no one else's. False if there is none. */
export function take(): bool {
  for (let i = 0; i < TRIES; i++) {
    read();
    if (count === 0) return false;
    const key = keyOf(ITEMS);
    count--;
    memory.copy(ITEMS, ITEMS + ITEM, count * ITEM);
    const status = writeList();
    if (status === host.CAS_MISMATCH) continue;
    if (status !== host.OK || !host.sharedData(KEY, key)) return false;
    // A key cannot be taken out, only emptied.
    host.setSharedData(KEY, key, KEY, 0, 0);
    return host.size > 0;
  }
  return false;
}
