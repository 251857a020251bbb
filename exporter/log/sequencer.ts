/**
 * Gives entries their place in the log and makes them durable, signed and published, in this order:
 *
 *     append -> WAL, fsync (a group at a time) -> durable -> tree -> full tiles -> partial tiles -> checkpoint -> WAL pruned
 *
 * Only what is durable enters the tree, and only a tree whose tiles are on disk is signed: nothing signed is ever
 * contradicted. A store or WAL that fails is reported to `onFatal`: nothing is tried again after a failed fsync.
 */

import { codeOf } from "../errors.ts";
import type { Store } from "../store/store.ts";
import { type Checkpoint, openCheckpoint, signCheckpoint } from "./checkpoint.ts";
import { emptyRoot, HASH_BYTES, leafHash } from "./merkle.ts";
import type { Signer, Verifier } from "./note.ts";
import { hashesAtLevel, parseBundle, TILE_WIDTH, type Tile, tilePath } from "./tile.ts";
import { type TileBytes, Tree } from "./tree.ts";
import type { Wal, WalRecord } from "./wal.ts";

/** Tiles written at the same time. */
const WRITES_AT_ONCE = 16;

/** Time between two tries when the disk is full, in milliseconds. */
const RETRY_MS = 500;

export type SequencerOptions = {
  readonly store: Store;
  readonly wal: Wal;
  readonly signer: Signer;
  readonly verifier: Verifier;
  readonly onFatal: (error: unknown) => void;
};

/** Gets every entry of the log in order at start: bytes without prefix, its digest and leaf index. */
export type EntryVisitor = (entry: Buffer, digest: Uint8Array, index: number) => void;

export class Sequencer {
  readonly #options: SequencerOptions;
  readonly #tree: Tree;
  /** Next leaf index to give away, and how many leaves are in the WAL durably. */
  #next = 0;
  #durable = 0;
  #checkpoint: Checkpoint;
  #signedAt = Date.now();
  #group: WalRecord[] = [];
  #waiting: { resolve: () => void; reject: (error: unknown) => void }[] = [];
  #flushing: Promise<void> | null = null;
  #fullTiles: TileBytes[] = [];
  #superseded: string[] = [];
  #publishing: Promise<void> = Promise.resolve();
  #isDiskFull = false;
  #isDead = false;

  constructor(options: SequencerOptions) {
    this.#options = options;
    this.#tree = new Tree((made) => this.#fullTiles.push(made));
    this.#checkpoint = { origin: options.signer.name, size: 0, root: emptyRoot() };
  }

  /** The newest published checkpoint. */
  get checkpoint(): Checkpoint {
    return this.#checkpoint;
  }

  /** Unix time in milliseconds of the newest checkpoint, or of the start. */
  get signedAt(): number {
    return this.#signedAt;
  }

  /** Leaves that have a place. */
  get size(): number {
    return this.#next;
  }

  /** Leaves that are durable and not yet below a published checkpoint. */
  get unpublished(): number {
    return this.#durable - this.#checkpoint.size;
  }

  get isDiskFull(): boolean {
    return this.#isDiskFull;
  }

  /** Reads the log and the WAL back. Throws where they contradict each other or the key. */
  async recover(visit: EntryVisitor): Promise<void> {
    const { store, wal, verifier } = this.#options;
    const note = await store.get("checkpoint");
    if (note !== null) {
      const checkpoint = openCheckpoint(note, verifier);
      if (checkpoint === null) throw new Error("log/checkpoint is not signed by log.key");
      await this.#readTree(checkpoint, visit);
      this.#checkpoint = checkpoint;
    }
    this.#next = this.#tree.size;
    for await (const { firstIndex, entries } of wal.recover()) {
      if (firstIndex > this.#next) {
        throw new Error(`the WAL goes on at leaf ${firstIndex}, the log ends at ${this.#next}`);
      }
      this.#integrate(entries, firstIndex, visit);
      this.#next = this.#tree.size;
    }
    this.#durable = this.#next;
  }

  /**
   * Gives entries (as a batch has them: `uint16 length || 0x00 || bytes`) the next places. Returns the first
   * leaf index and a promise that resolves when they are durable.
   */
  append(entries: Buffer, count: number): { firstIndex: number; durable: Promise<void> } {
    const firstIndex = this.#next;
    this.#next += count;
    this.#group.push({ firstIndex, entries });
    return { firstIndex, durable: this.whenDurable() };
  }

