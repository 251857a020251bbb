/**
 * A second copy of a log that is in a directory, in another one: on another disk or mount. Each new checkpoint is copied with all its tiles,
 * tiles first; so the mirror is at any time a whole log, as of some moment before. It is written after the log and on its own: one that
 * is slow, full or away is late, and nothing waits for it.
 *
 * What stands in the mirror is never written over. A mirror that has other bytes, or more entries than the log, is named and left alone:
 * one of the two was changed, and `verify --mirror` tells which.
 */
import {
  copyFile,
  link,
  mkdir,
  open,
  readFile,
  rename,
  rm,
  stat,
  unlink,
  writeFile,
} from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Logger } from "pino";
import { retentionName } from "../audit/retention-texts.ts";
import { codeOf } from "../errors.ts";
import { openCheckpoint } from "../log/checkpoint.ts";
import type { Verifier } from "../log/note.ts";
import { hashesAtLevel, TILE_WIDTH, type Tile, tilePath } from "../log/tile.ts";
import { fileShelf } from "../retention/shelf.ts";

const EVERY_MS = 1000;
/** After a failure, in milliseconds. */
const RETRY_MS = 5000;
/** In the mirror: says that it is one, so that an empty mount point is not taken for it. */
const MARKER = "meshseal-mirror";

export type MirrorOptions = {
  readonly data: string;
  readonly dir: string;
  readonly verifiers: readonly Verifier[];
  /** Entries of the log below it were pruned. */
  readonly minimum: () => number;
  /** Entries below the log's checkpoint now. */
  readonly size: () => number;
  readonly logger: Pick<Logger, "info" | "warn">;
};

export type MirrorStatus = {
  /** Entries in the mirror. */
  readonly size: number;
  readonly lagEntries: number;
  /** Since when it is not as the log is, in seconds; 0 if it is. */
  readonly lagSeconds: number;
  readonly problem: string | null;
};

/** The mirror is not what it should be; trying again will not help. */
class Differs extends Error {
  override name = "Differs";
}

export class Mirror {
  readonly #options: MirrorOptions;
  #size = 0;
  /** Up to which minimum index bundles were removed. */
  #prunedTo = 0;
  /** When the mirror was last seen to be as the log is. */
  #wasLevelAt = Date.now();
  #problem: string | null = null;
  #running: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | null = null;
  #isStopped = false;

  constructor(options: MirrorOptions) {
    this.#options = options;
  }

  start(): void {
    this.#next(0);
  }

  /** Ends it after a last copy, unless that fails or takes longer than `ms`. */
  async stop(ms: number): Promise<void> {
    this.#isStopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    const last = this.#running.then(() => this.#look());
    await Promise.race([last, new Promise((resolve) => setTimeout(resolve, ms).unref())]);
  }

