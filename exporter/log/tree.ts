/**
 * The right edge of a log's tree: what is needed to append leaves, to cut them into tiles, and to know the root.
 * Pure. Memory is one tile a level, and the bundle that is being filled.
 */
import { HASH_BYTES, rangeRoot } from "./merkle.ts";
import { TILE_WIDTH, type Tile, tileRoot } from "./tile.ts";

const TILE_BYTES = TILE_WIDTH * HASH_BYTES;

export type TileBytes = { readonly tile: Tile; readonly bytes: Buffer };

type Edge = { readonly hashes: Buffer; count: number; index: number };

/** Grows by `append`; `full` gets each tile and bundle once, when its last place is taken. */
export class Tree {
  size = 0;
  #edges: Edge[] = [];
  #bundle: Buffer[] = [];
  readonly #full: (made: TileBytes) => void;

  constructor(full: (made: TileBytes) => void) {
    this.#full = full;
  }

  /** Appends a leaf. Copies the hash; keeps `prefixed`, the entry behind its length as a bundle has it. */
  append(leaf: Uint8Array, prefixed: Buffer): void {
    this.#bundle.push(prefixed);
    const index = Math.floor(this.size / TILE_WIDTH);
    this.size++;
    if (this.#bundle.length === TILE_WIDTH) {
      const tile: Tile = { level: "entries", index, width: TILE_WIDTH };
      this.#full({ tile, bytes: Buffer.concat(this.#bundle) });
      this.#bundle = [];
    }
    this.#add(0, leaf);
  }

  /** Takes up a tree of `size` whose partial tiles and bundle are given by `read`; their widths are right. */
  restore(size: number, edges: readonly Buffer[], bundle: readonly Buffer[]): void {
    this.size = size;
    this.#bundle = [...bundle];
    this.#edges = edges.map((hashes, level) => {
      const all = Buffer.alloc(TILE_BYTES);
      all.set(hashes);
      const index = Math.floor(size / TILE_WIDTH ** (level + 1));
      return { hashes: all, count: hashes.length / HASH_BYTES, index };
    });
  }

  /** Returns the partial tiles and the partial bundle of the tree as it is, as copies. */
  partials(): TileBytes[] {
    const made: TileBytes[] = [];
    if (this.#bundle.length > 0) {
      const index = Math.floor(this.size / TILE_WIDTH);
      const tile: Tile = { level: "entries", index, width: this.#bundle.length };
      made.push({ tile, bytes: Buffer.concat(this.#bundle) });
    }
    for (const [level, { hashes, count, index }] of this.#edges.entries()) {
      if (count === 0) continue;
      const bytes = Buffer.from(hashes.subarray(0, count * HASH_BYTES));
      made.push({ tile: { level, index, width: count }, bytes });
    }
    return made;
  }

  /** Returns the root of the tree as it is. */
  root(): Uint8Array {
    return rangeRoot(0, this.size, (height, index) => {
      // A complete subtree on the edge is 2^rest hashes side by side in the edge's tile of its level.
      const level = Math.floor(height / 8);
      const rest = height % 8;
      const edge = this.#edges[level];
      if (edge === undefined) throw new Error(`no level ${level} in a tree of ${this.size}`);
      const first = index * 2 ** rest - edge.index * TILE_WIDTH;
      return tileRoot(edge.hashes.subarray(first * HASH_BYTES, (first + 2 ** rest) * HASH_BYTES));
    });
  }

  #add(level: number, hash: Uint8Array): void {
    let edge = this.#edges[level];
    if (edge === undefined) {
      edge = { hashes: Buffer.alloc(TILE_BYTES), count: 0, index: 0 };
      this.#edges.push(edge);
    }
    edge.hashes.set(hash, edge.count * HASH_BYTES);
    edge.count++;
    if (edge.count < TILE_WIDTH) return;
    const bytes = Buffer.from(edge.hashes);
    this.#full({ tile: { level, index: edge.index, width: TILE_WIDTH }, bytes });
    edge.count = 0;
    edge.index++;
    this.#add(level + 1, tileRoot(bytes));
  }
}
