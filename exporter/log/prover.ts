/** Consistency proofs of a log that is in a store. */
import { consistencyProof, HASH_BYTES } from "./merkle.ts";
import { hashesAtLevel, TILE_WIDTH, tilePath, tileRoot } from "./tile.ts";

/** Reads a file of the log, or null where there is none. */
export type ReadTile = (path: string) => Promise<Uint8Array | null>;

/** Resolves to PROOF(oldSize, D[0:size]). Rejects where a tile of the tree of `size` is missing. */
export async function proveConsistency(
  read: ReadTile,
  oldSize: number,
  size: number,
): Promise<Uint8Array[]> {
  // First pass: which subtrees; second: their hashes. consistencyProof itself knows no waiting.
  const wanted = new Map<string, [level: number, index: number]>();
  consistencyProof(oldSize, size, (height, index) => {
    const [level, tile] = placeOf(height, index);
    wanted.set(`${level}/${tile}`, [level, tile]);
    return new Uint8Array(HASH_BYTES);
  });
  const tiles = new Map<string, Uint8Array>();
  for (const [key, [level, index]] of wanted)
    tiles.set(key, await readTile(read, size, level, index));
  return consistencyProof(oldSize, size, (height, index) => {
    const [level, tile] = placeOf(height, index);
    const width = 2 ** (height % 8);
    const at = ((index * width) % TILE_WIDTH) * HASH_BYTES;
    const hashes = tiles.get(`${level}/${tile}`) ?? new Uint8Array();
    return tileRoot(hashes.subarray(at, at + width * HASH_BYTES));
  });
}

/** Returns the level and index of the tile that holds the hashes below a subtree (tlog-tiles). */
function placeOf(height: number, index: number): [number, number] {
  return [Math.floor(height / 8), Math.floor((index * 2 ** (height % 8)) / TILE_WIDTH)];
}

async function readTile(
  read: ReadTile,
  size: number,
  level: number,
  index: number,
): Promise<Uint8Array> {
  const width = Math.min(TILE_WIDTH, hashesAtLevel(size, level) - index * TILE_WIDTH);
  const path = tilePath({ level, index, width });
  // A partial tile may have given way to the full one.
  const bytes = (await read(path)) ?? (await read(tilePath({ level, index, width: TILE_WIDTH })));
  if (bytes === null || bytes.length < width * HASH_BYTES) throw new Error(`${path} is missing`);
  return bytes.subarray(0, width * HASH_BYTES);
}
