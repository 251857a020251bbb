/** Reads the hash of one leaf from the level 0 tiles (C2SP tlog-tiles), while the log goes on. */
import { setTimeout as delay } from "node:timers/promises";
import type { Store } from "../store/store.ts";
import { HASH_BYTES } from "./merkle.ts";
import { TILE_WIDTH, tilePath } from "./tile.ts";

/** Tries between two publications, and the time between them in milliseconds. */
const TRIES = 20;
const RETRY_MS = 50;

/** Returns 32 bytes, null if the tile is not there. A partial tile may be superseded while it is read: then a wider one is there. */
export async function readLeafDigest(
  store: Pick<Store, "get">,
  size: () => number,
  index: number,
): Promise<Uint8Array | null> {
  const tile = Math.floor(index / TILE_WIDTH);
  const at = (index % TILE_WIDTH) * HASH_BYTES;
  for (let tries = 0; tries < TRIES; tries++) {
    for (const width of [Math.min(TILE_WIDTH, size() - tile * TILE_WIDTH), TILE_WIDTH]) {
      const bytes = await store.get(tilePath({ level: 0, index: tile, width }));
      if (bytes !== null && at < bytes.length) return bytes.subarray(at, at + HASH_BYTES);
    }
    await delay(RETRY_MS);
  }
  return null;
}
