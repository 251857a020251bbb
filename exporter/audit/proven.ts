/**
 * Reads entries and hashes of a log so that each is proved to be below a root that is known from elsewhere: whoever can change files
 * can have nothing else read. The tiles on the right edge give the root; every other tile is held against its hash in the one above.
 */
import { hashBundle } from "../log/hasher.ts";
import { equalBytes, HASH_BYTES, rangeRoot } from "../log/merkle.ts";
import { hashesAtLevel, TILE_WIDTH, tileRoot } from "../log/tile.ts";
import type { Tiles } from "./tiles.ts";

/** Full tiles kept, from level 1 on. */
const CACHED = 64;

export class ProvenTiles {
  readonly tiles: Tiles;
  /** The partial tile of each level, and the partial bundle: they give way when the log grows. */
  readonly #edge = new Map<number, Buffer>();
  #last: Buffer | null = null;
  readonly #cache = new Map<string, Buffer>();

  private constructor(tiles: Tiles) {
    this.tiles = tiles;
  }

  /** Resolves to null where the right edge is not there, or does not give `root`. */
  static async open(tiles: Tiles, root: Uint8Array): Promise<ProvenTiles | null> {
    const proven = new ProvenTiles(tiles);
    return (await proven.#open(root)) ? proven : null;
  }

  async #open(root: Uint8Array): Promise<boolean> {
    const { size } = this.tiles;
    for (let level = 0; hashesAtLevel(size, level) > 0; level++) {
      const count = hashesAtLevel(size, level);
      if (count % TILE_WIDTH === 0) continue;
      const hashes = await this.tiles.hashes(level, Math.floor(count / TILE_WIDTH));
      if (hashes === null) return false;
      this.#edge.set(level, hashes);
    }
    if (size % TILE_WIDTH > 0) {
      this.#last = await this.tiles.bundle(Math.floor(size / TILE_WIDTH));
      if (this.#last === null) return false;
    }
    // Every complete subtree on the edge is in the partial tile of its level.
    const found = rangeRoot(0, size, (height, index) => {
      const edge = this.#edge.get(Math.floor(height / 8)) ?? Buffer.alloc(0);
      const width = 2 ** (height % 8);
      const at = ((index * width) % TILE_WIDTH) * HASH_BYTES;
      return tileRoot(edge.subarray(at, at + width * HASH_BYTES));
    });
    return equalBytes(found, root);
  }

  /** Resolves to a hash tile; null where it is missing, or not the tree's. */
  async hashes(level: number, index: number): Promise<Buffer | null> {
    const { size } = this.tiles;
    if (index === Math.floor(hashesAtLevel(size, level) / TILE_WIDTH))
      return this.#edge.get(level) ?? null;
    const key = `${level}/${index}`;
    const held = this.#cache.get(key);
    if (held !== undefined) return held;
    const [hashes, above] = await Promise.all([
      this.tiles.hashes(level, index),
      this.hashes(level + 1, Math.floor(index / TILE_WIDTH)),
    ]);
    const at = (index % TILE_WIDTH) * HASH_BYTES;
    if (hashes === null || above === null) return null;
    if (above.compare(tileRoot(hashes), 0, HASH_BYTES, at, at + HASH_BYTES) !== 0) return null;
    if (level > 0) {
      if (this.#cache.size >= CACHED) this.#cache.clear();
      this.#cache.set(key, hashes);
    }
    return hashes;
  }

  /** Resolves to a bundle; null where it is missing, or not the tree's. */
  async bundle(index: number): Promise<Buffer | null> {
    const { tiles } = this;
    const { width } = tiles.tileAt("entries", index);
    const [bundle, hashes] = await Promise.all([
      width < TILE_WIDTH ? this.#last : tiles.bundle(index),
      this.hashes(0, index),
    ]);
    if (bundle === null || hashes === null || !isWhole(bundle, width)) return null;
    return hashBundle(bundle, width).equals(hashes) ? bundle : null;
  }
}

function isWhole(bundle: Buffer, width: number): boolean {
  let at = 0;
  for (let i = 0; i < width; i++) {
    if (at + 2 > bundle.length) return false;
    at += 2 + bundle.readUInt16BE(at);
  }
  return at === bundle.length;
}
