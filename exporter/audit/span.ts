/**
 * A span: 16,384 entries, a quarter of those that one tile of level 1 covers, checked for everything that needs no other span,
 * so that many can be checked at a time. Its chains are summed up; ChainWalk.join holds them against what came before.
 *
 * A span where anything is out of the ordinary is null: it is then walked entry by entry, which says what and where.
 */
import { ENTRY_NEWER } from "../../record/codec.ts";
import {
  CHAIN_BYTES,
  DIGEST_BYTES,
  KIND_CLOSE,
  KIND_CONNECTION,
  KIND_REQUEST,
  KIND_REQUEST_START,
  KIND_SIGNATURE,
} from "../../record/fields.ts";
import { BundleReader } from "../log/bundle-reader.ts";
import { hashesAtLevel, TILE_WIDTH } from "../log/tile.ts";
import {
  CHAIN_AT,
  END,
  KIND,
  PREV_AT,
  SEQ,
  START,
  STREAM_ID_AT,
  TIME,
  VERDICT,
} from "../log/wasm.ts";
import type { Tiles } from "./tiles.ts";

/** Tiles of a span: few enough that threads end together, enough that its answer costs nothing. Divides TILE_WIDTH. */
export const SPAN_TILES: number = TILE_WIDTH / 4;
export const SPAN_ENTRIES: number = SPAN_TILES * TILE_WIDTH;

/** What a span has of one chain: entries `first` to `next` - 1, each linked to the one before. */
export type Stretch = {
  /** 32 hex digits. */
  readonly chain: string;
  readonly first: number;
  readonly prev: Uint8Array;
  readonly firstTime: number;
  next: number;
  head: Uint8Array;
  time: number;
  isClosed: boolean;
};

/** An entry that may say something beside its place in its chain. */
export type Noted = { readonly index: number; readonly bytes: Uint8Array };

export type Span = {
  readonly entries: number;
  /** In the order in which the chains begin. */
  readonly stretches: readonly Stretch[];
  /** Entries by kind. */
  readonly kinds: ReadonlyMap<number, number>;
  readonly noted: readonly Noted[];
  /** The latest time in each bundle, in microseconds. */
  readonly newest: readonly number[];
  /** Times that a chain's clock stepped back within the span. */
  readonly clockSteps: number;
  /** The tile of level 1 has the roots of the span's tiles. */
  readonly isLevelRight: boolean;
};

/** Kinds that say nothing of the log or of their chain, unless they have a stream's id: its other entry may be far away. */
const PLAIN: ReadonlySet<number> = new Set([KIND_REQUEST, KIND_REQUEST_START, KIND_CONNECTION]);

/** Spans in a log of `size` leaves. */
export function spansOf(size: number): number {
  return Math.ceil(size / SPAN_ENTRIES);
}

/** Reads and checks spans of a log, one at a time. */
export class SpanReader {
  readonly #tiles: Tiles;
  readonly #bundles = new BundleReader();

  constructor(tiles: Tiles) {
    this.#tiles = tiles;
  }

  /** Resolves to null where anything is out of the ordinary. Throws Unreachable where it cannot be read. Not before the last was read. */
  async read(index: number): Promise<Span | null> {
    const [tiles, bundles] = [this.#tiles, this.#bundles];
    const sum = new SpanSum(bundles);
    const firstTile = index * SPAN_TILES;
    const lastTile = Math.min(firstTile + SPAN_TILES, Math.ceil(tiles.size / TILE_WIDTH));
    const level = levelOf(index);
    const hasLevel = level * TILE_WIDTH < hashesAtLevel(tiles.size, 1);
    const above = hasLevel ? await tiles.hashes(1, level) : null;
    let isLevelRight = !hasLevel || above !== null;
    for (let tile = firstTile; tile < lastTile; tile++) {
      const bundle = tiles.tileAt("entries", tile);
      const { width } = bundle;
      const isPruned = tile * TILE_WIDTH < tiles.first;
      const [hasHashes, hasBundle] = await Promise.all([
        tiles.readInto(tiles.tileAt(0, tile), (bytes) => bundles.tile(bytes)),
        isPruned || tiles.readInto(bundle, (bytes) => bundles.bundle(bytes)),
      ]);
      if (!hasHashes || !hasBundle) return null;
      if (isPruned) sum.skip();
      else if (!bundles.scan(width) || !bundles.fits(width)) return null;
      else if (!sum.take(width, tile * TILE_WIDTH)) return null;
      const at = (tile - level * TILE_WIDTH) * DIGEST_BYTES;
      if (above !== null && width === TILE_WIDTH && !bundles.isUnder(above, at))
        isLevelRight = false;
    }
    return { ...sum.end(), isLevelRight };
  }
}

/** Returns the index of the tile of level 1 over span `index`. */
export function levelOf(index: number): number {
  return Math.floor((index * SPAN_TILES) / TILE_WIDTH);
}

/** What was found in a span so far, by what the bundle that was scanned last holds. */
class SpanSum {
  readonly #bundles: BundleReader;
  readonly #stretches = new Map<string, Stretch>();
  readonly #kinds = new Map<number, number>();
  readonly #noted: Noted[] = [];
  readonly #newest: number[] = [];
  #clockSteps = 0;
  #entries = 0;

