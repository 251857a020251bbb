/** The tree over the leaves (RFC 6962): its levels, its root, and what others were told of it earlier. */
import type { Checkpoint } from "../log/checkpoint.ts";
import { HASH_BYTES } from "../log/merkle.ts";
import { hashesAtLevel, TILE_WIDTH, tilePath, tileRoot } from "../log/tile.ts";
import type { ChainWalk } from "./chains.ts";
import type { Findings } from "./report.ts";
import type { Tiles } from "./tiles.ts";

/** Every hash of level n + 1 against the full tile of level n below it; of level 1 only those in `wrong`. */
export async function checkLevels(
  tiles: Tiles,
  wrong: ReadonlySet<number>,
  findings: Findings,
): Promise<void> {
  for (let level = 1; hashesAtLevel(tiles.size, level) > 0; level++) {
    for (let index = 0; index * TILE_WIDTH < hashesAtLevel(tiles.size, level); index++) {
      if (level === 1 && !wrong.has(index)) continue;
      const tile = tiles.tileAt(level, index);
      const file = tilePath(tile);
      const hashes = await tiles.hashes(level, index);
      if (hashes === null) {
        findings.add({
          severity: "tampered",
          cause: "tile-missing",
          file,
          message: `${file} is missing or of a wrong length`,
        });
        continue;
      }
      for (let i = 0; i < tile.width; i++) {
        const below = await tiles.hashes(level - 1, index * TILE_WIDTH + i);
        if (below === null) continue;
        if (
          hashes.compare(tileRoot(below), 0, HASH_BYTES, i * HASH_BYTES, (i + 1) * HASH_BYTES) !== 0
        ) {
          const under = tilePath({
            level: level - 1,
            index: index * TILE_WIDTH + i,
            width: TILE_WIDTH,
          });
          findings.add({
            severity: "tampered",
            cause: "tile",
            file,
            message: `${file} and ${under} contradict each other`,
          });
        }
      }
    }
  }
}

export async function checkRoot(
  tiles: Tiles,
  { size, root }: Checkpoint,
  findings: Findings,
): Promise<void> {
  const found = await tiles.root(size);
  if (found !== null && !Buffer.from(found).equals(root)) {
    const message = "the tiles do not give the root that the checkpoint signs";
    findings.add({ severity: "tampered", cause: "root", file: "checkpoint", message });
  }
}

/** The trees that receipts inside entries speak of: each proxy is a small witness. */
export async function checkClaims(
  tiles: Tiles,
  walk: ChainWalk,
  findings: Findings,
): Promise<void> {
  for (const { index, treeSize, root } of walk.claims.values()) {
    const found = treeSize > tiles.size ? null : await tiles.root(treeSize);
    if (treeSize > tiles.size || (found !== null && !Buffer.from(found).equals(root))) {
      const message = `entry ${index} holds a receipt for a tree of ${treeSize} leaves that this log contradicts`;
      findings.add({ severity: "tampered", cause: "receipt-contradicted", index, message });
    }
  }
}
