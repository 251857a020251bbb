/**
 * The holds of a running exporter: which are in force, by the note of the last time (holds.ts) and the entries since then; placed and
 * lifted by an entry of the log; and the legal hold of a bucket on the bundles that they cover.
 */
import type { Logger } from "pino";
import { decodeEntry, type FieldValue } from "../../record/codec.ts";
import {
  F_HOLD_ACTION,
  F_HOLD_FROM,
  F_HOLD_NAME,
  F_HOLD_REASON,
  F_HOLD_TO,
  HOLD_LIFTED,
  HOLD_PLACED,
  KIND_HOLD,
} from "../../record/fields.ts";
import { MeshsealError } from "../errors.ts";
import type { Signer, Verifier } from "../log/note.ts";
import { parseBundle, TILE_WIDTH } from "../log/tile.ts";
import { type Begin, readState } from "./begin.ts";
import {
  applyHold,
  HOLD_NAME,
  HOLDS_FILE,
  type Hold,
  type Holds,
  MAX_HOLDS,
  openHolds,
  signHolds,
} from "./holds.ts";
import type { Published } from "./published.ts";
import type { KeptBundle, Shelf } from "./shelf.ts";

export type HoldBookOptions = {
  readonly shelf: Shelf;
  readonly signer: Signer;
  readonly verifiers: readonly Verifier[];
  /** Where the log begins now. */
  readonly begin: () => Begin;
  readonly published: Published;
  /** Writes an entry of the log's own chain. */
  readonly write: (kind: number, fields: readonly FieldValue[]) => Promise<void>;
  readonly signal: AbortSignal;
  readonly logger: Pick<Logger, "warn">;
};

export class HoldBook {
  readonly #options: HoldBookOptions;
  #holds: Holds | null = null;
  #legal: string | null = null;

  constructor(options: HoldBookOptions) {
    this.#options = options;
  }

  /** Why the legal holds of a bucket are not as they should be, or null. */
  get legal(): string | null {
    return this.#legal;
  }

  /** The holds in force. */
  async held(): Promise<Holds> {
    if (this.#holds !== null) return this.#holds;
    const { shelf, verifiers, published, signal } = this.#options;
    const begin = this.#options.begin();
    const bytes = await shelf.get(HOLDS_FILE);
    const opened = bytes === null ? null : openHolds(bytes, verifiers);
    const holds: Holds = opened?.holds ?? new Map();
    let from = opened?.size ?? begin.minimum;
    if (opened === null && begin.minimum > 0) {
      const before = (await readState(shelf, begin)).holds;
      for (const [name, range] of before) holds.set(name, { ...range, reason: "", appliedTo: 0 });
    }
    const proven = await published.open();
    from = Math.min(from, proven.tiles.size);
    for (let tile = Math.floor(from / TILE_WIDTH); tile * TILE_WIDTH < proven.tiles.size; tile++) {
      signal.throwIfAborted();
      const bundle = await proven.bundle(tile);
      const { width } = proven.tiles.tileAt("entries", tile);
      const entries = bundle === null ? null : parseBundle(bundle, width);
      if (entries === null)
        throw new MeshsealError("entries are missing or damaged: what is held is not known.");
      for (const [i, one] of entries.entries()) {
        const entry = tile * TILE_WIDTH + i < from ? null : decodeEntry(one);
        if (entry !== null) applyHold(holds, entry);
      }
    }
    await this.#save(holds, proven.tiles.size);
    return holds;
  }

  /** Holds entries [from, to), or all from `from` on. Throws MeshsealError where that cannot be. */
  async place(name: string, from: number, to: number | null, reason: string): Promise<Hold> {
    const held = await this.held();
    if (!HOLD_NAME.test(name))
      throw new MeshsealError(
        `"${name}" is no name of a hold: letters, digits, "._-", 64 at most.`,
      );
    if (held.has(name)) throw new MeshsealError(`there is a hold "${name}" already.`);
    if (held.size >= MAX_HOLDS) throw new MeshsealError(`there are ${held.size} holds already.`);
    const first = Math.max(from, this.#options.begin().minimum);
    if (to !== null && to <= first)
      throw new MeshsealError(`there is nothing to hold: entries below ${first} are let go.`);
    const hold = { from: first, to, reason, appliedTo: 0 };
    await this.#options.write(KIND_HOLD, [
      { number: F_HOLD_NAME, value: Buffer.from(name) },
      { number: F_HOLD_ACTION, value: HOLD_PLACED },
      { number: F_HOLD_FROM, value: first },
      ...(to === null ? [] : [{ number: F_HOLD_TO, value: to }]),
      { number: F_HOLD_REASON, value: Buffer.from(reason) },
    ]);
    await this.#options.published.catchUp();
    await this.#save(new Map([...held, [name, hold]]));
    await this.applyLegal();
    return (await this.held()).get(name) ?? hold;
  }

