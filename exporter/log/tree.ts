/**
 * The right edge of a log's tree: what is needed to append leaves, to cut them into tiles, and to know the root.
 * Pure. Memory is one tile a level, and the bundle that is being filled.
 */
import { ENTRY_PREFIX_BYTES } from "../../record/wire.ts";
import { HASH_BYTES, rangeRoot } from "./merkle.ts";
import { Packer } from "./packer.ts";
import { TILE_WIDTH, type Tile, tileRoot } from "./tile.ts";

const TILE_BYTES = TILE_WIDTH * HASH_BYTES;
/** Room for a bundle at first; it grows with its entries. */
const BUNDLE_BYTES = 128 * 1024;

export type TileBytes = { readonly tile: Tile; readonly bytes: Buffer };

type Edge = { readonly hashes: Buffer; count: number; index: number };

/** Grows by `append`, which gives each tile and bundle once, when its last place is taken. */
export class Tree {
  size = 0;
  #edges: Edge[] = [];
  #bundle: Buffer = Buffer.allocUnsafeSlow(BUNDLE_BYTES);
  #bundleBytes = 0;
  readonly #packer = new Packer();

  /**
   * Appends `entries`, as a batch has them, whose leaf hashes are `leaves`, while the full tiles and bundles are asked for. The bytes of
   * each are good until the next is: memory that is used again is in a core's cache. Throws where there are fewer entries.
   */
  *append(entries: Buffer, leaves: Buffer): Generator<TileBytes> {
    const count = leaves.length / HASH_BYTES;
    let done = 0;
    for (let from = 0; done < count; from += this.#packer.read) {
      const end = this.#bundleBytes + this.#packer.open(entries, from);
      if (end > this.#bundle.length) this.#growBundle(end);
      const before = done;
      for (let some = -1; some !== 0 && done < count; done += some) {
        some = this.#fill(Math.min(count - done, TILE_WIDTH - (this.size % TILE_WIDTH)));
        if (some > 0 && this.size % TILE_WIDTH === 0) yield this.#fullBundle();
        yield* this.#add(0, leaves.subarray(done * HASH_BYTES, (done + some) * HASH_BYTES));
      }
      if (done === before) throw new Error(`${done} entries for ${count} leaf hashes`);
    }
  }

  /** Moves at most `count` of the packer's entries to the bundle, which must have room for them. Returns how many there were. */
  #fill(count: number): number {
    const { packed, end } = this.#packer.pack(count, this.#bundle, this.#bundleBytes);
    this.#bundleBytes = end;
    this.size += packed;
    return packed;
  }

  #fullBundle(): TileBytes {
    const bytes = this.#bundle.subarray(0, this.#bundleBytes);
    this.#bundleBytes = 0;
    const index = this.size / TILE_WIDTH - 1;
    return { tile: { level: "entries", index, width: TILE_WIDTH }, bytes };
  }

  /** Takes up a tree of `size`: the hashes of the partial tile of each level, and the partial bundle. */
  restore(size: number, edges: readonly Buffer[], bundle: Uint8Array): void {
    this.size = size;
    if (bundle.length > this.#bundle.length) this.#growBundle(bundle.length);
    this.#bundle.set(bundle);
    this.#bundleBytes = bundle.length;
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
    const width = this.size % TILE_WIDTH;
    if (width > 0) {
      const index = Math.floor(this.size / TILE_WIDTH);
      const bytes = Buffer.from(this.#bundle.subarray(0, this.#bundleBytes));
      made.push({ tile: { level: "entries", index, width }, bytes });
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

  #growBundle(bytes: number): void {
    const larger = Buffer.allocUnsafeSlow(2 ** Math.ceil(Math.log2(bytes)));
    this.#bundle.copy(larger, 0, 0, this.#bundleBytes);
    this.#bundle = larger;
  }

  /** Adds hashes to a level, no more than its tile has room for. */
  *#add(level: number, hashes: Uint8Array): Generator<TileBytes> {
    let edge = this.#edges[level];
    if (edge === undefined) {
      edge = { hashes: Buffer.alloc(TILE_BYTES), count: 0, index: 0 };
      this.#edges.push(edge);
    }
    edge.hashes.set(hashes, edge.count * HASH_BYTES);
    edge.count += hashes.length / HASH_BYTES;
    if (edge.count < TILE_WIDTH) return;
    const above = tileRoot(edge.hashes);
    yield { tile: { level, index: edge.index, width: TILE_WIDTH }, bytes: edge.hashes };
    edge.count = 0;
    edge.index++;
    yield* this.#add(level + 1, above);
  }
}

/** Returns where the `count` entries that stand at `from` of `entries`, as a batch has them, end. */
export function endOfEntries(entries: Uint8Array, from: number, count: number): number {
  let at = from;
  for (let i = 0; i < count; i++) {
    at += ENTRY_PREFIX_BYTES + (((entries[at] as number) << 8) | (entries[at + 1] as number));
  }
  return at;
}
