/**
 * Makes the log of what is durable in the WAL: tree, tiles, checkpoint, in this order:
 *
 *     add -> leaves -> full tiles written | publish -> partial tiles -> checkpoint, fsynced | sync -> tiles fsynced
 *
 * A checkpoint is signed once all its tiles can be read, not once they would survive a loss of power: the WAL keeps
 * every entry until `sync` has said that its tiles do, and `restore` with `add` writes them anew. Nothing signed is
 * ever contradicted: `add` compares the root on its way through the size of the last checkpoint.
 *
 * Operations run one after the other. An `add` that failed leaves half a tree: none runs after it, whoever asked for it before.
 * Knows no threads; publisher-thread.ts gives it one.
 */

import { each } from "../each.ts";
import { codeOf } from "../errors.ts";
import type { Store } from "../store/store.ts";
import { type Checkpoint, openCheckpoint, signCheckpoint } from "./checkpoint.ts";
import { emptyRoot, HASH_BYTES } from "./merkle.ts";
import { addLines, type Signer, type Verifier } from "./note.ts";
import { hashesAtLevel, TILE_WIDTH, type Tile, tilePath, tileRoot } from "./tile.ts";
import { endOfEntries, type TileBytes, Tree } from "./tree.ts";
import { parseRecord } from "./wal.ts";

/** Tiles written at the same time. */
const WRITES_AT_ONCE = 16;

/** Time between two tries when the disk is full, in milliseconds. */
const RETRY_MS = 500;

export type PublisherOptions = {
  readonly store: Store;
  readonly signer: Signer;
  /** All that sign checkpoints; `signer` first. */
  readonly signers: readonly Signer[];
  /** Their keys, and those that signed before: what the last checkpoint is signed with. */
  readonly verifiers: readonly Verifier[];
  readonly onDiskFull: (isFull: boolean) => void;
};

export class Publisher {
  readonly #options: PublisherOptions;
  readonly #tree = new Tree();
  #last: Promise<unknown> = Promise.resolve();
  /** What an `add` failed with. */
  #failure: { readonly error: unknown } | null = null;
  #checkpoint: Checkpoint;
  /** From `restore` to `recovered`: what stands beyond the restored tree may be torn, and is written over. */
  #isRecovering = false;
  /** Full tiles that are to be written over. */
  readonly #remade: TileBytes[] = [];
  /** Tiles, by the path they will have when full, of which partial ones are in the store. */
  readonly #partial = new Set<string>();
  /** Full tiles whose partial ones go with the checkpoint after the next: its readers may still ask for them. */
  #superseded: string[] = [];

  constructor(options: PublisherOptions) {
    this.#options = options;
    this.#checkpoint = { origin: options.signer.name, size: 0, root: emptyRoot() };
  }

  /**
   * Takes the log up as it was when it had `from` leaves, and resolves to its checkpoint. `from` is a multiple of 256, or
   * -1 for the checkpoint's own size. All from `from` on must be added again. Rejects where the log is damaged.
   */
  restore(from: number): Promise<Checkpoint> {
    return this.#then(() => this.#restore(from));
  }

