/**
 * The service level: how long after an entry was made the first outsider has seen a checkpoint over it. Measured from the
 * times in entries, whichever clock made them, and so from the proxy on. Of many entries a sample is read.
 */
import { Scanner } from "../../record/codec.ts";
import { parseBundle, TILE_WIDTH, tilePath } from "../log/tile.ts";

/** Bundles read of what one anchor newly covers: the first one, where the oldest entries are, and others evenly. */
const MAX_BUNDLES = 8;

/** Resolves to the first `width` entries of a bundle, or null. */
export type ReadBundle = (index: number, width: number) => Promise<readonly Uint8Array[] | null>;

/** Reads bundles out of a log's files right after it had a size: partial, or full by now. */
export function bundlesAt(read: (path: string) => Promise<Uint8Array | null>): ReadBundle {
  return async (index, width) => {
    const tile = { level: "entries", index, width } as const;
    const full = { ...tile, width: TILE_WIDTH };
    const bytes = (await read(tilePath(tile))) ?? (await read(tilePath(full)));
    if (bytes === null) return null;
    return parseBundle(bytes, width) ?? parseBundle(bytes, TILE_WIDTH)?.slice(0, width) ?? null;
  };
}

/** Resolves to the ages in seconds, at `at`, of entries from `from` to below `size` made after `since`; both in Unix milliseconds. */
export async function entryAges(
  bundle: ReadBundle,
  from: number,
  size: number,
  at: number,
  since: number,
  maxBundles: number = MAX_BUNDLES,
): Promise<number[]> {
  const scanner = new Scanner();
  const ages: number[] = [];
  const first = Math.floor(from / TILE_WIDTH);
  const count = Math.ceil(size / TILE_WIDTH) - first;
  const step = Math.max(1, count / maxBundles);
  for (let i = 0; i < count; i += step) {
    const index = first + Math.floor(i);
    const width = Math.min(TILE_WIDTH, size - index * TILE_WIDTH);
    for (const [at_, entry] of ((await bundle(index, width)) ?? []).entries()) {
      if (index * TILE_WIDTH + at_ < from) continue;
      scanner.scan(entry, 0, entry.length);
      if (scanner.time < since * 1000) continue;
      // A clock that is ahead is not faster than time.
      ages.push(Math.max(0, at / 1000 - scanner.time / 1e6));
    }
  }
  return ages;
}
