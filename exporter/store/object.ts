/**
 * The store in a bucket. What is put is held back until the checkpoint over it is committed, as Sunlight does:
 *
 *     put ... -> [staged, with `ack: store`] -> swap of the commit -> tiles in their places, locked -> log/checkpoint
 *
 * So a tile's place is written only by what is committed already, and two processes that both believe to be the writer
 * can only write the same bytes there: of two commits one fails (Fenced). What is committed and not in its place after
 * a crash follows from the WAL, or from what was staged.
 *
 * Below `home`: `commit`, `log/` (C2SP files, nothing else), `staged/`, and `checkpoints/<size, 20 digits>`. Locked are
 * full tiles and bundles, and a checkpoint now and then under its size; never a partial tile, never `log/checkpoint`.
 *
 * Whoever can write to the bucket can put something where a file of ours will be one day, and lock it. That must not stop the
 * log: what is committed belongs in its place, so ours is written above it as a newer version, and `onForeign` is told.
 */

import { createHash } from "node:crypto";
import { each } from "../each.ts";
import { parseCheckpoint } from "../log/checkpoint.ts";
import { MAX_NOTE_BYTES, parseNote } from "../log/note.ts";
import { hashesAtLevel, parseTilePath, TILE_WIDTH, tilePath } from "../log/tile.ts";
import { type Blob, type Bucket, Fenced, TooLarge, type Written } from "./bucket.ts";
import { type Claim, COMMIT_KEY } from "./claim.ts";
import {
  type Commit,
  formatCommit,
  formatStaged,
  MAX_COMMIT_BYTES,
  parseCommit,
  parseStaged,
} from "./commit.ts";
import { Conflict, type Store } from "./store.ts";

export type ObjectStoreOptions = {
  readonly bucket: Bucket;
  readonly home: string;
  readonly claim: Claim;
  /** What receipts wait for. */
  readonly ack: "wal" | "store";
  /** Locks in compliance mode for this long, in milliseconds; 0 locks nothing. */
  readonly lockMs: number;
  /** A checkpoint is kept under its size this often, in milliseconds. */
  readonly keepEveryMs: number;
  readonly now: () => number;
  /** Returns the size of a checkpoint that this log's key signed, or null. */
  readonly signedSize?: (note: Buffer) => number | null;
  /** Gets the key of a place where somebody else's bytes were. */
  readonly onForeign?: (key: string) => void;
};

/** Requests at the same time: round trips of 50 ms then carry 640 tiles a second. */
const REQUESTS_AT_ONCE = 32;

/** A full bundle has 256 entries of 64 KiB and their lengths at most. */
const MAX_TILE_BYTES = TILE_WIDTH * 65_537;
const MAX_STAGED_BYTES = 1024 ** 3;
const CHECKPOINT = "checkpoint";

/** Returns the store of a claimed log, with what a crash before left undone. */
export async function openObjectStore(options: ObjectStoreOptions): Promise<Store> {
  const store = new ObjectStore(options);
  await store.finish();
  return store;
}

/** Returns the key under which a checkpoint of `size` leaves is kept. */
export function keptCheckpointPath(size: number): string {
  return `checkpoints/${String(size).padStart(20, "0")}`;
}

class ObjectStore implements Store {
  readonly #options: ObjectStoreOptions;
  #commit: Commit;
  #commitEtag: string;
  /** What was put and is not in its place yet, by path. */
  readonly #pending = new Map<string, Buffer>();
  /** Versions of partial tiles, by the path of their full tile. */
  readonly #partials = new Map<string, { key: string; version: string }[]>();
  #checkpointEtag: string | null = null;
  #keptAt = Number.NEGATIVE_INFINITY;
  #keptSize = 0;
  #writing: Promise<void> = Promise.resolve();

  constructor(options: ObjectStoreOptions) {
    this.#options = options;
    this.#commit = options.claim.commit;
    this.#commitEtag = options.claim.etag;
  }

