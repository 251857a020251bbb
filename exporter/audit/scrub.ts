/**
 * The continuous self-audit: re-reads all that the exporter holds, on disk or in a bucket, against the checkpoint it has in memory.
 * Read-only.
 *
 * Three loops, each bounded: the edge (checkpoint file, and the tiles on the path to its root) every 15 seconds; how every
 * file looks from outside (scrub-place.ts), in a pass every 20 seconds or some more; and the bytes of every file, again and
 * again at a rate. A file that was touched since it was last looked at is read at once. What is found stays found until the
 * file is right again. Links between entries are not followed here: an entry whose digest is in the tree is the one that
 * was checked when it came. verify does both.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { codeOf } from "../errors.ts";
import { type Checkpoint, openCheckpoint } from "../log/checkpoint.ts";
import { hashBundle } from "../log/hasher.ts";
import { HASH_BYTES, leafHash } from "../log/merkle.ts";
import type { Verifier } from "../log/note.ts";
import {
  hashesAtLevel,
  isBundle,
  parseBundle,
  parseTilePath,
  TILE_WIDTH,
  type Tile,
  tilePath,
  tileRoot,
} from "../log/tile.ts";
import type { ScrubPlace } from "./scrub-place.ts";
import { Tiles } from "./tiles.ts";

const EDGE_MS = 15_000;
/** A publication is known to this process so soon after its files have changed, in milliseconds. */
const SETTLE_MS = 2000;
/** A stop waits this long for a place that may be away, in milliseconds. */
const STOP_MS = 1000;

export type ScrubFinding = {
  readonly file: string;
  readonly cause: string;
  readonly since: number;
};

export type ScrubStatus = {
  readonly findings: readonly ScrubFinding[];
  /** Entries that the pass under way has re-read, and how many it covers. */
  readonly position: number;
  readonly size: number;
  readonly passes: number;
  /** Seconds since the byte that was not read for the longest time was read, or since the start: an upper bound. */
  readonly oldestUnverifiedSeconds: number;
};

export type ScrubOptions = {
  readonly place: ScrubPlace;
  readonly verifiers: readonly Verifier[];
  /** The newest published checkpoint as the process knows it. */
  readonly checkpoint: () => Checkpoint;
  /** Bundles below it may have been pruned, and are not looked at. */
  readonly minimum?: () => number;
  readonly onFinding: (finding: ScrubFinding) => void;
  /** A file that was wrong is right again. */
  readonly onGone: (file: string) => void;
};

export class Scrub {
  readonly #options: ScrubOptions;
  readonly #stop = new AbortController();
  readonly #findings = new Map<string, ScrubFinding>();
  /** Files that are wrong whatever their bytes are: missing, or more than one. */
  readonly #misplaced = new Set<string>();
  #running: Promise<unknown> = Promise.resolve();
  #position = 0;
  #size = 0;
  #passes = 0;
  /** When the pass under way began, and the one before it. */
  #began = Date.now();
  #before = Date.now();
  #isAhead = false;

  constructor(options: ScrubOptions) {
    this.#options = options;
  }

