/**
 * The embedded store: one directory on a local disk.
 *
 * A write goes to a draft beside the log (nothing but C2SP files may stand below it), to which link(2) or rename(2) then
 * gives its name: both are atomic, so a reader sees all of a file or none. What is durable when:
 *
 * - `replace`: fsync of the draft, rename, fsync of the directory. POSIX promises a name to survive only after the last.
 * - `put`: nothing is promised until `sync`, which fsyncs each file through the descriptor that wrote it, and then each
 *   directory that got a name, from the bottom up. The descriptor is kept because an error of write-back is reported
 *   only to those that were open when it happened (fsync(2), "NOTES"; "fsyncgate", PostgreSQL wiki).
 *
 * An fsync that fails is never tried again, since the kernel may have dropped the pages: the error goes to the caller,
 * which stops. Other system calls here block: the store is used by the publisher's own thread, and so costs half the CPU.
 */
import {
  closeSync,
  fsync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { codeOf } from "../errors.ts";
import { parseTilePath, TILE_WIDTH } from "../log/tile.ts";
import { setImmutable } from "./flags.ts";
import { Conflict, type Store } from "./store.ts";

/** Files written before they begin to be fsynced; at most twice as many hold a descriptor. */
const MAX_OPEN = 256;

/**
 * Files fsynced at the same time. One after the other each waits for a commit of the file system's journal (6 ms a file,
 * measured), together they share it (0.5 ms). One of libuv's four threads is left: the WAL's.
 */
const SYNCS_AT_ONCE = 3;

/**
 * Where the disk has most of it already (`put`), an fsync takes 50 us, of which the way to another thread and back would be
 * half. One that took longer than QUICK_MS was a wait: then so many go that way before one is tried here again.
 */
const QUICK_MS = 0.3;
const SLOW_AFTER_WAIT = 32;
/** Fsyncs in a row before others have their turn. */
const QUICK_IN_A_ROW = 16;

/**
 * Returns the store in `dir`, with a directory for drafts on the same file system. Makes both. Full tiles and bundles get the immutable
 * flag once they are synced where `isImmutable` (flags.ts).
 */
export function fileStore(dir: string, drafts: string, isImmutable = false): Store {
  // What a crash left there was never part of the log.
  rmSync(drafts, { recursive: true, force: true });
  makeDir(dir);
  makeDir(drafts);
  /**
   * Another name of the file that was put last. To be moved over a file makes ext4 write a draft's bytes out at once and wait for
   * none of them (`auto_da_alloc`, ext4(5)): its fsync finds them written. Elsewhere it is as good as unlink(2).
   */
  const last = join(drafts, "last");
  const known = new Set<string>([dir]);
  /** Files that were written since the last of them began to be fsynced, and the directories that got names. */
  let open: number[] = [];
  const named = new Set<string>();
  /** Settles when all files before those have been fsynced. */
  let syncing: Promise<void> = Promise.resolve();
  let count = 0;
  /** Full tiles that are to get the flag with the next sync. */
  let unflagged: string[] = [];

  function noteFull(path: string): void {
    if (isImmutable && parseTilePath(path)?.width === TILE_WIDTH) unflagged.push(join(dir, path));
  }

  function ensureDir(path: string): void {
    if (known.has(path)) return;
    ensureDir(dirname(path));
    try {
      mkdirSync(path);
    } catch (error) {
      if (codeOf(error) !== "EEXIST") throw error;
    }
    named.add(dirname(path));
    known.add(path);
  }

  /** Writes a draft and returns its path and descriptor. Leaves nothing behind if it fails. */
  function writeDraft(bytes: Uint8Array): { draft: string; file: number } {
    const draft = join(drafts, String(count++));
    const file = openSync(draft, "wx", 0o444);
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at);
    } catch (error) {
      closeSync(file);
      unlinkSync(draft);
      throw error;
    }
    return { draft, file };
  }

  /** Begins to fsync what is open, when those before it are done. */
  function syncOpen(): Promise<void> {
    const files = open;
    open = [];
    syncing = syncing.then(() => syncFiles(files));
    // Whoever waits gets the error, and so does everyone after.
    syncing.catch(() => undefined);
    return syncing;
  }

  async function syncAll(): Promise<void> {
    // A name's directory is made before the name: the longest paths first.
    const paths = [...named].sort((a, b) => b.length - a.length);
    named.clear();
    const full = unflagged;
    unflagged = [];
    await syncOpen();
    for (const path of paths) if (known.has(path)) syncDir(path);
    // A file with the flag cannot be moved over.
    rmSync(last, { force: true });
    if (full.length > 0) await setImmutable(full, true);
  }

  const get = (path: string): Buffer | null => {
    try {
      return readFileSync(join(dir, path));
    } catch (error) {
      if (["ENOENT", "ENOTDIR", "EISDIR"].includes(codeOf(error))) return null;
      throw error;
    }
  };

  return {
    get: async (path) => get(path),
    put: async (path, bytes) => {
      const target = join(dir, path);
      ensureDir(dirname(target));
      const { draft, file } = writeDraft(bytes);
      noteFull(path);
      try {
        linkSync(draft, target);
      } catch (error) {
        closeSync(file);
        if (codeOf(error) !== "EEXIST") throw error;
        if (!get(path)?.equals(bytes))
          throw new Conflict(`${target} holds other bytes: run verify`);
        open.push(openSync(target, "r"));
        return;
      } finally {
        renameSync(draft, last);
      }
      open.push(file);
      named.add(dirname(target));
      if (open.length < MAX_OPEN) return;
      const before = syncing;
      void syncOpen();
      await before;
    },
    replace: async (path, bytes) => {
      const target = join(dir, path);
      ensureDir(dirname(target));
      const { draft, file } = writeDraft(bytes);
      try {
        fsyncSync(file);
      } finally {
        closeSync(file);
      }
      noteFull(path);
      try {
        renameSync(draft, target);
      } catch (error) {
        unlinkSync(draft);
        // One with the flag was synced: what recovery writes anew is there.
        if (codeOf(error) !== "EPERM" || !get(path)?.equals(bytes)) throw error;
      }
      syncDir(dirname(target));
    },
    sync: syncAll,
    removePartials: async (path) => {
      const partials = join(dir, `${path}.p`);
      rmSync(partials, { recursive: true, force: true });
      known.delete(partials);
      named.delete(partials);
    },
  };
}

