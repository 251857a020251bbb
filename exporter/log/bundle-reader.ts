/**
 * Reads entry bundles in wasm (entries.as.ts, sha256x4.as.ts): a bundle and its tile are read to where they are judged and hashed, and nothing
 * is made of an entry.
 */
import { HASH_BYTES } from "./merkle.ts";
import {
  BUNDLE_PREFIX_BYTES,
  growTo,
  instantiate,
  PLACE_BYTES,
  PLACE_DOUBLES,
  PLACE_WORDS,
} from "./wasm.ts";

/** Entries of a bundle at most. */
const WIDTH = 256;
const ROW_BYTES = 32;
/** Doubles from the first place to what is known of a row. */
const ROW = (WIDTH * (PLACE_BYTES + 2 * HASH_BYTES)) / 8;

export class BundleReader {
  readonly #wasm = instantiate();
  readonly #placesAt = this.#wasm.free();
  readonly #leavesAt = this.#placesAt + WIDTH * PLACE_BYTES;
  readonly #tileAt = this.#leavesAt + WIDTH * HASH_BYTES;
  readonly #rowAt = this.#tileAt + WIDTH * HASH_BYTES;
  readonly #bundleAt = this.#rowAt + ROW_BYTES;
  #bytes = 0;
  #memory: Buffer = Buffer.alloc(0);
  #words: Uint32Array = new Uint32Array();
  #doubles: Float64Array = new Float64Array();

  constructor() {
    growTo(this.#wasm, this.#bundleAt);
    this.#look();
  }

  /** What the offsets of `word` are into. Until the next bundle. */
  get memory(): Buffer {
    return this.#memory;
  }

  /** Returns room for the next bundle. */
  bundle(bytes: number): Buffer {
    if (this.#bundleAt + bytes > this.#memory.length) {
      growTo(this.#wasm, this.#bundleAt + bytes);
      this.#look();
    }
    this.#bytes = bytes;
    return this.#memory.subarray(this.#bundleAt, this.#bundleAt + bytes);
  }

  /** Returns room for the hashes of the next tile, 256 at most. */
  tile(bytes: number): Buffer {
    return this.#memory.subarray(this.#tileAt, this.#tileAt + bytes);
  }

  /** Judges and hashes the bundle. Returns false unless it holds exactly `width` entries, all well formed. */
  scan(width: number): boolean {
    const end = this.#bundleAt + this.#bytes;
    const right = this.#wasm.scan(this.#bundleAt, end, width, BUNDLE_PREFIX_BYTES, this.#placesAt);
    if (right !== width) return false;
    this.#wasm.placed(this.#placesAt, width, this.#leavesAt);
    return true;
  }

  /** Tells if the tile has the leaf hashes of the `width` scanned entries. */
  fits(width: number): boolean {
    const { length } = this.tile(width * HASH_BYTES);
    const [leaves, tile] = [this.#leavesAt, this.#tileAt];
    return this.#memory.compare(this.#memory, tile, tile + length, leaves, leaves + length) === 0;
  }

  /** Tells if the root over the full tile is at `at` of `above`. The tile is then no more. */
  isUnder(above: Buffer, at: number): boolean {
    this.#wasm.root(this.#tileAt, WIDTH);
    const root = this.#tileAt;
    return this.#memory.compare(above, at, at + HASH_BYTES, root, root + HASH_BYTES) === 0;
  }

  /** Returns word `field` (wasm.ts) of a scanned entry. */
  word(entry: number, field: number): number {
    return this.#words[entry * PLACE_WORDS + field] as number;
  }

  /** Returns double `field` (wasm.ts) of a scanned entry. */
  double(entry: number, field: number): number {
    return this.#doubles[entry * PLACE_DOUBLES + field] as number;
  }

  /** Returns how many of the `width` scanned entries from `from` on are a row: see `row` of entries.as.ts. */
  row(from: number, width: number): number {
    return this.#wasm.row(this.#placesAt, from, width, this.#leavesAt, this.#rowAt);
  }

  /** Of that row: the latest time in it, the last one, and how often time went back. */
  get newest(): number {
    return this.#doubles[ROW] as number;
  }

  get time(): number {
    return this.#doubles[ROW + 1] as number;
  }

  get steps(): number {
    return this.#doubles[ROW + 2] as number;
  }

  /** Copies the digest of a scanned entry to `to`. */
  copyDigest(entry: number, to: Uint8Array): void {
    const at = this.#leavesAt + entry * HASH_BYTES;
    this.#memory.copy(to, 0, at, at + HASH_BYTES);
  }

  #look(): void {
    const { buffer } = this.#wasm.memory;
    this.#memory = Buffer.from(buffer);
    this.#words = new Uint32Array(buffer, this.#placesAt, WIDTH * PLACE_WORDS);
    this.#doubles = new Float64Array(buffer, this.#placesAt, (this.#bundleAt - this.#placesAt) / 8);
  }
}