  start(): void {
    this.#running = Promise.all([
      this.#every(EDGE_MS, () => this.#checkEdge()),
      this.#every(this.#options.place.structureMs, () => this.#checkStructure()),
      this.#every(0, () => this.#checkNext()),
    ]);
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    const late = this.#options.place.mayWait ? [sleep(STOP_MS)] : [];
    await Promise.race([this.#running, ...late]);
  }

  status(): ScrubStatus {
    return {
      findings: [...this.#findings.values()],
      position: this.#position,
      size: this.#size,
      passes: this.#passes,
      oldestUnverifiedSeconds: (Date.now() - this.#before) / 1000,
    };
  }

  async #every(ms: number, look: () => Promise<void>): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      try {
        await look();
      } catch (error) {
        if (!signal.aborted) this.#note("log", `cannot be read: ${codeOf(error) || error}`);
      }
      await this.#pause(ms);
    }
  }

  async #pause(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#stop.signal, ref: false }).catch(() => undefined);
  }

  #note(file: string, cause: string): void {
    if (this.#findings.has(file)) return;
    const finding = { file, cause, since: Date.now() };
    this.#findings.set(file, finding);
    this.#options.onFinding(finding);
  }

  #isPruned(tile: Tile): boolean {
    const end = (tile.index + 1) * TILE_WIDTH;
    return tile.level === "entries" && end <= (this.#options.minimum?.() ?? 0);
  }

  #clear(file: string): void {
    if (this.#misplaced.has(file)) return;
    if (this.#findings.delete(file)) this.#options.onGone(file);
  }

  /** Judges one file of a tree of `size`. A partial one may be superseded: it counts if the tree has not grown for a while. */
  async #judge(tile: Tile, size: number, cause: string | null): Promise<void> {
    const file = tilePath(tile);
    if (cause === null) {
      this.#clear(file);
      return;
    }
    if (tile.width < TILE_WIDTH) {
      await this.#pause(SETTLE_MS);
      if (this.#stop.signal.aborted || this.#options.checkpoint().size !== size) return;
    }
    this.#note(file, cause);
  }

  async #checkEdge(): Promise<void> {
    const { checkpoint, place, verifiers } = this.#options;
    const ours = checkpoint();
    if (ours.size === 0) return;
    const bytes = await place.checkpoint();
    const found = bytes === null ? null : openCheckpoint(bytes, ...verifiers);
    // The other thread may have published one that this one does not know yet; it does the next time.
    const isAhead = found !== null && found.size > checkpoint().size;
    if (found === null) this.#note("checkpoint", "is missing or not signed by this log's key");
    else if (found.size < ours.size) this.#note("checkpoint", `was put back to size ${found.size}`);
    else if (found.size === ours.size && !Buffer.from(found.root).equals(ours.root)) {
      this.#note("checkpoint", "signs another root than this process did");
    } else if (isAhead && this.#isAhead) this.#note("checkpoint", "is newer than this process");
    else this.#clear("checkpoint");
    this.#isAhead = isAhead;

    await this.#checkRoot(new Tiles(place.source, ours.size), ours);
  }

  /** The tiles on the right edge against the root. */
  async #checkRoot(tiles: Tiles, { size, root }: Checkpoint): Promise<void> {
    await this.#checkBundle(tiles, Math.floor((size - 1) / TILE_WIDTH));
    const found = await tiles.root(size);
    const isRight = found !== null && Buffer.from(found).equals(root);
    let wrong = -1;
    for (let level = 0; hashesAtLevel(size, level) > 0; level++) {
      const index = Math.floor((hashesAtLevel(size, level) - 1) / TILE_WIDTH);
      const hashes = await tiles.hashes(level, index);
      const tile = tiles.tileAt(level, index);
      if (hashes === null) {
        await this.#judge(tile, size, "is missing or of a wrong length");
        wrong = level;
      } else if (isRight) await this.#judge(tile, size, null);
      else if (level > 0 && !(await fitsBelow(tiles, level, index, hashes))) {
        await this.#judge(tile, size, "is not what the tiles below it give");
        wrong = level;
      }
    }
    if (isRight || wrong >= 0) return;
    const cause = "does not give the root that was signed";
    await this.#judge(tiles.tileAt(0, Math.floor((size - 1) / TILE_WIDTH)), size, cause);
  }

  /** Looks at every file, and reads those that were touched since the last time. */
  async #checkStructure(): Promise<void> {
    const { place, checkpoint } = this.#options;
    const { size } = checkpoint();
    const tiles = new Tiles(place.source, size);
    for await (const { tile, problem, isTouched } of place.look(size, (one) =>
      this.#isPruned(one),
    )) {
      if (this.#stop.signal.aborted) return;
      const file = tilePath(tile);
      // A pruning may have been quicker.
      if (this.#isPruned(tile)) continue;
      if (problem !== null) {
        this.#misplaced.add(file);
        this.#note(file, problem);
        continue;
      }
      this.#misplaced.delete(file);
      if (!isTouched && !this.#findings.has(file)) continue;
      if (tile.level === "entries") await this.#checkBundle(tiles, tile.index);
      else await this.#checkTile(tiles, tile.level, tile.index);
    }
    for (const file of this.#findings.keys()) {
      const tile = parseTilePath(file);
      if (tile !== null && this.#isPruned(tile)) {
        this.#misplaced.delete(file);
        this.#clear(file);
      }
    }
  }

  /** Reads the next bundle, its tile, and the tiles above that end there. */
  async #checkNext(): Promise<void> {
    if (this.#position >= this.#size) {
      if (this.#size > 0) this.#passes++;
      this.#before = this.#began;
      this.#began = Date.now();
      this.#position = 0;
      this.#size = this.#options.checkpoint().size;
      // A small log is not read over and over.
      await this.#pause(1000);
      return;
    }
    const tiles = new Tiles(this.#options.place.source, this.#size);
    let index = Math.floor(this.#position / TILE_WIDTH);
    let bytes = await this.#checkBundle(tiles, index);
    for (let level = 0; ; level++) {
      bytes += await this.#checkTile(tiles, level, index);
      if ((index + 1) % TILE_WIDTH !== 0 || hashesAtLevel(this.#size, level + 1) === 0) break;
      index = Math.floor(index / TILE_WIDTH);
    }
    this.#position = Math.min(this.#position + TILE_WIDTH, this.#size);
    await this.#pause((bytes / this.#options.place.rate) * 1000);
  }

  /** Compares a bundle's entries with their leaf hashes. Resolves to the bytes read. */
  async #checkBundle(tiles: Tiles, index: number): Promise<number> {
    const tile = tiles.tileAt("entries", index);
    const [bundle, hashes] = await Promise.all([tiles.bundle(index), tiles.hashes(0, index)]);
    if (this.#isPruned(tile)) return 0;
    if (bundle === null) {
      await this.#judge(tile, tiles.size, "is missing");
      return 0;
    }
    if (hashes === null) return bundle.length;
    const isWhole = isBundle(bundle, tile.width);
    let cause: string | null = isWhole ? null : "is cut off or has bytes too many";
    // All at once, and only if they are not right one by one.
    const isRight = isWhole && hashBundle(bundle, tile.width).equals(hashes);
    const entries = isRight ? [] : (parseBundle(bundle, tile.width) ?? []);
    for (const [i, entry] of entries.entries()) {
      const at = i * HASH_BYTES;
      if (
        cause === null &&
        hashes.compare(leafHash(entry), 0, HASH_BYTES, at, at + HASH_BYTES) !== 0
      )
        cause = `entry ${index * TILE_WIDTH + i} is not the one in the tree`;
    }
    // Where the tile is the one that does not fit the tree, the bundle is not to blame.
    if (cause === null || (await this.#isInTree(tiles, index, hashes))) {
      await this.#judge(tile, tiles.size, cause);
    }
    return bundle.length;
  }

  async #isInTree(tiles: Tiles, index: number, hashes: Buffer): Promise<boolean> {
    if (hashes.length < TILE_WIDTH * HASH_BYTES) {
      const { size, root } = this.#options.checkpoint();
      const found = size === tiles.size ? await tiles.root(size) : null;
      return found === null || Buffer.from(found).equals(root);
    }
    const above = await tiles.hashes(1, Math.floor(index / TILE_WIDTH));
    const at = (index % TILE_WIDTH) * HASH_BYTES;
    return above?.compare(tileRoot(hashes), 0, HASH_BYTES, at, at + HASH_BYTES) === 0;
  }

  /** Compares a tile with its hash in the one above it; the topmost one with the root. Resolves to the bytes read. */
  async #checkTile(tiles: Tiles, level: number, index: number): Promise<number> {
    const tile = tiles.tileAt(level, index);
    const hashes = await tiles.hashes(level, index);
    if (hashes === null) {
      await this.#judge(tile, tiles.size, "is missing or of a wrong length");
      return 0;
    }
    // A partial tile is held against the root, at the edge.
    if (tile.width < TILE_WIDTH) return hashes.length;
    const above = await tiles.hashes(level + 1, Math.floor(index / TILE_WIDTH));
    const at = (index % TILE_WIDTH) * HASH_BYTES;
    if (above === null) return hashes.length;
    const isBare = level === 0 && this.#isPruned(tiles.tileAt("entries", index));
    if (above.compare(tileRoot(hashes), 0, HASH_BYTES, at, at + HASH_BYTES) === 0) {
      await this.#judge(tile, tiles.size, null);
    } else if (level > 0 || isBare || !(await fitsBundle(tiles, index, hashes))) {
      await this.#judge(tile, tiles.size, "does not give its hash in the tile above");
    } else {
      const higher = tiles.tileAt(1, Math.floor(index / TILE_WIDTH));
      await this.#judge(higher, tiles.size, "is not what the tiles below it give");
    }
    return hashes.length;
  }
}

/** Tells if the hashes of a tile follow from the full tiles below it that are there. */
async function fitsBelow(
  tiles: Tiles,
  level: number,
  index: number,
  hashes: Buffer,
): Promise<boolean> {
  for (let i = 0; i * HASH_BYTES < hashes.length; i++) {
    const below = await tiles.hashes(level - 1, index * TILE_WIDTH + i);
    const at = i * HASH_BYTES;
    if (below !== null && hashes.compare(tileRoot(below), 0, HASH_BYTES, at, at + HASH_BYTES) !== 0)
      return false;
  }
  return true;
}

/** Tells if a tile of level 0 holds the leaf hashes of its bundle. */
async function fitsBundle(tiles: Tiles, index: number, hashes: Buffer): Promise<boolean> {
  const bundle = await tiles.bundle(index);
  const entries = bundle === null ? null : parseBundle(bundle, tiles.tileAt(0, index).width);
  if (entries === null) return false;
  return entries.every((entry, i) => {
    const at = i * HASH_BYTES;
    return hashes.compare(leafHash(entry), 0, HASH_BYTES, at, at + HASH_BYTES) === 0;
  });
}