  /** Puts in place what is committed and staged, and finds the partial tiles that are to go one day. */
  async finish(): Promise<void> {
    const { bucket, home } = this.#options;
    const { staged, note } = this.#commit;
    if (staged !== null) {
      const body = await bucket.get(`${home}${staged.key}`, MAX_STAGED_BYTES);
      const digest = staged.key.slice(-64);
      const isWhole = body !== null && hex(body.bytes) === digest;
      const files = isWhole ? parseStaged(body.bytes) : null;
      // Once its tiles are in place it may be gone: then the checkpoint is there.
      if (files !== null) for (const [path, bytes] of files) this.#pending.set(path, bytes);
      else if (
        (await bucket.get(this.#key(CHECKPOINT), MAX_NOTE_BYTES))?.bytes.toString() !== note
      ) {
        throw new Error(`${home}${staged.key} is missing or damaged: run verify`);
      }
      await this.#apply(sizeOf(note), 0);
      await this.#publish(Buffer.from(note));
    }
    const size = sizeOf(note);
    for (const level of ["entries", 0, 1, 2, 3, 4, 5] as const) {
      const hashes = hashesAtLevel(size, level === "entries" ? 0 : level);
      if (hashes % TILE_WIDTH === 0) continue;
      const full = tilePath({ level, index: Math.floor(hashes / TILE_WIDTH), width: TILE_WIDTH });
      for await (const { key, version, isDeleteMarker } of bucket.versions(
        this.#key(`${full}.p/`),
      )) {
        if (!isDeleteMarker) this.#remember(full, key, version);
      }
    }
  }

  async get(path: string): Promise<Buffer | null> {
    // What is signed and committed counts, even if a crash kept it from its place.
    if (path === CHECKPOINT)
      return this.#commit.note === "" ? null : Buffer.from(this.#commit.note);
    const pending = this.#pending.get(path);
    if (pending !== undefined) return Buffer.from(pending);
    return (await this.#options.bucket.get(this.#key(path), MAX_TILE_BYTES))?.bytes ?? null;
  }

  async put(path: string, bytes: Uint8Array): Promise<void> {
    const pending = this.#pending.get(path);
    if (pending !== undefined && !pending.equals(bytes)) throw conflict(path);
    this.#pending.set(path, Buffer.from(bytes));
  }

  async replace(path: string, bytes: Uint8Array): Promise<void> {
    // Nothing is torn in a bucket: a tile that stands there is whole, and the same.
    if (path !== CHECKPOINT) {
      this.#pending.set(path, Buffer.from(bytes));
      return;
    }
    const { home, ack } = this.#options;
    const files = [...this.#pending];
    const before = sizeOf(this.#commit.note);
    let staged: Commit["staged"] = null;
    if (ack === "store" && files.length > 0) {
      const body = formatStaged(files);
      const key = `staged/${this.#commit.fence}-${hex(body)}`;
      const written = await this.#place(`${home}${key}`, body, null);
      staged = { key, version: written?.version ?? "" };
    }
    await this.#swapCommit({
      ...this.#commit,
      isFresh: false,
      ack,
      note: Buffer.from(bytes).toString(),
      staged,
    });
    await this.#apply(Number.POSITIVE_INFINITY, before);
    await this.#publish(bytes);
    if (staged !== null)
      await this.#remove([{ key: `${home}${staged.key}`, version: staged.version }]);
  }

  /** Puts in place what belongs below the commit: in recovery it comes without a new checkpoint. */
  async sync(): Promise<void> {
    const { note } = this.#commit;
    if (note === "") return;
    await this.#apply(sizeOf(note), 0);
    // Where the tree has grown beyond the commit its partial tiles are not at hand: the next commit brings newer ones.
    if (this.#pending.size > 0) return;
    if (this.#checkpointEtag === null) await this.#publish(Buffer.from(note));
    // At the latest with a clean stop the whole log is below a checkpoint that is kept.
    await this.#keep(Buffer.from(note));
  }

  /** A log that has become quiet is below a kept checkpoint as soon as one that has not. */
  async idle(): Promise<void> {
    const { now, keepEveryMs } = this.#options;
    const { note } = this.#commit;
    if (note === "" || this.#pending.size > 0 || now() - this.#keptAt < keepEveryMs) return;
    await this.#keep(Buffer.from(note));
  }

  async removePartials(path: string): Promise<void> {
    const versions = this.#partials.get(path);
    // As long as the full tile is not in its place, the log is read from the partial ones.
    const isInPlace = endOf(path) <= sizeOf(this.#commit.note) && !this.#pending.has(path);
    if (versions === undefined || (parseTilePath(path) !== null && !isInPlace)) return;
    this.#partials.delete(path);
    await this.#remove(versions);
  }

  #key(path: string): string {
    return `${this.#options.home}log/${path}`;
  }

  #remember(full: string, key: string, version: string): void {
    const versions = this.#partials.get(full);
    if (versions === undefined) this.#partials.set(full, [{ key, version }]);
    else versions.push({ key, version });
  }

  async #swapCommit(commit: Commit): Promise<void> {
    const { bucket, home } = this.#options;
    const key = `${home}${COMMIT_KEY}`;
    const bytes = formatCommit(commit);
    const written = await bucket.swap(key, bytes, this.#commitEtag);
    // An answer may have been lost, and the write repeated.
    const held = written === null ? await bucket.get(key, MAX_COMMIT_BYTES) : null;
    if (written === null && held?.bytes.equals(bytes) !== true) {
      const fence = held === null ? "none" : parseCommit(held.bytes)?.fence;
      throw new Fenced(`this log was taken over: fence ${fence}, ours is ${commit.fence}`);
    }
    this.#commit = commit;
    this.#commitEtag = written?.etag ?? held?.etag ?? "";
  }

  /**
   * Puts in place what is pending and wholly below `size` leaves. What reaches beyond `before` leaves nobody but a writer of
   * these very bytes can have put there by right.
   */
  #apply(size: number, before: number): Promise<void> {
    return this.#inTurn(() => this.#applyNow(size, before));
  }

  async #applyNow(size: number, before: number): Promise<void> {
    const { bucket, lockMs, now } = this.#options;
    const retainUntil = lockMs === 0 ? null : new Date(now() + lockMs);
    const due = [...this.#pending].filter(([path]) => endOf(path) <= size);
    await each(due, REQUESTS_AT_ONCE, async ([path, bytes]) => {
      const tile = parseTilePath(path);
      const isFull = tile?.width === TILE_WIDTH;
      const until = isFull ? retainUntil : null;
      const key = this.#key(path);
      let written = await bucket.create(key, bytes, until);
      if (written === null) {
        const held = await this.#heldAt(key, bytes.length);
        const isOurs = held?.bytes.equals(bytes) === true;
        if (!isOurs && !(endOf(path) > before)) throw conflict(key);
        if (!isOurs) written = await this.#place(key, bytes, until);
      }
      if (written !== null && tile !== null && !isFull) {
        this.#remember(tilePath({ ...tile, width: TILE_WIDTH }), this.#key(path), written.version);
      }
      this.#pending.delete(path);
    });
  }

  /** `sync` goes on beside a checkpoint: the same file must not be created twice at the same time. */
  #inTurn(write: () => Promise<void>): Promise<void> {
    const run = this.#writing.then(write);
    this.#writing = run.catch(() => undefined);
    return run;
  }

  /** The size of a checkpoint of ours; NaN of anything else. */
  #signedSize(note: Buffer): number {
    const { signedSize } = this.#options;
    return signedSize === undefined ? sizeOf(note.toString()) : (signedSize(note) ?? Number.NaN);
  }

  /** Writes once: where other bytes are already, above them, and says so. Returns null where the same bytes were there. */
  async #place(key: string, bytes: Uint8Array, retainUntil: Date | null): Promise<Written | null> {
    const { bucket, home, onForeign } = this.#options;
    for (let isFirst = true; ; isFirst = false) {
      const made = await bucket.create(key, bytes, retainUntil);
      if (made !== null) return made;
      const held = await this.#heldAt(key, bytes.length);
      if (held === null) continue;
      if (held.bytes.equals(bytes)) return null;
      const commit = await bucket.get(`${home}${COMMIT_KEY}`, MAX_COMMIT_BYTES);
      if (commit?.etag !== this.#commitEtag) throw new Fenced("this log was taken over");
      if (isFirst) onForeign?.(key);
      const above = await bucket.swap(key, bytes, held.etag, retainUntil);
      if (above !== null) return above;
    }
  }

  /** Reads what is in the way of a file of `length` bytes. What is longer is not ours, and not read. */
  async #heldAt(key: string, length: number): Promise<Blob | null> {
    try {
      return await this.#options.bucket.get(key, length);
    } catch (error) {
      if (error instanceof TooLarge) return { bytes: Buffer.of(), etag: error.etag };
      throw error;
    }
  }

  /** Writes the checkpoint that readers see, and now and then the same under its size. */
  async #publish(note: Uint8Array): Promise<void> {
    const { bucket, home, keepEveryMs, now } = this.#options;
    const key = this.#key(CHECKPOINT);
    for (;;) {
      const etag = this.#checkpointEtag;
      const written =
        etag === null ? await bucket.create(key, note, null) : await bucket.swap(key, note, etag);
      if (written !== null) {
        this.#checkpointEtag = written.etag;
        break;
      }
      const held = await bucket.get(key, MAX_NOTE_BYTES);
      this.#checkpointEtag = held?.etag ?? null;
      if (held?.bytes.equals(note) === true) break;
      // Somebody else wrote it: who has the log now, or one who may not. The commit tells.
      const commit = await bucket.get(`${home}${COMMIT_KEY}`, MAX_COMMIT_BYTES);
      if (commit?.etag !== this.#commitEtag) throw new Fenced("this log was taken over");
    }
    if (now() - this.#keptAt >= keepEveryMs) await this.#keep(note);
  }

  #keep(note: Uint8Array): Promise<void> {
    return this.#inTurn(() => this.#keepNow(note));
  }

  async #keepNow(note: Uint8Array): Promise<void> {
    const { bucket, home, lockMs, now } = this.#options;
    const size = sizeOf(Buffer.from(note).toString());
    if (Number.isNaN(size) || size <= this.#keptSize) return;
    const retainUntil = lockMs === 0 ? null : new Date(now() + lockMs);
    const key = `${home}${keptCheckpointPath(size)}`;
    const written = await bucket.create(key, note, retainUntil);
    // One of this size can be there with other cosignatures, from before a restart.
    const held = written === null ? await this.#heldAt(key, MAX_NOTE_BYTES) : null;
    const signed = held === null ? null : this.#signedSize(held.bytes);
    if (written === null && signed !== size) await this.#place(key, note, retainUntil);
    this.#keptAt = now();
    this.#keptSize = size;
  }

  /** What cannot be removed stays: it costs room, and the bucket's lifecycle rule takes it (docs/storage.md). */
  async #remove(versions: readonly { key: string; version: string }[]): Promise<void> {
    await this.#options.bucket.remove(versions).catch(() => undefined);
  }
}

/** Returns the leaves a checkpoint covers; NaN if it is none. */
function sizeOf(note: string): number {
  if (note === "") return 0;
  const parsed = parseNote(Buffer.from(note));
  return (parsed === null ? null : parseCheckpoint(parsed.text))?.size ?? Number.NaN;
}

/** Returns the leaf index behind the last leaf below a tile. */
function endOf(path: string): number {
  const tile = parseTilePath(path);
  if (tile === null) return 0;
  const { level, index, width } = tile;
  const span = level === "entries" ? 1 : TILE_WIDTH ** level;
  return (index * TILE_WIDTH + width) * span;
}

function conflict(path: string): Conflict {
  return new Conflict(`${path} holds other bytes: run verify`);
}

function hex(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