  status(): MirrorStatus {
    const lagEntries = Math.max(0, this.#options.size() - this.#size);
    if (lagEntries === 0 && this.#problem === null) this.#wasLevelAt = Date.now();
    const lagSeconds = Math.round((Date.now() - this.#wasLevelAt) / 1000);
    return { size: this.#size, lagEntries, lagSeconds, problem: this.#problem };
  }

  #next(ms: number): void {
    if (this.#isStopped) return;
    this.#timer = setTimeout(() => {
      this.#running = this.#look().finally(() =>
        this.#next(this.#problem === null ? EVERY_MS : RETRY_MS),
      );
    }, ms);
    this.#timer.unref();
  }

  async #look(): Promise<void> {
    const { dir, logger } = this.#options;
    try {
      await this.#mount();
      await this.#copyTexts();
      await this.#copy();
      await this.#prune();
      if (this.#problem !== null) logger.info({ dir }, "the mirror is as it should be again");
      this.#problem = null;
      this.status();
    } catch (error) {
      const problem = error instanceof Error ? error.message : String(error);
      if (problem !== this.#problem) logger.warn({ dir, problem }, "the mirror is late");
      this.#problem = problem;
    }
  }

  /** Is the directory there, and the one that it was? */
  async #mount(): Promise<void> {
    const { data, dir } = this.#options;
    if (!(await stat(dir)).isDirectory()) throw new Error(`${dir} is no directory`);
    const marker = join(dir, MARKER);
    if ((await readFile(marker).catch(nullIfMissing)) !== null) return;
    const seen = join(data, "mirror");
    if ((await readFile(seen, "utf8").catch(nullIfMissing)) === dir)
      throw new Error(`${dir} is not the mirror that was there: is it mounted?`);
    await writeFile(marker, "A copy of a log: see meshseal serve --mirror.\n");
    await writeFile(seen, dir);
  }

  async #copy(): Promise<void> {
    const { data, dir, verifiers } = this.#options;
    const [log, mirror] = [join(data, "log"), join(dir, "log")];
    const note = await readFile(join(log, "checkpoint")).catch(nullIfMissing);
    if (note === null) return;
    const checkpoint = openCheckpoint(note, ...verifiers);
    if (checkpoint === null) throw new Differs("log/checkpoint is not signed by this log's key");
    const copied = await readFile(join(mirror, "checkpoint")).catch(nullIfMissing);
    if (copied?.equals(note) === true) {
      this.#size = checkpoint.size;
      return;
    }
    const before = copied === null ? null : openCheckpoint(copied, ...verifiers);
    if (copied !== null && before === null)
      throw new Differs(`${mirror}/checkpoint is not signed by this log's key`);
    if (before !== null && before.size > checkpoint.size)
      throw new Differs(
        `the mirror has ${before.size} entries, the log ${checkpoint.size}: it was put back`,
      );
    const old = before?.size ?? 0;
    this.#size = old;
    const made = new Set<string>();
    for (const tile of between(old, checkpoint.size)) {
      // A tile that is gone was pruned, or belongs to a checkpoint that is not the newest any more: the next look sees that one.
      if (!(await this.#copyOne(log, mirror, tilePath(tile), made))) {
        if (this.#isPruned(tile)) continue;
        return;
      }
    }
    for (const path of made) await syncPath(path);
    const draft = join(dir, "checkpoint.draft");
    await writeFile(draft, note);
    await syncPath(draft);
    await rename(draft, join(mirror, "checkpoint"));
    await syncPath(mirror);
    this.#size = checkpoint.size;
    // Partial ones that only the checkpoint before needed.
    for (const tile of partials(old)) {
      const full = { ...tile, width: TILE_WIDTH };
      const isFull = endsBelow(full, checkpoint.size);
      if (isFull) await rm(join(mirror, `${tilePath(full)}.p`), { recursive: true, force: true });
      else if (!isIn(tile, checkpoint.size))
        await rm(join(mirror, tilePath(tile)), { force: true });
    }
  }

  #isPruned({ level, index }: Tile): boolean {
    return level === "entries" && (index + 1) * TILE_WIDTH <= this.#options.minimum();
  }

  /** Copies a file that never changes. Returns false where the log does not have it. */
  async #copyOne(log: string, mirror: string, path: string, made: Set<string>): Promise<boolean> {
    const bytes = await readFile(join(log, path)).catch(nullIfMissing);
    if (bytes === null) return false;
    const target = join(mirror, path);
    const first = await mkdir(dirname(target), { recursive: true });
    for (
      let at = dirname(target);
      first !== undefined && at.length >= mirror.length;
      at = dirname(at)
    )
      made.add(dirname(at));
    const draft = join(dirname(mirror), "tile.draft");
    await writeFile(draft, bytes, { mode: 0o444 });
    await syncPath(draft);
    try {
      await link(draft, target);
      made.add(dirname(target));
    } catch (error) {
      if (codeOf(error) !== "EEXIST") throw error;
      if (!(await readFile(target)).equals(bytes))
        throw new Differs(`${target} holds other bytes than the log: run verify --mirror`);
    } finally {
      await unlink(draft);
    }
    return true;
  }

  /** What stands for pruned entries is there before they go, and before a checkpoint that needs it. */
  async #copyTexts(): Promise<void> {
    const { data, dir, minimum } = this.#options;
    if (minimum() === 0) return;
    const held = new Set(await fileShelf(dir).texts());
    for (const one of await fileShelf(data).texts()) {
      if (held.has(one)) continue;
      await mkdir(join(dir, "retention"), { recursive: true });
      const name = join("retention", retentionName(one));
      await copyFile(join(data, name), join(dir, `${name}.draft`));
      await syncPath(join(dir, `${name}.draft`));
      await rename(join(dir, `${name}.draft`), join(dir, name));
    }
  }

  /** Removes what the log has let go of, once the mirror has the entry that says so. */
  async #prune(): Promise<void> {
    const { dir, minimum, size } = this.#options;
    const index = minimum();
    // To look means to list all of it.
    if (index === this.#prunedTo || this.#size < size()) return;
    const mirror = fileShelf(dir);
    for await (const bundle of mirror.bundles(index)) {
      const problem = await mirror.remove([bundle]);
      if (problem !== null) throw new Error(problem);
    }
    this.#prunedTo = index;
  }
}

/** Yields the tiles of a tree of `size` that one of `old` does not have. */
function* between(old: number, size: number): Generator<Tile> {
  for (const level of ["entries", 0, 1, 2, 3, 4, 5, 6] as const) {
    const hashes = hashesAtLevel(size, level === "entries" ? 0 : level);
    const before = hashesAtLevel(old, level === "entries" ? 0 : level);
    if (hashes === before) continue;
    for (let index = Math.floor(before / TILE_WIDTH); index * TILE_WIDTH < hashes; index++)
      yield { level, index, width: Math.min(TILE_WIDTH, hashes - index * TILE_WIDTH) };
  }
}

function* partials(size: number): Generator<Tile> {
  for (const level of ["entries", 0, 1, 2, 3, 4, 5, 6] as const) {
    const hashes = hashesAtLevel(size, level === "entries" ? 0 : level);
    const width = hashes % TILE_WIDTH;
    if (width > 0) yield { level, index: Math.floor(hashes / TILE_WIDTH), width };
  }
}

function endsBelow({ level, index }: Tile, size: number): boolean {
  return (index + 1) * TILE_WIDTH <= hashesAtLevel(size, level === "entries" ? 0 : level);
}

/** Whether a tree of `size` has this very tile. */
function isIn({ level, index, width }: Tile, size: number): boolean {
  const hashes = hashesAtLevel(size, level === "entries" ? 0 : level);
  return Math.min(TILE_WIDTH, hashes - index * TILE_WIDTH) === width;
}

/** What was written there, or the names in it, survive a loss of power. */
async function syncPath(path: string): Promise<void> {
  const file = await open(path, "r");
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

function nullIfMissing(error: unknown): null {
  if (codeOf(error) === "ENOENT") return null;
  throw error;
}
