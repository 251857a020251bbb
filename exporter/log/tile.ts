/**
 * Tiles and entry bundles, byte for byte as c2sp.org/tlog-tiles has them: their paths, which of them a tree of
 * a given size has, and how entries are packed.
 *
 * Pure. A hash tile is up to 256 hashes of 32 bytes; an entry bundle is up to 256 times
 * `uint16 length, big-endian || entry`.
 */
import { hashTree } from "./hasher.ts";
import { sha256 } from "./merkle.ts";
import { BUNDLE_PREFIX_BYTES } from "./wasm.ts";

/** Hashes in a full tile, and entries in a full bundle. */
export const TILE_WIDTH = 256;

/** Bytes of an entry at most: its length is a uint16. */
export const MAX_ENTRY_BYTES = 65_535;

/** Levels of tiles a tree below 2^53 leaves can have. */
const MAX_LEVEL = 6;

/** One tile or bundle: its level (or "entries"), its index, and its width, 1 to 256. */
export type Tile = {
  readonly level: number | "entries";
  readonly index: number;
  readonly width: number;
};

/** Returns the path of a tile below the log's prefix: `tile/<L>/<N>[.p/<W>]`. */
export function tilePath(tile: Tile): string {
  const partial = tile.width === TILE_WIDTH ? "" : `.p/${tile.width}`;
  return `tile/${tile.level}/${formatIndex(tile.index)}${partial}`;
}

/** Returns the tile at `path`, or null unless it is exactly one canonical path. */
export function parseTilePath(path: string): Tile | null {
  const match =
    /^tile\/(entries|[0-9]{1,2})\/((?:x[0-9]{3}\/)*[0-9]{3})(?:\.p\/([0-9]{1,3}))?$/.exec(path);
  const [, levelText, indexText, widthText] = match ?? [];
  if (levelText === undefined || indexText === undefined) return null;
  const level = levelText === "entries" ? "entries" : Number(levelText);
  if (level !== "entries" && level > 63) return null;
  const index = Number(indexText.replaceAll(/[x/]/g, ""));
  const width = widthText === undefined ? TILE_WIDTH : Number(widthText);
  if (!Number.isSafeInteger(index) || width < 1 || width > TILE_WIDTH) return null;
  const tile = { level, index, width } as const;
  return tilePath(tile) === path ? tile : null;
}

/** Returns `x001/x234/067` for 1234067: groups of three digits, all but the last behind an x. */
function formatIndex(index: number): string {
  let text = threeDigits(index % 1000);
  for (let rest = Math.floor(index / 1000); rest > 0; rest = Math.floor(rest / 1000)) {
    text = `x${threeDigits(rest % 1000)}/${text}`;
  }
  return text;
}

function threeDigits(part: number): string {
  return part < 100 ? `${part < 10 ? "00" : "0"}${part}` : String(part);
}

/** Returns how many hashes stand at `level` in a tree of `size` leaves: floor(size / 256^level). */
export function hashesAtLevel(size: number, level: number): number {
  return Math.floor(size / TILE_WIDTH ** level);
}

/** Yields every hash tile of a tree of `size` leaves, level by level, and its entry bundles. Empty tiles do not exist. */
export function* tilesOf(size: number): Generator<Tile> {
  yield* rowOf("entries", size);
  for (let level = 0; level <= MAX_LEVEL; level++) {
    const hashes = hashesAtLevel(size, level);
    if (hashes === 0) return;
    yield* rowOf(level, hashes);
  }
}

function* rowOf(level: number | "entries", count: number): Generator<Tile> {
  const full = Math.floor(count / TILE_WIDTH);
  for (let index = 0; index < full; index++) yield { level, index, width: TILE_WIDTH };
  if (count % TILE_WIDTH > 0) yield { level, index: full, width: count % TILE_WIDTH };
}

/** Returns the root over the hashes in `tile`, of which there must be a power of two, 256 at most. */
export function tileRoot(tile: Uint8Array): Uint8Array {
  return hashTree(tile);
}

/** Returns the entries of a bundle, or null unless it holds exactly `width` of them and nothing after. */
export function parseBundle(bundle: Uint8Array, width: number): Uint8Array[] | null {
  if (!isBundle(bundle, width)) return null;
  const entries: Uint8Array[] = [];
  for (let at = 0; at < bundle.length; ) {
    const end = endOfEntry(bundle, at);
    entries.push(bundle.subarray(at + BUNDLE_PREFIX_BYTES, end));
    at = end;
  }
  return entries;
}

/** Tells if `bundle` is exactly `width` entries, which parseBundle then returns. */
export function isBundle(bundle: Uint8Array, width: number): boolean {
  let at = 0;
  let count = 0;
  for (; at + BUNDLE_PREFIX_BYTES <= bundle.length; count++) at = endOfEntry(bundle, at);
  return at === bundle.length && count === width;
}

function endOfEntry(bundle: Uint8Array, at: number): number {
  return at + BUNDLE_PREFIX_BYTES + (((bundle[at] as number) << 8) | (bundle[at + 1] as number));
}

/** Returns a bundle of `entries`, each at most MAX_ENTRY_BYTES. */
export function formatBundle(entries: readonly Uint8Array[]): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const entry of entries) {
    if (entry.length > MAX_ENTRY_BYTES) {
      throw new RangeError(`entry of ${entry.length} bytes, at most ${MAX_ENTRY_BYTES}`);
    }
    parts.push(Uint8Array.of(entry.length >> 8, entry.length & 0xff), entry);
  }
  return Buffer.concat(parts);
}

/** Returns the name that stands for a tile's bytes in messages: hex of its SHA-256, first 8 bytes. */
export function fingerprint(bytes: Uint8Array): string {
  return Buffer.from(sha256(bytes)).toString("hex", 0, 8);
}
