/** Where a log that was pruned begins, as a start finds it, and what of its chains is known by that. */
import { retentionName } from "../audit/retention-texts.ts";
import { MeshsealError } from "../errors.ts";
import type { Chains } from "../intake/chains.ts";
import { parseRetention } from "../log/retention.ts";
import { TILE_WIDTH } from "../log/tile.ts";
import type { Shelf } from "./shelf.ts";

/** Returns the minimum index: 0 unless the log was pruned. Only bundles in order from there on can be relied on. */
export async function findMinimum(shelf: Shelf): Promise<number> {
  const texts = await shelf.texts();
  if (texts.length === 0) return 0;
  let first = 0;
  for await (const { index } of shelf.bundles(Number.POSITIVE_INFINITY)) {
    first = index * TILE_WIDTH;
    break;
  }
  if (first === 0) return 0;
  // What is gone below it was let go of by the first text that stands for at least as much.
  return texts.find((index) => index >= first) ?? texts.at(-1) ?? 0;
}

/** Gives the index of chains what it needs of pruned entries, where it was made anew. Throws MeshsealError where that is lost. */
export async function restoreChains(shelf: Shelf, minimum: number, chains: Chains): Promise<void> {
  if (chains.size >= minimum) return;
  const text = await shelf.get(retentionName(minimum));
  const state = text === null ? null : parseRetention(text);
  if (state === null)
    throw new MeshsealError(
      `retention/${retentionName(minimum)} is missing or damaged: chains cannot go on without it.`,
    );
  for (const [id, { next, head, sender }] of state.chains)
    chains.restore(id, next, head, sender.toString());
}
