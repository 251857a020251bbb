/** The service level, measured from a log's entries: how long after an entry was made the first outsider had seen a checkpoint over it. */
import type { Step } from "../anchor/entries.ts";
import { entryAges, type ReadBundle } from "../anchor/latency.ts";
import type { Tiles } from "./tiles.ts";

export type Delays = {
  /** Entries that were read for it: all of a small log, a sample of a large one. */
  readonly entries: number;
  readonly medianSeconds: number;
  readonly p99Seconds: number;
  readonly worstSeconds: number;
};

/** Bundles that are read at most: 131,072 entries, and seconds where each is a request. */
const MAX_BUNDLES = 512;

/** Resolves to the delays by the times in entries and `steps`, or null where nobody outside saw any of them. */
export async function measureDelays(tiles: Tiles, steps: readonly Step[]): Promise<Delays | null> {
  const known = steps.filter(({ size }) => size <= tiles.size);
  const stride = Math.max(1, known.length / MAX_BUNDLES);
  const each = Math.max(1, Math.floor(MAX_BUNDLES / Math.max(1, known.length)));
  const bundle: ReadBundle = async (index, width) => {
    const entries = await tiles.entries(index);
    return entries?.slice(0, width) ?? null;
  };
  const ages: number[] = [];
  for (let at = 0; at < known.length; at += stride) {
    const step = known[Math.floor(at)];
    if (step === undefined) break;
    const { from, size, time } = step;
    ages.push(...(await entryAges(bundle, from, size, time, 0, each)));
  }
  if (ages.length === 0) return null;
  ages.sort((a, b) => a - b);
  return {
    entries: ages.length,
    medianSeconds: rank(ages, 0.5),
    p99Seconds: rank(ages, 0.99),
    worstSeconds: rank(ages, 1),
  };
}

/** Returns the smallest value that a share `q` of them is not above. Requires a sorted list that is not empty. */
function rank(sorted: readonly number[], q: number): number {
  const value = sorted[Math.max(0, Math.ceil(sorted.length * q) - 1)] ?? 0;
  return Math.round(value * 1000) / 1000;
}