  /** Appends a record of the WAL; entries the tree has are skipped. `leaves` are the leaf hashes of all entries in it. */
  add(record: Buffer, leaves: Buffer): Promise<void> {
    return this.#then(async () => {
      try {
        await this.#add(record, leaves);
      } catch (error) {
        this.#failure = { error };
        throw error;
      }
    });
  }

  /** Ends the recovery: all of the WAL was added. Rejects where it ends before the checkpoint. */
  recovered(): Promise<Checkpoint> {
    return this.#then(() => this.#recovered());
  }

  /** Signs and writes a checkpoint over all that was added, if it is more than the last one covers. */
  publish(): Promise<Checkpoint> {
    return this.#then(() => this.#publish());
  }

  /**
   * Adds cosignature lines, which must have been verified, to the checkpoint of `size`. A newer checkpoint has none yet, and
   * is left alone: the log waits for no witness.
   */
  cosign(size: number, lines: readonly string[]): Promise<void> {
    return this.#then(() => this.#cosign(size, lines));
  }

  /**
   * Resolves to the number of leaves, a multiple of 256, whose tiles and bundles survive a loss of power, as does the
   * checkpoint over them.
   */
  async sync(): Promise<number> {
    // What comes after goes on meanwhile: the store knows what was put before.
    const { size, synced } = await this.#then(async () => {
      const synced = this.#options.store.sync();
      synced.catch(() => undefined);
      return { size: this.#checkpoint.size, synced };
    });
    await synced;
    return size - (size % TILE_WIDTH);
  }

  /** Leaves nothing superseded behind, and all synced. */
  close(): Promise<void> {
    return this.#then(async () => {
      for (const path of this.#superseded.splice(0)) await this.#options.store.removePartials(path);
      await this.#options.store.sync();
    });
  }

  #then<T>(operation: () => Promise<T>): Promise<T> {
    const run = this.#last.then(() => {
      if (this.#failure !== null) throw this.#failure.error;
      return operation();
    });
    this.#last = run.catch(() => undefined);
    return run;
  }

  async #restore(from: number): Promise<Checkpoint> {
    const { store, verifiers } = this.#options;
    const note = await store.get("checkpoint");
    if (note !== null) {
      const signedBy = verifiers.find((verifier) => openCheckpoint(note, verifier) !== null);
      const checkpoint = signedBy === undefined ? null : openCheckpoint(note, signedBy);
      if (checkpoint === null) throw new Error("log/checkpoint is not signed by log.key");
      this.#checkpoint = checkpoint;
    }
    const { size } = this.#checkpoint;
    const start = from === -1 ? size : from;
    if (start > size) throw new Error(`the WAL begins at leaf ${start}, the log ends at ${size}`);
    const edges: Buffer[] = [];
    for (let level = 0; hashesAtLevel(start, level) > 0; level++) {
      edges.push(await this.#edge(start, level, from === -1));
    }
    const last = start % TILE_WIDTH;
    const bundle =
      last === 0
        ? Buffer.alloc(0)
        : await this.#read({ level: "entries", index: (start - last) / TILE_WIDTH, width: last });
    this.#tree.restore(start, edges, bundle);
    this.#isRecovering = true;
    if (start === size) this.#compareRoot();
    return this.#checkpoint;
  }

  async #recovered(): Promise<Checkpoint> {
    const { store } = this.#options;
    if (this.#tree.size < this.#checkpoint.size) {
      const message = `log/checkpoint has ${this.#checkpoint.size} leaves, tiles and WAL only ${this.#tree.size}`;
      throw new Error(`${message}: run verify`);
    }
    await this.#each(this.#tree.partials(), async ({ tile, bytes }) => {
      const path = tilePath({ ...tile, width: TILE_WIDTH });
      await store.removePartials(path);
      this.#partial.add(path);
      await store.replace(tilePath(tile), bytes);
    });
    this.#isRecovering = false;
    // What a crash kept from its place below the checkpoint.
    await store.sync();
    return await this.#publish();
  }

  /** Returns the hashes of the partial tile of a level: from its file, or from the full tiles below it. */
  async #edge(size: number, level: number, fromFile: boolean): Promise<Buffer> {
    const hashes = hashesAtLevel(size, level);
    const width = hashes % TILE_WIDTH;
    const index = Math.floor(hashes / TILE_WIDTH);
    if (width === 0) return Buffer.alloc(0);
    if (fromFile) return await this.#read({ level, index, width });
    // A partial tile may be gone or torn; what it held follows from tiles that are synced.
    const edge = Buffer.alloc(width * HASH_BYTES);
    for (let i = 0; i < width; i++) {
      const below = { level: level - 1, index: index * TILE_WIDTH + i, width: TILE_WIDTH };
      edge.set(tileRoot(await this.#read(below)), i * HASH_BYTES);
    }
    return edge;
  }

  async #read(tile: Tile): Promise<Buffer> {
    const path = tilePath(tile);
    const bytes = await this.#options.store.get(path);
    if (bytes === null) throw new Error(`${path} of the log is missing: run verify`);
    if (tile.level !== "entries" && bytes.length !== tile.width * HASH_BYTES) {
      throw new Error(`${path} of the log is damaged: run verify`);
    }
    return bytes;
  }

  async #add(record: Buffer, leaves: Buffer): Promise<void> {
    const { firstIndex, entries } = parseRecord(record);
    if (firstIndex > this.#tree.size) {
      throw new Error(`leaf ${firstIndex} does not follow a log of ${this.#tree.size}`);
    }
    const next = firstIndex + leaves.length / HASH_BYTES;
    let at = endOfEntries(entries, 0, Math.min(next, this.#tree.size) - firstIndex);
    while (this.#tree.size < next) {
      const { size } = this.#tree;
      const signed = this.#checkpoint.size;
      const to = this.#isRecovering && size < signed ? Math.min(next, signed) : next;
      const end = to === next ? entries.length : endOfEntries(entries, at, to - size);
      const hashes = leaves.subarray(
        (size - firstIndex) * HASH_BYTES,
        (to - firstIndex) * HASH_BYTES,
      );
      await this.#append(entries.subarray(at, end), hashes);
      if (this.#isRecovering && to === signed) this.#compareRoot();
      at = end;
    }
    await this.#each(this.#remade.splice(0), async ({ tile, bytes }) => {
      await this.#options.store.removePartials(tilePath(tile));
      await this.#options.store.replace(tilePath(tile), bytes);
    });
  }

  async #append(entries: Buffer, leaves: Buffer): Promise<void> {
    for (const { tile, bytes } of this.#tree.append(entries, leaves)) {
      // Nothing is written over before the root was compared.
      if (this.#isRecovering) this.#remade.push({ tile, bytes: Buffer.from(bytes) });
      else await this.#writeFull({ tile, bytes });
    }
  }

  async #cosign(size: number, lines: readonly string[]): Promise<void> {
    if (size !== this.#checkpoint.size) return;
    const { store } = this.#options;
    const note = (await store.get("checkpoint"))?.toString() ?? "";
    const cosigned = Buffer.from(addLines(note, lines));
    await this.#each([cosigned], () => store.replace("checkpoint", cosigned));
  }

  #compareRoot(): void {
    if (Buffer.from(this.#tree.root()).equals(this.#checkpoint.root)) return;
    throw new Error("tiles and WAL do not give the root of log/checkpoint: run verify");
  }

  async #writeFull(made: TileBytes): Promise<void> {
    const path = tilePath(made.tile);
    await this.#untilRoom(made, ({ bytes }) => this.#options.store.put(path, bytes));
    if (this.#partial.delete(path)) this.#superseded.push(path);
  }

  async #publish(): Promise<Checkpoint> {
    const { store, signer, signers } = this.#options;
    const size = this.#tree.size;
    if (size === this.#checkpoint.size) {
      await store.idle?.();
      return this.#checkpoint;
    }
    const superseded = this.#superseded;
    this.#superseded = [];
    await this.#each(this.#tree.partials(), ({ tile, bytes }) => {
      this.#partial.add(tilePath({ ...tile, width: TILE_WIDTH }));
      return store.put(tilePath(tile), bytes);
    });
    const checkpoint = { origin: signer.name, size, root: this.#tree.root() };
    const note = Buffer.from(signCheckpoint(checkpoint, signers));
    await this.#each([note], () => store.replace("checkpoint", note));
    this.#checkpoint = checkpoint;
    for (const path of superseded) await store.removePartials(path);
    return checkpoint;
  }

  /** Runs `write` for each of `items`, some at a time, and again for as long as the disk is full. */
  async #each<T>(items: readonly T[], write: (item: T) => Promise<void>): Promise<void> {
    await each(items, WRITES_AT_ONCE, (item) => this.#untilRoom(item, write));
  }

  async #untilRoom<T>(item: T, write: (item: T) => Promise<void>): Promise<void> {
    for (let isFull = false; ; isFull = true) {
      try {
        await write(item);
        if (isFull) this.#options.onDiskFull(false);
        return;
      } catch (error) {
        if (codeOf(error) !== "ENOSPC" && codeOf(error) !== "EDQUOT") throw error;
        if (!isFull) this.#options.onDiskFull(true);
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }
}
