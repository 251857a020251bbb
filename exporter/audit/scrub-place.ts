/**
 * Where the self-audit (scrub.ts) looks: a directory or a bucket. Besides the bytes it asks how each file looks from outside: is it there,
 * as long as it must be, written once, and as it was the last time.
 */
import { type BigIntStats, lstatSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep, setImmediate as turn } from "node:timers/promises";
import { crc32 } from "node:zlib";
import { HASH_BYTES } from "../log/merkle.ts";
import { MAX_NOTE_BYTES } from "../log/note.ts";
import { hashesAtLevel, parseTilePath, TILE_WIDTH, type Tile, tilePath } from "../log/tile.ts";
import { type Bucket, TooLarge, type Version } from "../store/bucket.ts";
import { Fingerprints } from "./fingerprints.ts";
import type { Source } from "./source.ts";

export type Looked = {
  readonly tile: Tile;
  /** What is wrong with it at first sight, or null. */
  readonly problem: string | null;
  /** Somebody wrote it again, or changed it, since the last look. */
  readonly isTouched: boolean;
};

export type ScrubPlace = {
  readonly source: Source;
  readonly checkpoint: () => Promise<Buffer | null>;
  /** Looks at every full tile and bundle of a tree of `size`, those that `isPruned` left out. */
  readonly look: (size: number, isPruned: (tile: Tile) => boolean) => AsyncGenerator<Looked>;
  /** Time from one look at all files to the next, in milliseconds. */
  readonly structureMs: number;
  /** Bytes read a second at most. */
  readonly rate: number;
  /** A read may wait for as long as the place is away. */
  readonly mayWait: boolean;
};

/** Files of a directory looked at in one turn of the event loop. */
const LOOKS = 32;
const TILE_BYTES = TILE_WIDTH * HASH_BYTES;

export function dirPlace(dir: string, source: Source): ScrubPlace {
  const seen = new Fingerprints();
  function lookAt(tile: Tile): Looked {
    const found = statOf(join(dir, tilePath(tile)));
    if (!found?.isFile()) return { tile, problem: "is missing", isTouched: false };
    if (tile.level !== "entries" && found.size !== BigInt(TILE_BYTES))
      return { tile, problem: "is of a wrong length", isTouched: false };
    const { ino, size, ctimeNs } = found;
    const mark = (ino * 0x9e3779b97f4a7c15n) ^ (size << 17n) ^ ctimeNs;
    return { tile, problem: null, isTouched: seen.note(tile.level, tile.index, mark) };
  }
  return {
    source,
    checkpoint: () => readFile(join(dir, "checkpoint")).catch(() => null),
    look: async function* (size, isPruned) {
      let looks = 0;
      for (const tile of fullTiles(size)) {
        if (isPruned(tile)) continue;
        if (++looks % LOOKS === 0) await turn();
        yield lookAt(tile);
      }
    },
    structureMs: 20_000,
    // About two percent of a core.
    rate: 8 * 1024 * 1024,
    mayWait: false,
  };
}

/** Blocks for 3 us; a promise, with the way to another thread and back, takes 12. */
function statOf(path: string): BigIntStats | null {
  try {
    return lstatSync(path, { bigint: true, throwIfNoEntry: false }) ?? null;
  } catch {
    return null;
  }
}

/** The log below `home` in a bucket. Each look lists its versions: a request for a thousand. */
export function bucketPlace(bucket: Pick<Bucket, "get" | "versions">, home: string): ScrubPlace {
  const seen = new Fingerprints();
  const read = async (path: string, limit: number): Promise<Buffer | null> => {
    try {
      return (await bucket.get(`${home}log/${path}`, limit))?.bytes ?? null;
    } catch (error) {
      if (error instanceof TooLarge) return null;
      throw error;
    }
  };
  return {
    source: { read },
    checkpoint: () => read("checkpoint", MAX_NOTE_BYTES),
    look: async function* (size, isPruned) {
      const began = Date.now();
      const all = new Map<string, Version[]>();
      for await (const version of bucket.versions(`${home}log/tile/`)) {
        const path = version.key.slice(`${home}log/`.length);
        // Partial ones are at the edge.
        if (parseTilePath(path)?.width !== TILE_WIDTH) continue;
        const held = all.get(path);
        if (held === undefined) all.set(path, [version]);
        else held.push(version);
      }
      for (const tile of fullTiles(size)) {
        if (isPruned(tile)) continue;
        const versions = all.get(tilePath(tile)) ?? [];
        const problem = problemOf(tile, versions);
        const newest = versions.find(({ isLatest }) => isLatest) ?? versions[0];
        const mark = BigInt(crc32(`${newest?.version} ${versions.length}`));
        const isTouched = newest !== undefined && seen.note(tile.level, tile.index, mark);
        yield { tile, problem, isTouched };
      }
      // Lists of a large log take long: most of the time is left for others.
      await sleep(Math.min(4 * (Date.now() - began), 3_600_000), undefined, { ref: false });
    },
    structureMs: 30_000,
    rate: 1024 * 1024,
    mayWait: true,
  };
}

function problemOf(tile: Tile, versions: readonly Version[]): string | null {
  const markers = versions.filter(({ isDeleteMarker }) => isDeleteMarker).length;
  if (versions.length === markers) return "is missing";
  if (markers > 0) return "was hidden by a delete marker";
  if (versions.length > 1) return `has ${versions.length} versions: somebody wrote over it`;
  const isWrong = tile.level !== "entries" && versions[0]?.bytes !== TILE_BYTES;
  return isWrong ? "is of a wrong length" : null;
}

function* fullTiles(size: number): Generator<Tile> {
  for (const level of ["entries", 0, 1, 2, 3, 4, 5, 6] as const) {
    const count = level === "entries" ? size : hashesAtLevel(size, level);
    for (let index = 0; index < Math.floor(count / TILE_WIDTH); index++)
      yield { level, index, width: TILE_WIDTH };
  }
}