  /** Resolves when everything appended so far is durable. */
  whenDurable(): Promise<void> {
    if (this.#group.length === 0 && this.#flushing === null) return Promise.resolve();
    const wait = new Promise<void>((resolve, reject) => this.#waiting.push({ resolve, reject }));
    this.#flushing ??= this.#flush();
    return wait;
  }

  /** Publishes a checkpoint over all that is durable, if it is more than the last one covers. */
  publish(): Promise<void> {
    const run = this.#publishing.then(() => this.#publish());
    this.#publishing = run.catch(() => undefined);
    return run;
  }

  /** Makes everything durable and published. */
  async close(): Promise<void> {
    await this.whenDurable();
    await this.publish();
    await this.#removeSuperseded();
    await this.#options.wal.close();
  }

  async #flush(): Promise<void> {
    // Lets the batches that have arrived in this turn join the group.
    await new Promise((resolve) => setImmediate(resolve));
    while (this.#waiting.length > 0) {
      const group = this.#group;
      const waiting = this.#waiting;
      this.#group = [];
      this.#waiting = [];
      try {
        await this.#writeGroup(group);
      } catch (error) {
        this.#isDead = true;
        for (const { reject } of waiting) reject(error);
        this.#options.onFatal(error);
        return;
      }
      for (const { firstIndex, entries } of group) this.#integrate(entries, firstIndex, null);
      this.#durable = this.#tree.size;
      for (const { resolve } of waiting) resolve();
    }
    this.#flushing = null;
  }

  async #writeGroup(group: readonly WalRecord[]): Promise<void> {
    for (;;) {
      try {
        await this.#options.wal.append(group);
        this.#isDiskFull = false;
        return;
      } catch (error) {
        if (codeOf(error) !== "ENOSPC" && codeOf(error) !== "EDQUOT") throw error;
        this.#isDiskFull = true;
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }

  #integrate(entries: Buffer, firstIndex: number, visit: EntryVisitor | null): void {
    let index = firstIndex;
    for (let at = 0; at < entries.length; index++) {
      const length = entries.readUInt16BE(at);
      const entry = entries.subarray(at + 3, at + 3 + length);
      if (index >= this.#tree.size) {
        const digest = leafHash(entry);
        this.#tree.append(digest, Buffer.concat([entries.subarray(at, at + 2), entry]));
        visit?.(entry, digest, index);
      }
      at += 3 + length;
    }
  }

  async #publish(): Promise<void> {
    if (this.#isDead || this.#tree.size === this.#checkpoint.size) return;
    // Nothing is awaited between taking these, so that they are of one tree.
    const size = this.#tree.size;
    const root = this.#tree.root();
    const full = this.#fullTiles.splice(0);
    const tiles = [...full, ...this.#tree.partials()];
    try {
      await this.#removeSuperseded();
      await this.#writeTiles(tiles);
      const checkpoint = { origin: this.#options.signer.name, size, root };
      const note = signCheckpoint(checkpoint, [this.#options.signer]);
      await this.#options.store.replace("checkpoint", Buffer.from(note));
      this.#checkpoint = checkpoint;
      this.#signedAt = Date.now();
      // Readers of the checkpoint before may still ask for them: they go with the next one.
      this.#superseded.push(...full.map(({ tile }) => tilePath(tile)));
      await this.#options.wal.prune(size, this.#next);
    } catch (error) {
      if (codeOf(error) === "ENOSPC" || codeOf(error) === "EDQUOT") {
        this.#isDiskFull = true;
        this.#fullTiles.unshift(...full);
        return;
      }
      this.#isDead = true;
      this.#options.onFatal(error);
      throw error;
    }
  }

  async #writeTiles(tiles: readonly TileBytes[]): Promise<void> {
    let at = 0;
    const writer = async (): Promise<void> => {
      for (;;) {
        const made = tiles[at++];
        if (made === undefined) return;
        await this.#options.store.put(tilePath(made.tile), made.bytes);
      }
    };
    await Promise.all(Array.from({ length: WRITES_AT_ONCE }, writer));
  }

  async #removeSuperseded(): Promise<void> {
    for (const path of this.#superseded.splice(0)) await this.#options.store.removePartials(path);
  }

  async #readTree({ size, root }: Checkpoint, visit: EntryVisitor): Promise<void> {
    const last = size % TILE_WIDTH;
    let bundleEdge: Buffer[] = [];
    for (let index = 0; index * TILE_WIDTH < size; index++) {
      const width = Math.min(TILE_WIDTH, size - index * TILE_WIDTH);
      const entries = parseBundle(await this.#read({ level: "entries", index, width }), width);
      if (entries === null) throw new Error(`bundle ${index} of the log is damaged: run verify`);
      for (const [i, entry] of entries.entries()) {
        visit(Buffer.from(entry), leafHash(entry), index * TILE_WIDTH + i);
      }
      if (width < TILE_WIDTH) bundleEdge = entries.map(withLength);
    }
    if (last === 0) bundleEdge = [];
    const edges: Buffer[] = [];
    for (let level = 0; hashesAtLevel(size, level) > 0; level++) {
      const hashes = hashesAtLevel(size, level);
      const width = hashes % TILE_WIDTH;
      const index = Math.floor(hashes / TILE_WIDTH);
      const bytes = width === 0 ? Buffer.alloc(0) : await this.#read({ level, index, width });
      if (bytes.length !== width * HASH_BYTES) {
        throw new Error(`tile ${level}/${index} of the log is damaged: run verify`);
      }
      edges.push(bytes);
    }
    this.#tree.restore(size, edges, bundleEdge);
    if (!Buffer.from(this.#tree.root()).equals(root)) {
      throw new Error("the tiles of the log do not give the root of its checkpoint: run verify");
    }
  }

  async #read(tile: Tile): Promise<Buffer> {
    const bytes = await this.#options.store.get(tilePath(tile));
    if (bytes === null) throw new Error(`${tilePath(tile)} of the log is missing: run verify`);
    return bytes;
  }
}

function withLength(entry: Uint8Array): Buffer {
  return Buffer.concat([Buffer.of(entry.length >> 8, entry.length & 0xff), entry]);
}
