/**
 * Retention and holds in a running exporter. To retain is, in this order:
 *
 *     text over the entries that go -> `retention` entry -> checkpoint over it -> bundles removed
 *
 * A text is a draft until the entry names it: what a start finds in its place counts only by that entry (begin.ts), and a
 * text that is there already must be the one that the entries give. A removal that was cut short is taken up by the next start.
 * Never below a hold; and an entry bundle goes only after it was held against the tree once more. What a store still keeps
 * locked stays, and is tried again each hour.
 */
import { createHash } from "node:crypto";
import type { Logger } from "pino";
import { decodeEntry, type FieldValue } from "../../record/codec.ts";
import {
  F_HOLD_ACTION,
  F_HOLD_FROM,
  F_HOLD_NAME,
  F_HOLD_REASON,
  F_HOLD_TO,
  F_RETENTION_BEFORE,
  F_RETENTION_DIGEST,
  F_RETENTION_INDEX,
  HOLD_LIFTED,
  HOLD_PLACED,
  KIND_HOLD,
  KIND_RETENTION,
} from "../../record/fields.ts";
import { ProvenTiles } from "../audit/proven.ts";
import { retentionName } from "../audit/retention-texts.ts";
import { Tiles } from "../audit/tiles.ts";
import { MeshsealError } from "../errors.ts";
import type { Checkpoint } from "../log/checkpoint.ts";
import type { Signer, Verifier } from "../log/note.ts";
import {
  formatRetention,
  lowestHeld,
  PRUNE_STEP,
  RetentionState,
  takeBundle,
} from "../log/retention.ts";
import { parseBundle, TILE_WIDTH } from "../log/tile.ts";
import { type Begin, NEWEST_FILE, readState } from "./begin.ts";
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
import type { KeptBundle, Shelf } from "./shelf.ts";

const HOUR_MS = 3_600_000;
/** Each look for new bundles of a hold lists those that are there. */
const LEGAL_MS = 600_000;
/** Bundles removed, or given a legal hold, between two looks at the rest of the world. */
const CHUNK = 256;

