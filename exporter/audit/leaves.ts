/** The leaves of a log: each entry against its hash, and against the entry before it in its chain. */
import { HASH_BYTES, leafHash } from "../log/merkle.ts";
import { TILE_WIDTH, tilePath } from "../log/tile.ts";
import type { ChainWalk } from "./chains.ts";
import type { Findings } from "./report.ts";
import type { Source } from "./source.ts";
import { levelOf, SPAN_ENTRIES, SPAN_TILES } from "./span.ts";
import { readSpans } from "./spans.ts";
import type { Tiles } from "./tiles.ts";

export type LeafOptions = {
  /** Threads to read with; if absent, as many as there are cores, and one for a small log. */
  readonly threads?: number;
  /** Gets the number of entries that were checked so far. */
  readonly onProgress?: (done: number, total: number) => void;
};

/**
 * Every entry against its leaf hash in level 0, and every chain through them. Returns the indexes of tiles of level 1 that
 * may not have the roots of those below them.
 */
export async function checkLeaves(
  source: Source,
  tiles: Tiles,
  walk: ChainWalk,
  findings: Findings,
  options: LeafOptions,
): Promise<Set<number>> {
  const wrong = new Set<number>();
  let index = 0;
  for await (const span of readSpans(source, tiles, options.threads)) {
    if (span === null || !walk.join(span)) {
      await checkEntries(tiles, index * SPAN_TILES, walk, findings, options);
    } else {
      for (const [i, time] of span.newest.entries()) walk.newest[index * SPAN_TILES + i] = time;
    }
    if (!span?.isLevelRight) wrong.add(levelOf(index));
    index++;
    options.onProgress?.(Math.min(index * SPAN_ENTRIES, tiles.size), tiles.size);
  }
  return wrong;
}

/** The entries of a span, from `firstTile` on, one by one. */
async function checkEntries(
  tiles: Tiles,
  firstTile: number,
  walk: ChainWalk,
  findings: Findings,
  options: LeafOptions,
): Promise<void> {
  const end = Math.min(firstTile + SPAN_TILES, Math.ceil(tiles.size / TILE_WIDTH));
  for (let tile = firstTile; tile < end; tile++) {
    const first = tile * TILE_WIDTH;
    const { width } = tiles.tileAt("entries", tile);
    const isPruned = first < tiles.first;
    const [hashes, bundle] = await Promise.all([
      tiles.hashes(0, tile),
      isPruned ? null : tiles.bundle(tile),
    ]);
    if (hashes === null) {
      const file = tilePath(tiles.tileAt(0, tile));
      findings.add({
        severity: "tampered",
        cause: "tile-missing",
        index: first,
        file,
        message: `${file} is missing or of a wrong length`,
      });
    }
    if (isPruned) continue;
    const file = tilePath(tiles.tileAt("entries", tile));
    if (bundle === null) {
      findings.add({
        severity: "tampered",
        cause: "bundle-missing",
        index: first,
        file,
        message: `${file} is missing or too long`,
      });
      continue;
    }
    let at = 0;
    for (let i = 0; i < width; i++) {
      const index = first + i;
      const length = at + 2 <= bundle.length ? bundle.readUInt16BE(at) : -1;
      if (length < 0 || at + 2 + length > bundle.length) {
        findings.add({
          severity: "tampered",
          cause: "entry",
          index,
          file,
          message: `entry ${index} is cut off in ${file}`,
        });
        at = bundle.length;
        break;
      }
      const entry = bundle.subarray(at + 2, at + 2 + length);
      at += 2 + length;
      const digest = leafHash(entry);
      if (
        hashes !== null &&
        hashes.compare(digest, 0, HASH_BYTES, i * HASH_BYTES, (i + 1) * HASH_BYTES) !== 0
      ) {
        const message = `entry ${index} is not the one in the tree: its hash and its leaf differ`;
        findings.add({ severity: "tampered", cause: "entry", index, file, message });
        continue;
      }
      walk.visit(entry, digest, index);
    }
    if (at !== bundle.length) {
      findings.add({
        severity: "tampered",
        cause: "surplus",
        index: first + width - 1,
        file,
        message: `${file} has bytes behind its last entry`,
      });
    }
    options.onProgress?.(first + width, tiles.size);
  }
}
