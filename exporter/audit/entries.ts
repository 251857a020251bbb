/** Reads single entries out of a log's files, for showing them. It checks nothing: that is what verify.ts is for. */
import { decodeEntry, type Entry } from "../../record/codec.ts";
import { MeshsealError } from "../errors.ts";
import { parseCheckpoint } from "../log/checkpoint.ts";
import { MAX_NOTE_BYTES, parseNote } from "../log/note.ts";
import { TILE_WIDTH } from "../log/tile.ts";
import { readPruned } from "./pruned.ts";
import type { Source } from "./source.ts";
import { Tiles } from "./tiles.ts";

/** An entry, its bytes, and its place in the log. */
export type Placed = {
  readonly index: number;
  readonly bytes: Uint8Array;
  readonly entry: Entry | null;
};

/** Opens the log at its checkpoint. Throws MeshsealError if it has none. */
export async function openTiles(source: Source): Promise<Tiles> {
  const note = parseNote((await source.read("checkpoint", MAX_NOTE_BYTES)) ?? Buffer.alloc(0));
  const checkpoint = note === null ? null : parseCheckpoint(note.text);
  if (checkpoint === null) throw new MeshsealError("the log has no checkpoint: is --log right?");
  const pruned = await readPruned(source, checkpoint.size);
  return new Tiles(source, checkpoint.size, pruned?.index);
}

/** Returns the bytes of a bundle's entries. Throws MeshsealError if it is damaged. */
export async function readBundle(tiles: Tiles, tile: number): Promise<Uint8Array[]> {
  const entries = await tiles.entries(tile);
  if (entries === null && tile * TILE_WIDTH < tiles.first)
    throw new MeshsealError(
      `entries ${tile * TILE_WIDTH} to ${(tile + 1) * TILE_WIDTH - 1} were pruned: the log has those from ${tiles.first} on (docs/retention.md).`,
    );
  if (entries === null)
    throw new MeshsealError(`bundle ${tile} of the log is damaged: run verify.`);
  return entries;
}

/** Yields every entry in the order of the log; a malformed one as null. */
export async function* eachEntry(tiles: Tiles): AsyncGenerator<Placed> {
  for (let tile = tiles.first / TILE_WIDTH; tile * TILE_WIDTH < tiles.size; tile++) {
    for (const [i, bytes] of (await readBundle(tiles, tile)).entries()) {
      yield { index: tile * TILE_WIDTH + i, bytes, entry: decodeEntry(bytes) };
    }
  }
}

/** Returns the index that `which` means, an index or chain:seq. Throws MeshsealError if there is no such entry. */
export async function findIndex(tiles: Tiles, which: string): Promise<number> {
  if (/^\d{1,15}$/.test(which)) return Number(which);
  const [, chain, seq] = /^([0-9a-f]{32}):(\d{1,15})$/.exec(which) ?? [];
  if (chain === undefined)
    throw new MeshsealError(`"${which}" is neither an index nor chain:seq nor a stream id.`);
  for await (const { index, entry } of eachEntry(tiles)) {
    if (entry?.seq === Number(seq) && Buffer.from(entry.chain).toString("hex") === chain)
      return index;
  }
  const pruned = tiles.first === 0 ? "" : `, or it was pruned: those below ${tiles.first} were`;
  throw new MeshsealError(`the log holds no entry ${which}${pruned}.`);
}

/** Returns the entry at `index`. Throws MeshsealError if it is not there or malformed. */
export async function entryAt(
  tiles: Tiles,
  index: number,
): Promise<{ bytes: Uint8Array; entry: Entry }> {
  if (index >= tiles.size)
    throw new MeshsealError(`the log has ${tiles.size} entries: there is no ${index}.`);
  const bytes = (await readBundle(tiles, Math.floor(index / TILE_WIDTH)))[index % TILE_WIDTH];
  const entry = bytes === undefined ? null : decodeEntry(bytes);
  if (bytes === undefined || entry === null)
    throw new MeshsealError(`entry ${index} is malformed: run verify.`);
  return { bytes, entry };
}