export type KeeperOptions = {
  readonly origin: string;
  readonly shelf: Shelf;
  readonly signer: Signer;
  readonly verifiers: readonly Verifier[];
  /** What was found at the start. */
  readonly begin: Begin;
  readonly log: {
    readonly size: number;
    readonly checkpoint: Pick<Checkpoint, "size" | "root">;
    readonly publish: () => Promise<void>;
  };
  /** Returns a published file of the log. */
  readonly read: (path: string) => Promise<Buffer | null>;
  /** Writes an entry of the log's own chain. */
  readonly write: (kind: number, fields: readonly FieldValue[]) => Promise<void>;
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

export type RetentionStatus = {
  readonly minimumIndex: number;
  /** Bundles below it that are still there, and why. */
  readonly left: number;
  readonly because: string | null;
  readonly holds: readonly (Hold & { readonly name: string })[];
  /** Why the legal holds of a bucket are not as they should be, or null. */
  readonly legalHolds: string | null;
};

export class Keeper {
  readonly #options: KeeperOptions;
  #begin: Begin;
  #left = 0;
  #because: string | null = null;
  #legal: string | null = null;
  #holds: Holds | null = null;
  #last: Promise<unknown> = Promise.resolve();
  readonly #timers: NodeJS.Timeout[] = [];
  #isStopped = false;

  constructor(options: KeeperOptions) {
    this.#options = options;
    this.#begin = options.begin;
  }

  /** Entries below it may be gone. */
  get minimum(): number {
    return this.#begin.minimum;
  }

  /** Takes up what a start before left undone, and goes on with what needs time. */
  start(): void {
    const quietly = (work: () => Promise<void>): void => {
      this.#inTurn(work).catch((err: unknown) =>
        this.#options.logger.warn({ err }, "retention has to wait"),
      );
    };
    quietly(() => this.#resume());
    this.#timers.push(setInterval(() => quietly(() => this.#prune()), HOUR_MS));
    if (this.#options.shelf.legalHold !== undefined)
      this.#timers.push(setInterval(() => quietly(() => this.#applyLegal()), LEGAL_MS));
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    for (const timer of this.#timers) clearInterval(timer);
    await this.#last;
  }

  status(): Promise<RetentionStatus> {
    return this.#inTurn(async () => ({
      minimumIndex: this.minimum,
      left: this.#left,
      because: this.#because,
      holds: [...(await this.#held())].map(([name, hold]) => ({ name, ...hold })),
      legalHolds: this.#legal,
    }));
  }

  /** Lets go of what is asked for, as far as it may go. With `isTrial` it only says what would go. */
  retain(wish: Wish, isTrial: boolean): Promise<Retained> {
    return this.#inTurn(() => this.#retain(wish, isTrial));
  }

  place(name: string, from: number, to: number | null, reason: string): Promise<Hold> {
    return this.#inTurn(() => this.#place(name, from, to, reason));
  }

  lift(name: string, reason: string): Promise<void> {
    return this.#inTurn(() => this.#lift(name, reason));
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#last.then(work);
    this.#last = run.catch(() => undefined);
    return run;
  }

  async #retain(wish: Wish, isTrial: boolean): Promise<Retained> {
    const { shelf, log } = this.#options;
    const was = this.minimum;
    await this.#publish(log.size);
    const published = log.checkpoint.size - (log.checkpoint.size % PRUNE_STEP);
    let index = was;
    if ("below" in wish) index = Math.min(wish.below - (wish.below % PRUNE_STEP), published);
    else {
      for await (const bundle of shelf.bundles(published)) {
        if (bundle.index * TILE_WIDTH < was) continue;
        if (bundle.index * TILE_WIDTH !== index || bundle.written >= wish.before) break;
        index += TILE_WIDTH;
      }
    }
    const lowest = lowestHeld((await this.#held()).values());
    const allowed = Math.min(index, lowest - (lowest % PRUNE_STEP || 0));
    const because = allowed < index ? `a hold keeps entry ${lowest}` : "";
    if (allowed <= was) return { minimumIndex: was, was, because };
    if (!isTrial) await this.#commit(allowed, "before" in wish ? wish.before : null);
    return { minimumIndex: allowed, was, because };
  }

  /** Makes the text, says so in the log, and removes the bundles. */
  async #commit(index: number, before: Date | null): Promise<void> {
    const { shelf, write, log, logger } = this.#options;
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
    await this.#publish(log.size);
    logger.info({ minimumIndex: index }, "entries below it may go: the log says so");
    await shelf.replace(NEWEST_FILE, Buffer.from(`${entry}\n`));
    this.#begin = { minimum: index, digest };
    await this.#prune();
  }

  /** Until a checkpoint covers `size` entries. Where another exporter has taken the log over, this rejects. */
  async #publish(size: number): Promise<void> {
    const { log } = this.#options;
    while (log.checkpoint.size < size) {
      if (this.#isStopped) throw new Error("stopping");
      await log.publish();
      if (log.checkpoint.size < size) await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async #stateAt(index: number): Promise<RetentionState> {
    const { shelf, origin } = this.#options;
    const state =
      this.minimum === 0 ? new RetentionState(origin) : await readState(shelf, this.#begin);
    const proven = await this.#open();
    while (state.index < index) {
      if (this.#isStopped) throw new Error("stopping");
      const bundle = await proven.bundle(state.index / TILE_WIDTH);
      // Damage is evidence.
      if (bundle === null || !takeBundle(state, bundle, TILE_WIDTH))
        throw new MeshsealError(
          `entries from ${state.index} on are missing or damaged: nothing is pruned, run verify.`,
        );
    }
    return state;
  }

  /** The log as it is now, each byte held against the newest checkpoint. */
  async #open(): Promise<ProvenTiles> {
    const { log, read } = this.#options;
    for (;;) {
      const { size, root } = log.checkpoint;
      const proven = await ProvenTiles.open(new Tiles({ read }, size), root);
      if (proven !== null) return proven;
      // The edge may have moved on meanwhile.
      if (log.checkpoint.size === size)
        throw new MeshsealError("the log's newest tiles are missing or damaged: run verify.");
    }
  }

  async #prune(): Promise<void> {
    const { shelf, logger } = this.#options;
    if (this.minimum === 0) return;
    const all: KeptBundle[] = [];
    for await (const bundle of shelf.bundles(this.minimum)) all.push(bundle);
    this.#because = null;
    this.#left = all.length;
    while (all.length > 0 && !this.#isStopped) {
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

  async #resume(): Promise<void> {
    await this.#prune();
    await this.#applyLegal();
  }

  /** The holds in force: by the note of the last time, and by the entries since then. */
  async #held(): Promise<Holds> {
    if (this.#holds !== null) return this.#holds;
    const { shelf, verifiers } = this.#options;
    const bytes = await shelf.get(HOLDS_FILE);
    const opened = bytes === null ? null : openHolds(bytes, verifiers);
    const holds: Holds = opened?.holds ?? new Map();
    let from = opened?.size ?? this.minimum;
    if (opened === null && this.minimum > 0) {
      const before = (await readState(shelf, this.#begin)).holds;
      for (const [name, range] of before) holds.set(name, { ...range, reason: "", appliedTo: 0 });
    }
    const proven = await this.#open();
    from = Math.min(from, proven.tiles.size);
    for (let tile = Math.floor(from / TILE_WIDTH); tile * TILE_WIDTH < proven.tiles.size; tile++) {
      if (this.#isStopped) throw new Error("stopping");
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

  async #save(holds: Holds, size = this.#options.log.checkpoint.size): Promise<void> {
    const { shelf, signer } = this.#options;
    await shelf.replace(HOLDS_FILE, signHolds(holds, size, signer));
    this.#holds = holds;
  }

  async #place(name: string, from: number, to: number | null, reason: string): Promise<Hold> {
    const held = await this.#held();
    if (!HOLD_NAME.test(name))
      throw new MeshsealError(
        `"${name}" is no name of a hold: letters, digits, "._-", 64 at most.`,
      );
    if (held.has(name)) throw new MeshsealError(`there is a hold "${name}" already.`);
    if (held.size >= MAX_HOLDS) throw new MeshsealError(`there are ${held.size} holds already.`);
    const first = Math.max(from, this.minimum);
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
    await this.#publish(this.#options.log.size);
    await this.#save(new Map([...held, [name, hold]]));
    await this.#applyLegal();
    return (await this.#held()).get(name) ?? hold;
  }

  async #lift(name: string, reason: string): Promise<void> {
    const held = await this.#held();
    const hold = held.get(name);
    if (hold === undefined) throw new MeshsealError(`there is no hold "${name}".`);
    await this.#options.write(KIND_HOLD, [
      { number: F_HOLD_NAME, value: Buffer.from(name) },
      { number: F_HOLD_ACTION, value: HOLD_LIFTED },
      { number: F_HOLD_REASON, value: Buffer.from(reason) },
    ]);
    await this.#publish(this.#options.log.size);
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
  async #applyLegal(): Promise<void> {
    const { shelf, log, logger } = this.#options;
    if (shelf.legalHold === undefined) return;
    const end = log.checkpoint.size - (log.checkpoint.size % TILE_WIDTH);
    // Where the file is missing this is no reason to read the whole log.
    const bytes = this.#holds === null ? await shelf.get(HOLDS_FILE) : null;
    const holds = this.#holds ?? (bytes === null ? null : await this.#held());
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
      await this.#save(new Map([...(await this.#held()), [name, { ...hold, appliedTo: to }]]));
    }
  }
}

function overlaps({ index }: KeptBundle, { from, to }: Pick<Hold, "from" | "to">): boolean {
  const first = index * TILE_WIDTH;
  return first + TILE_WIDTH > from && (to === null || first < to);
}