/** Fsyncs and closes `files`: here while each is quick, and some at a time on libuv's threads where they are not. */
async function syncFiles(files: readonly number[]): Promise<void> {
  let next = 0;
  // The first of them wait for what all then share.
  let slow = SYNCS_AT_ONCE;
  const worker = async (): Promise<void> => {
    for (let file = files[next++]; file !== undefined; file = files[next++]) {
      try {
        if (slow > 0) {
          slow--;
          await syncElsewhere(file);
        } else if (!isQuickly(() => fsyncSync(file as number))) slow = SLOW_AFTER_WAIT;
      } finally {
        closeSync(file);
      }
      if (next % QUICK_IN_A_ROW === 0) await new Promise((resolve) => setImmediate(resolve));
    }
  };
  await Promise.all(Array.from({ length: SYNCS_AT_ONCE }, worker));
}

function syncElsewhere(file: number): Promise<void> {
  return new Promise((resolve, reject) =>
    fsync(file, (error) => (error === null ? resolve() : reject(error))),
  );
}

/** Runs `sync`, and tells if it did not have to wait. */
function isQuickly(sync: () => void): boolean {
  const began = performance.now();
  sync();
  return performance.now() - began < QUICK_MS;
}

/** Makes a directory, and those above it that are missing; the names of all new ones survive a loss of power. */
export function makeDir(path: string): void {
  const first = mkdirSync(path, { recursive: true });
  if (first === undefined) return;
  const top = dirname(resolve(first));
  for (let at = resolve(path); at !== top; ) {
    at = dirname(at);
    syncDir(at);
  }
}

/** Makes the names in a directory survive a loss of power. */
export function syncDir(path: string): void {
  const file = openSync(path, "r");
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
