/** Reads the tiles of a log whose size is known, and recomputes any root from them. */
import { hashBundle } from "../log/hasher.ts";
import { HASH_BYTES, rangeRoot } from "../log/merkle.ts";
import {
  hashesAtLevel,
  isBundle,
  MAX_ENTRY_BYTES,
  parseBundle,
  TILE_WIDTH,
  type Tile,
  tilePath,
  tileRoot,
} from "../log/tile.ts";
import type { Source } from "./source.ts";

export const MAX_TILE_BYTES: number = TILE_WIDTH * HASH_BYTES;
export const MAX_BUNDLE_BYTES: number = TILE_WIDTH * (MAX_ENTRY_BYTES + 2);

/** Tiles kept for roots: they are asked for again and again from the right edge. */
const CACHED = 256;

export class Tiles {
  readonly #source: Source;
  readonly size: number;
  /** Entries below it were pruned: their bundles may be gone. */
  readonly first: number;
  readonly #cache = new Map<string, Buffer>();

  constructor(source: Source, size: number, first = 0) {
    this.#source = source;
    this.size = size;
    this.first = first;
  }

  /** Returns the tile that holds hash or entry `index * 256` of a level, as wide as the tree has it. */
  tileAt(level: number | "entries", index: number): Tile {
    const count = level === "entries" ? this.size : hashesAtLevel(this.size, level);
    return { level, index, width: Math.min(TILE_WIDTH, count - index * TILE_WIDTH) };
  }

  /** Returns a hash tile, or null if it is missing or not exactly as long as it must be. */
  async hashes(level: number, index: number): Promise<Buffer | null> {
    const tile = this.tileAt(level, index);
    const versions = await this.#versions(tile);
    for (const one of versions) if (await this.#fits(tile, one)) return one;
    const bytes = await this.#source.read(tilePath(tile), MAX_TILE_BYTES);
    return bytes?.length === tile.width * HASH_BYTES ? bytes : null;
  }

  /** Returns a bundle's bytes, or null if it is missing. */
  async bundle(index: number): Promise<Buffer | null> {
    const tile = this.tileAt("entries", index);
    const versions = await this.#versions(tile);
    const hashes = versions.length === 0 ? null : await this.hashes(0, index);
    for (const one of versions) {
      if (hashes !== null && leavesOf(one, tile.width)?.equals(hashes)) return one;
    }
    return this.#source.read(tilePath(tile), MAX_BUNDLE_BYTES);
  }

  /** Reads a tile or bundle, as `hashes` or `bundle` do, to where `room` says for its length. Resolves to false where they resolve to null. */
  async readInto(tile: Tile, room: (bytes: number) => Uint8Array): Promise<boolean> {
    const { level, index, width } = tile;
    const { readInto } = this.#source;
    if (readInto === undefined) {
      const bytes = await (level === "entries" ? this.bundle(index) : this.hashes(level, index));
      if (bytes !== null) room(bytes.length).set(bytes);
      return bytes !== null;
    }
    if (level === "entries") return readInto(tilePath(tile), MAX_BUNDLE_BYTES, room) >= 0;
    return readInto(tilePath(tile), width * HASH_BYTES, room) === width * HASH_BYTES;
  }

  /** Resolves to the entries of a bundle; null if it is not there, or not whole. */
  async entries(index: number): Promise<Uint8Array[] | null> {
    const bytes = await this.bundle(index);
    return bytes && parseBundle(bytes, this.tileAt("entries", index).width);
  }

  /** All versions of a file, where somebody has put one beside the log's own. */
  async #versions(tile: Tile): Promise<Buffer[]> {
    const { readAll } = this.#source;
    if (readAll === undefined) return [];
    return await readAll(
      tilePath(tile),
      tile.level === "entries" ? MAX_BUNDLE_BYTES : MAX_TILE_BYTES,
    );
  }

  /** Whether a version of a tile is the one over what is below it: tiles, or the entries themselves. */
  async #fits({ level, index, width }: Tile, bytes: Buffer): Promise<boolean> {
    if (level === "entries" || bytes.length !== width * HASH_BYTES) return false;
    if (level === 0) {
      const entries = this.tileAt("entries", index);
      const versions = await this.#versions(entries);
      const held = await this.#source.read(tilePath(entries), MAX_BUNDLE_BYTES);
      const bundles = versions.length > 0 || held === null ? versions : [held];
      return bundles.some((bundle) => leavesOf(bundle, width)?.equals(bytes));
    }
    for (let i = 0; i < width; i++) {
      const below = await this.hashes(level - 1, index * TILE_WIDTH + i);
      if (below === null) return false;
      const root = tileRoot(below);
      if (bytes.compare(root, 0, HASH_BYTES, i * HASH_BYTES, (i + 1) * HASH_BYTES) !== 0)
        return false;
    }
    return true;
  }

  /** Returns the root of the first `size` leaves, or null where a tile for it is missing. */
  async root(size: number): Promise<Uint8Array | null> {
    const needed = new Map<string, Buffer>();
    const wanted: [number, number][] = [];
    // First pass: which subtrees; second: their hashes. rangeRoot itself knows no waiting.
    rangeRoot(0, size, (height, index) => {
      const level = Math.floor(height / 8);
      wanted.push([level, Math.floor((index * 2 ** (height % 8)) / TILE_WIDTH)]);
      return new Uint8Array(HASH_BYTES);
    });
    for (const [level, index] of wanted) {
      const tile = await this.#cached(level, index);
      if (tile === null) return null;
      needed.set(`${level}/${index}`, tile);
    }
    return rangeRoot(0, size, (height, index) => {
      const level = Math.floor(height / 8);
      const width = 2 ** (height % 8);
      const tile = needed.get(`${level}/${Math.floor((index * width) / TILE_WIDTH)}`);
      const at = ((index * width) % TILE_WIDTH) * HASH_BYTES;
      return tileRoot(tile?.subarray(at, at + width * HASH_BYTES) ?? new Uint8Array(HASH_BYTES));
    });
  }

  async #cached(level: number, index: number): Promise<Buffer | null> {
    const key = `${level}/${index}`;
    const held = this.#cache.get(key);
    if (held !== undefined) return held;
    const bytes = await this.hashes(level, index);
    if (bytes === null) return null;
    if (this.#cache.size >= CACHED) this.#cache.clear();
    this.#cache.set(key, bytes);
    return bytes;
  }
}

/** Returns the leaf hashes of a bundle's entries, or null unless there are exactly `width`. */
function leavesOf(bundle: Buffer, width: number): Buffer | null {
  return isBundle(bundle, width) ? hashBundle(bundle, width) : null;
}
