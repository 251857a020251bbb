/**
 * Lets go of a log's oldest entries. That is, in this order:
 *
 *     text over the entries that go -> `retention` entry -> checkpoint over it -> bundles removed
 *
 * A text is a draft until the entry names it: what a start finds in its place counts only by that entry (begin.ts), and a
 * text that is there already must be the one that the entries give. A removal that was cut short is taken up by the next start.
 * Never below a hold; and an entry bundle goes only after it was held against the tree once more.
 */
import { createHash } from "node:crypto";
import type { Logger } from "pino";
import type { FieldValue } from "../../record/codec.ts";
import {
  F_RETENTION_BEFORE,
  F_RETENTION_DIGEST,
  F_RETENTION_INDEX,
  KIND_RETENTION,
} from "../../record/fields.ts";
import { retentionName } from "../audit/retention-texts.ts";
import { MeshsealError } from "../errors.ts";
import {
  formatRetention,
  type HeldRange,
  lowestHeld,
  PRUNE_STEP,
  RetentionState,
  takeBundle,
} from "../log/retention.ts";
import { TILE_WIDTH } from "../log/tile.ts";
import { type Begin, NEWEST_FILE, readState } from "./begin.ts";
import type { Published } from "./published.ts";
import type { KeptBundle, Shelf } from "./shelf.ts";

/** Bundles removed between two looks at whether to stop. */
const CHUNK = 256;

export type PrunerOptions = {
  readonly origin: string;
  readonly shelf: Shelf;
  /** What was found at the start. */
  readonly begin: Begin;
  readonly log: { readonly size: number };
  readonly published: Published;
  /** The holds in force. */
  readonly held: () => Promise<ReadonlyMap<string, HeldRange>>;
  /** Writes an entry of the log's own chain. */
  readonly write: (kind: number, fields: readonly FieldValue[]) => Promise<void>;
  readonly signal: AbortSignal;
  readonly logger: Pick<Logger, "info" | "warn" | "error">;
};

/** What is to go: entries that the log took in before a time, or below an index. */
export type Wish = { readonly before: Date } | { readonly below: number };

export type Retained = {
  readonly minimumIndex: number;
  /** What it was before. */
  readonly was: number;
  /** Why not more, in words; empty if all that was asked for. */
  readonly because: string;
};

export class Pruner {
  readonly #options: PrunerOptions;
  #begin: Begin;
  #left = 0;
  #because: string | null = null;

  constructor(options: PrunerOptions) {
    this.#options = options;
    this.#begin = options.begin;
  }

  /** Where the log begins: entries below its minimum may be gone. */
  get begin(): Begin {
    return this.#begin;
  }

  /** Bundles below the minimum that are still there. */
  get left(): number {
    return this.#left;
  }

  /** Why they are, or null. */
  get because(): string | null {
    return this.#because;
  }

  /** Lets go of what is asked for, as far as it may go. With `isTrial` it only says what would go. */
  async retain(wish: Wish, isTrial: boolean): Promise<Retained> {
    const { published, held } = this.#options;
    const was = this.#begin.minimum;
    await published.catchUp();
    const index = await this.#indexOf(wish, published.size - (published.size % PRUNE_STEP));
    const lowest = lowestHeld((await held()).values());
    const allowed = Math.min(index, lowest - (lowest % PRUNE_STEP || 0));
    const because = allowed < index ? `a hold keeps entry ${lowest}` : "";
    if (allowed <= was) return { minimumIndex: was, was, because };
    if (!isTrial) await this.#commit(allowed, "before" in wish ? wish.before : null);
    return { minimumIndex: allowed, was, because };
  }

  /** Removes the bundles below the minimum, as far as the store lets them go. */
  async prune(): Promise<void> {
    const { shelf, logger, signal } = this.#options;
    const { minimum } = this.#begin;
    if (minimum === 0) return;
    const all: KeptBundle[] = [];
    for await (const bundle of shelf.bundles(minimum)) all.push(bundle);
    this.#because = null;
    this.#left = all.length;
    while (all.length > 0 && !signal.aborted) {
      const some = all.splice(0, CHUNK);
      this.#because = await shelf.remove(some);
      if (this.#because !== null) break;
      this.#left -= some.length;
    }
    if (this.#because !== null)
      logger.warn(
        { bundles: this.#left, because: this.#because },
        "bundles below the minimum index cannot be removed yet: tried again each hour",
      );
  }

  /** Returns below which entry all would go, of `end` in all. */
  async #indexOf(wish: Wish, end: number): Promise<number> {
    if ("below" in wish) return Math.min(wish.below - (wish.below % PRUNE_STEP), end);
    const { minimum } = this.#begin;
    let index = minimum;
    for await (const bundle of this.#options.shelf.bundles(end)) {
      if (bundle.index * TILE_WIDTH < minimum) continue;
      if (bundle.index * TILE_WIDTH !== index || bundle.written >= wish.before) break;
      index += TILE_WIDTH;
    }
    return index;
  }

  /** Makes the text, says so in the log, and removes the bundles. */
  async #commit(index: number, before: Date | null): Promise<void> {
    const { shelf, write, log, published, logger } = this.#options;
    const name = retentionName(index);
    const text = formatRetention(await this.#stateAt(index));
    const there = await shelf.get(name);
    if (there !== null && !there.equals(text)) {
      logger.error({ file: `retention/${name}` }, "somebody put another text in this place");
      throw new MeshsealError(
        `retention/${name} is not what the entries give: somebody put it there. Nothing is pruned. Keep it as evidence, and take it away.`,
      );
    }
    if (there === null) await shelf.put(name, text);
    const digest = createHash("sha256").update(text).digest();
    // An entry has its place at once.
    const entry = log.size;
    await write(KIND_RETENTION, [
      { number: F_RETENTION_INDEX, value: index },
      { number: F_RETENTION_DIGEST, value: digest },
      ...(before === null ? [] : [{ number: F_RETENTION_BEFORE, value: before.getTime() * 1000 }]),
    ]);
    await published.catchUp();
    logger.info({ minimumIndex: index }, "entries below it may go: the log says so");
    await shelf.replace(NEWEST_FILE, Buffer.from(`${entry}\n`));
    this.#begin = { minimum: index, digest };
    await this.prune();
  }

  async #stateAt(index: number): Promise<RetentionState> {
    const { shelf, origin, published, signal } = this.#options;
    const begin = this.#begin;
    const state = begin.minimum === 0 ? new RetentionState(origin) : await readState(shelf, begin);
    const proven = await published.open();
    while (state.index < index) {
      signal.throwIfAborted();
      const bundle = await proven.bundle(state.index / TILE_WIDTH);
      // Damage is evidence.
      if (bundle === null || !takeBundle(state, bundle, TILE_WIDTH))
        throw new MeshsealError(
          `entries from ${state.index} on are missing or damaged: nothing is pruned, run verify.`,
        );
    }
    return state;
  }
}