  constructor(bundles: BundleReader) {
    this.#bundles = bundles;
  }

  /** Takes the `width` entries that were scanned, the first at leaf `first`. Returns false where anything is not as it must be. */
  take(width: number, first: number): boolean {
    const bundles = this.#bundles;
    let newest = 0;
    for (let from = 0; from < width; ) {
      const count = bundles.row(from, width);
      if (!this.#row(from, count)) return false;
      newest = Math.max(newest, bundles.newest);
      const isPlain =
        PLAIN.has(bundles.double(from, KIND)) && bundles.word(from, STREAM_ID_AT) === 0;
      if (!isPlain || bundles.word(from, VERDICT) === ENTRY_NEWER) {
        for (let i = from; i < from + count; i++) {
          const [start, end] = [bundles.word(i, START), bundles.word(i, END)];
          const bytes = Uint8Array.from(bundles.memory.subarray(start, end));
          this.#noted.push({ index: first + i, bytes });
        }
      }
      from += count;
    }
    this.#newest.push(newest);
    this.#entries += width;
    return true;
  }

  /** Takes a row of entries: what is between them is right. */
  #row(from: number, count: number): boolean {
    const bundles = this.#bundles;
    const { memory } = bundles;
    const kind = bundles.double(from, KIND);
    const seq = bundles.double(from, SEQ);
    const prevAt = bundles.word(from, PREV_AT);
    const time = bundles.double(from, TIME);
    const chainAt = bundles.word(from, CHAIN_AT);
    const chain = memory.toString("hex", chainAt, chainAt + CHAIN_BYTES);
    let stretch = this.#stretches.get(chain);
    if (stretch === undefined) {
      const prev = new Uint8Array(DIGEST_BYTES);
      memory.copy(prev, 0, prevAt, prevAt + DIGEST_BYTES);
      stretch = {
        ...{ chain, first: seq, prev, firstTime: time, next: seq, time, isClosed: false },
        head: new Uint8Array(DIGEST_BYTES),
      };
      this.#stretches.set(chain, stretch);
    } else {
      if (stretch.next !== seq) return false;
      if (memory.compare(stretch.head, 0, DIGEST_BYTES, prevAt, prevAt + DIGEST_BYTES) !== 0)
        return false;
      if (time < stretch.time) this.#clockSteps++;
    }
    // A close is the last of its chain but for its signature.
    if (stretch.isClosed && kind !== KIND_SIGNATURE) return false;
    if (kind === KIND_CLOSE && count > 1) return false;
    stretch.next = seq + count;
    stretch.time = bundles.time;
    stretch.isClosed ||= kind === KIND_CLOSE;
    bundles.copyDigest(from + count - 1, stretch.head);
    this.#clockSteps += bundles.steps;
    this.#kinds.set(kind, (this.#kinds.get(kind) ?? 0) + count);
    return true;
  }

  /** Passes over a bundle that was pruned. */
  skip(): void {
    this.#newest.push(0);
  }

  end(): Omit<Span, "isLevelRight"> {
    return {
      entries: this.#entries,
      stretches: [...this.#stretches.values()],
      kinds: this.#kinds,
      noted: this.#noted,
      newest: this.#newest,
      clockSteps: this.#clockSteps,
    };
  }
}
