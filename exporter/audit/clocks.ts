/**
 * What time stamps say of the clocks that entries were made with: an entry below a stamp existed when the stamp was made, so it cannot be from
 * later. One that claims to be shows a clock that was ahead. A clock that is behind shows in nothing that outsiders say but in the delays.
 */
import { decodeEntry } from "../../record/codec.ts";
import { TILE_WIDTH } from "../log/tile.ts";
import type { Tiles } from "./tiles.ts";

/** The first `size` entries existed at `time` (Unix seconds), which is good to `slack` seconds. */
export type Stamp = { readonly size: number; readonly time: number; readonly slack: number };

export type Ahead = {
  readonly entries: number;
  /** The first of them, and by how many seconds. */
  readonly index: number;
  readonly seconds: number;
  /** Not all bundles that may hold such were read. */
  readonly isSample: boolean;
};

/** Bundles that are read entry by entry at most. */
const MAX_BUNDLES = 1000;

/** `newest` has the latest time in each bundle, in microseconds. Resolves to null where no entry claims to be from after its stamp. */
export async function entriesAhead(
  tiles: Tiles,
  newest: readonly number[],
  stamps: readonly Stamp[],
): Promise<Ahead | null> {
  // From the largest size down, the latest moment at which entries below it can have been made.
  const bounds = new Map<number, number>();
  let least = Number.POSITIVE_INFINITY;
  for (const { size, time, slack } of [...stamps].sort((a, b) => b.size - a.size)) {
    least = Math.min(least, (time + slack) * 1e6);
    bounds.set(size, least);
  }
  const sizes = [...bounds.keys()].sort((a, b) => a - b);
  let at = 0;
  let read = 0;
  const found = { entries: 0, index: -1, seconds: 0 };
  let isSample = false;
  for (let bundle = 0; bundle < newest.length; bundle++) {
    const first = bundle * TILE_WIDTH;
    while ((sizes[at] ?? Number.POSITIVE_INFINITY) <= first) at++;
    const size = sizes[at];
    if (size === undefined) break;
    if ((newest[bundle] ?? 0) <= (bounds.get(size) ?? 0)) continue;
    if (++read > MAX_BUNDLES) {
      isSample = true;
      break;
    }
    const entries = await tiles.entries(bundle);
    let next = at;
    for (const [i, entry] of (entries ?? []).entries()) {
      while ((sizes[next] ?? Number.POSITIVE_INFINITY) <= first + i) next++;
      const bound = bounds.get(sizes[next] ?? -1);
      if (bound === undefined) break;
      const late = (decodeEntry(entry)?.time ?? 0) - bound;
      if (late <= 0) continue;
      if (found.entries === 0) {
        found.index = first + i;
        found.seconds = Math.ceil(late / 1e6);
      }
      found.entries++;
    }
  }
  return found.entries === 0 ? null : { ...found, isSample };
}
