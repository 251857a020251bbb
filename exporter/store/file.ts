/**
 * The embedded store: one directory on a local disk.
 *
 * A write goes to a file of its own beside the log (nothing but C2SP files may stand below it), is fsynced, renamed to
 * its name, and then the directory is fsynced: rename(2) is atomic, and POSIX promises a name to survive only after
 * fsync of its directory. New directories are fsynced from the top down. An fsync that fails is never tried
 * again: the kernel may have dropped the pages ("fsyncgate", PostgreSQL wiki); the error goes to the caller, which stops.
 */
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { codeOf } from "../errors.ts";
import type { Store } from "./store.ts";

/** Returns the store in `dir`, with a directory for unfinished writes on the same file system. Makes both. */
export async function fileStore(dir: string, unfinished: string): Promise<Store> {
  // What a crash left unfinished was never part of the log.
  await rm(unfinished, { recursive: true, force: true });
  await mkdir(dir, { recursive: true });
  await mkdir(unfinished, { recursive: true });
  const known = new Set<string>([dir]);
  let count = 0;

  async function ensureDir(path: string): Promise<void> {
    if (known.has(path)) return;
    await ensureDir(dirname(path));
    await mkdir(path).catch((error: unknown) => {
      if (codeOf(error) !== "EEXIST") throw error;
    });
    await syncDir(dirname(path));
    known.add(path);
  }

  async function write(path: string, bytes: Uint8Array): Promise<void> {
    const target = join(dir, path);
    const draft = join(unfinished, String(count++));
    await ensureDir(dirname(target));
    const file = await open(draft, "wx", 0o644);
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(draft, target);
    await syncDir(dirname(target));
  }

  return {
    get: (path) =>
      readFile(join(dir, path)).catch((error: unknown) => {
        if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return null;
        throw error;
      }),
    put: write,
    replace: write,
    removePartials: async (path) => {
      const partials = join(dir, `${path}.p`);
      await rm(partials, { recursive: true, force: true });
      known.delete(partials);
    },
  };
}

/** Makes the names in a directory survive a loss of power. */
export async function syncDir(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
