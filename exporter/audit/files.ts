/** The files of a log's directory (C2SP tlog-tiles) that the tree does not need: each must be one that it once had, or will have. */
import { hashBundle } from "../log/hasher.ts";
import { HASH_BYTES } from "../log/merkle.ts";
import { parseBundle, parseTilePath, TILE_WIDTH, type Tile, tilePath } from "../log/tile.ts";
import type { Findings } from "./report.ts";
import type { Source } from "./source.ts";
import { MAX_BUNDLE_BYTES, MAX_TILE_BYTES, type Tiles } from "./tiles.ts";

/** Every file: those of this tree were read; others must be superseded partial tiles, or beyond the checkpoint. */
export async function checkFiles(
  source: Source,
  files: AsyncGenerator<{ path: string; isFile: boolean }>,
  tiles: Tiles,
  findings: Findings,
  notes: string[],
): Promise<void> {
  let beyond = 0;
  let left = 0;
  for await (const { path, isFile } of files) {
    if (isFile && path === "checkpoint") continue;
    const tile = isFile ? parseTilePath(path) : null;
    const now = tile === null ? null : tiles.tileAt(tile.level, tile.index);
    if (tile === null || now === null) {
      findings.add({
        severity: "tampered",
        cause: "foreign-file",
        file: path,
        message: `${path} does not belong to a log`,
      });
    } else if (tile.width > now.width) {
      if (await isBeyond(source, tile, now)) beyond++;
      else {
        findings.add({
          severity: "tampered",
          cause: "foreign-file",
          file: path,
          message: `${path} does not belong to this tree`,
        });
      }
    } else if (tile.level === "entries" && (tile.index + 1) * TILE_WIDTH <= tiles.first) {
      // What could not be removed yet is still what it was.
      if (await fitsTree(source, tiles, tile)) left++;
      else {
        const message = `${path} was pruned, is still there, and is not what the tree has`;
        findings.add({ severity: "tampered", cause: "entry", file: path, message });
      }
    } else if (tile.width < now.width && !(await isPrefix(source, tile, now))) {
      findings.add({
        severity: "tampered",
        cause: "superseded",
        file: path,
        message: `${path} is not the beginning of ${tilePath(now)}`,
      });
    }
  }
  if (left > 0)
    notes.push(`${left} bundles below the minimum index are still there, and are what they were.`);
  if (beyond > 0)
    notes.push(
      `${beyond} files reach beyond the checkpoint: a crash leaves such, a clean stop does not.`,
    );
}

/** Tiles that a crash can leave beyond the checkpoint at most: what one publication writes ahead of it. */
const MAX_BEYOND = 4096;

/** A crash may leave tiles that the next checkpoint would have covered: whole ones, that go on where this tree ends. */
async function isBeyond(source: Source, tile: Tile, now: Tile): Promise<boolean> {
  if (now.width > 0) return isPrefix(source, now, tile);
  if (-now.width > MAX_BEYOND * TILE_WIDTH) return false;
  const isBundle = tile.level === "entries";
  const bytes = await source.read(tilePath(tile), isBundle ? MAX_BUNDLE_BYTES : MAX_TILE_BYTES);
  if (bytes === null) return false;
  if (!isBundle) return bytes.length === tile.width * HASH_BYTES;
  return parseBundle(bytes, tile.width) !== null;
}

/** Whether a bundle, also a partial one, holds the entries whose hashes are in the tree. */
async function fitsTree(source: Source, tiles: Tiles, tile: Tile): Promise<boolean> {
  const { index, width } = tile;
  const [bundle, hashes] = await Promise.all([
    source.read(tilePath(tile), MAX_BUNDLE_BYTES),
    tiles.hashes(0, index),
  ]);
  if (bundle === null || hashes === null || parseBundle(bundle, width) === null) return false;
  return hashBundle(bundle, width).equals(hashes.subarray(0, width * HASH_BYTES));
}

async function isPrefix(source: Source, small: Tile, large: Tile): Promise<boolean> {
  const limit = small.level === "entries" ? MAX_BUNDLE_BYTES : MAX_TILE_BYTES;
  const [part, whole] = await Promise.all([
    source.read(tilePath(small), limit),
    source.read(tilePath(large), limit),
  ]);
  if (part === null || whole === null) return false;
  const length =
    small.level === "entries" ? bundleLength(whole, small.width) : small.width * HASH_BYTES;
  return part.length === length && whole.subarray(0, length).equals(part);
}

/** Returns the bytes of the first `count` entries of a bundle, or -1. */
function bundleLength(bundle: Buffer, count: number): number {
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + 2 > bundle.length) return -1;
    at += 2 + bundle.readUInt16BE(at);
  }
  return at;
}
