/**
 * A span: 65,536 entries that one tile of level 1 covers, checked for everything that needs no other span, so that many
 * can be checked at a time. Its chains are summed up; ChainWalk.join holds them against what came before.
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
import { scanBundle } from "../log/hasher.ts";
import { hashesAtLevel, TILE_WIDTH, tileRoot } from "../log/tile.ts";
import {
  CHAIN_AT,
  END,
  KIND,
  PLACE_DOUBLES,
  PLACE_WORDS,
  PREV_AT,
  SEQ,
  START,
  STREAM_ID_AT,
  TIME,
  VERDICT,
} from "../log/wasm.ts";
import type { Tiles } from "./tiles.ts";

/** Tiles of a span. */
export const SPAN_TILES: number = TILE_WIDTH;
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
  /** The tile of level 1 has the roots of the tiles below it. */
  readonly isLevelRight: boolean;
};

/** Kinds that say nothing of the log or of their chain, unless they have a stream's id: its other entry may be far away. */
const PLAIN: ReadonlySet<number> = new Set([KIND_REQUEST, KIND_REQUEST_START, KIND_CONNECTION]);

/** Spans in a log of `size` leaves. */
export function spansOf(size: number): number {
  return Math.ceil(size / SPAN_ENTRIES);
}

/** Reads and checks span `index`. Throws Unreachable where it cannot be read. */
export async function readSpan(tiles: Tiles, index: number): Promise<Span | null> {
  const reader = new SpanReader();
  const firstTile = index * SPAN_TILES;
  const lastTile = Math.min(firstTile + SPAN_TILES, Math.ceil(tiles.size / TILE_WIDTH));
  const hasLevel = index * TILE_WIDTH < hashesAtLevel(tiles.size, 1);
  const above = hasLevel ? await tiles.hashes(1, index) : null;
  let isLevelRight = !hasLevel || above !== null;
  for (let tile = firstTile; tile < lastTile; tile++) {
    const { width } = tiles.tileAt("entries", tile);
    const isPruned = tile * TILE_WIDTH < tiles.first;
    const [hashes, bundle] = await Promise.all([
      tiles.hashes(0, tile),
      isPruned ? null : tiles.bundle(tile),
    ]);
    if (hashes === null) return null;
    if (isPruned) reader.skip();
    else if (bundle === null || !reader.take(bundle, hashes, width, tile * TILE_WIDTH)) return null;
    if (above !== null && width === TILE_WIDTH) {
      const at = (tile - firstTile) * DIGEST_BYTES;
      if (above.compare(tileRoot(hashes), 0, DIGEST_BYTES, at, at + DIGEST_BYTES) !== 0) {
        isLevelRight = false;
      }
    }
  }
  return { ...reader.sum(), isLevelRight };
}

class SpanReader {
  readonly #stretches = new Map<string, Stretch>();
  readonly #kinds = new Map<number, number>();
  readonly #noted: Noted[] = [];
  readonly #newest: number[] = [];
  #clockSteps = 0;
  #entries = 0;

  /** Takes a bundle of `width` entries, the first at leaf `first`. Returns false where anything is not as it must be. */
  take(bundle: Buffer, hashes: Buffer, width: number, first: number): boolean {
    const scanned = scanBundle(bundle, width);
    if (scanned === null || !scanned.leaves.equals(hashes)) return false;
    const { bundle: bytes, leaves, words, doubles } = scanned;
    let stretch: Stretch | undefined;
    let chainAt = -1;
    let headAt = -1;
    let newest = 0;
    for (let i = 0; i < width; i++) {
      const word = i * PLACE_WORDS;
      const double = i * PLACE_DOUBLES;
      const prevAt = words[word + PREV_AT] as number;
      const kind = doubles[double + KIND] as number;
      const seq = doubles[double + SEQ] as number;
      const time = doubles[double + TIME] as number;
      // Neighbours are mostly of one chain: then its id is not looked up.
      const idAt = words[word + CHAIN_AT] as number;
      if (chainAt < 0 || !isSame(bytes, chainAt, bytes, idAt, CHAIN_BYTES)) {
        if (stretch !== undefined) stretch.head = digestAt(leaves, headAt);
        chainAt = idAt;
        const chain = bytes.toString("hex", chainAt, chainAt + CHAIN_BYTES);
        stretch = this.#stretches.get(chain);
        headAt = -1;
        if (stretch === undefined) {
          stretch = {
            chain,
            first: seq,
            prev: digestAt(bytes, prevAt),
            firstTime: time,
            next: seq,
            head: new Uint8Array(DIGEST_BYTES),
            time,
            isClosed: false,
          };
          this.#stretches.set(chain, stretch);
        }
      }
      if (stretch === undefined || stretch.next !== seq) return false;
      if (stretch.isClosed && kind !== KIND_SIGNATURE) return false;
      if (seq !== stretch.first) {
        const isLinked =
          headAt < 0
            ? isSame(bytes, prevAt, stretch.head, 0, DIGEST_BYTES)
            : isSame(bytes, prevAt, leaves, headAt, DIGEST_BYTES);
        if (!isLinked) return false;
      }
      if (time < stretch.time) this.#clockSteps++;
      if (time > newest) newest = time;
      stretch.next = seq + 1;
      stretch.time = time;
      stretch.isClosed ||= kind === KIND_CLOSE;
      headAt = i * DIGEST_BYTES;
      this.#kinds.set(kind, (this.#kinds.get(kind) ?? 0) + 1);
      const isPlain = PLAIN.has(kind) && words[word + STREAM_ID_AT] === 0;
      if (!isPlain || words[word + VERDICT] === ENTRY_NEWER) {
        const [from, to] = [words[word + START] as number, words[word + END] as number];
        this.#noted.push({ index: first + i, bytes: Uint8Array.from(bytes.subarray(from, to)) });
      }
    }
    if (stretch !== undefined) stretch.head = digestAt(leaves, headAt);
    this.#newest.push(newest);
    this.#entries += width;
    return true;
  }

  /** Passes over a bundle that was pruned. */
  skip(): void {
    this.#newest.push(0);
  }

  sum(): Omit<Span, "isLevelRight"> {
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

function digestAt(bytes: Uint8Array, at: number): Uint8Array {
  return Uint8Array.prototype.slice.call(bytes, at, at + DIGEST_BYTES);
}

function isSame(a: Uint8Array, aAt: number, b: Uint8Array, bAt: number, length: number): boolean {
  for (let i = 0; i < length; i++) if (a[aAt + i] !== b[bAt + i]) return false;
  return true;
}