  /** Throws MeshsealError where there is no such hold. */
  async lift(name: string, reason: string): Promise<void> {
    const held = await this.held();
    const hold = held.get(name);
    if (hold === undefined) throw new MeshsealError(`there is no hold "${name}".`);
    await this.#options.write(KIND_HOLD, [
      { number: F_HOLD_NAME, value: Buffer.from(name) },
      { number: F_HOLD_ACTION, value: HOLD_LIFTED },
      { number: F_HOLD_REASON, value: Buffer.from(reason) },
    ]);
    await this.#options.published.catchUp();
    const rest = new Map(held);
    rest.delete(name);
    await this.#save(rest);
    const { legalHold, bundles } = this.#options.shelf;
    if (legalHold === undefined) return;
    const free: KeptBundle[] = [];
    const end = hold.to ?? Number.POSITIVE_INFINITY;
    for await (const bundle of bundles(Math.ceil(end / TILE_WIDTH) * TILE_WIDTH)) {
      const isHeld = [...rest.values()].some((other) => overlaps(bundle, other));
      if (overlaps(bundle, hold) && !isHeld) free.push(bundle);
    }
    this.#legal = await legalHold(free, false);
  }

  /** Sets the legal hold on the full bundles of each hold that have none yet. */
  async applyLegal(): Promise<void> {
    const { shelf, published, logger } = this.#options;
    if (shelf.legalHold === undefined) return;
    const end = published.size - (published.size % TILE_WIDTH);
    // Where the file is missing this is no reason to read the whole log.
    const bytes = this.#holds === null ? await shelf.get(HOLDS_FILE) : null;
    const holds = this.#holds ?? (bytes === null ? null : await this.held());
    for (const [name, hold] of holds ?? []) {
      const to = Math.min(end, Math.ceil((hold.to ?? end) / TILE_WIDTH) * TILE_WIDTH);
      if (hold.appliedTo >= to) continue;
      const due: KeptBundle[] = [];
      for await (const bundle of shelf.bundles(to)) {
        const isDone = (bundle.index + 1) * TILE_WIDTH <= hold.appliedTo;
        if (overlaps(bundle, hold) && !isDone) due.push(bundle);
      }
      this.#legal = await shelf.legalHold(due, true);
      if (this.#legal !== null) {
        logger.warn({ name, because: this.#legal }, "a legal hold cannot be set in the bucket");
        return;
      }
      await this.#save(new Map([...(await this.held()), [name, { ...hold, appliedTo: to }]]));
    }
  }

  async #save(holds: Holds, size = this.#options.published.size): Promise<void> {
    const { shelf, signer } = this.#options;
    await shelf.replace(HOLDS_FILE, signHolds(holds, size, signer));
    this.#holds = holds;
  }
}

function overlaps({ index }: KeptBundle, { from, to }: Pick<Hold, "from" | "to">): boolean {
  const first = index * TILE_WIDTH;
  return first + TILE_WIDTH > from && (to === null || first < to);
}
