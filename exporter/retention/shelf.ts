/**
 * What retention needs of a log's place: texts that stand for pruned entries (beside the log: `retention/`), and the full entry bundles,
 * with the time at which each was written, which is the log's own time and not what an entry claims. In a directory and in a bucket.
 */
import { lstat, readdir, readFile, rmdir, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { parseNames } from "../audit/retention-texts.ts";
import { codeOf } from "../errors.ts";
import { MAX_RETENTION_BYTES } from "../log/retention.ts";
import { parseTilePath, TILE_WIDTH, tilePath } from "../log/tile.ts";
import type { Bucket, Version } from "../store/bucket.ts";
import { fileStore } from "../store/file.ts";
import { setImmutable } from "../store/flags.ts";
import { describe } from "../store/patience.ts";

export type KeptBundle = {
  /** Its first entry is this times 256. */
  readonly index: number;
  /** When it was written, by the clock of the file system or the service. */
  readonly written: Date;
  /** In a bucket: each version and delete marker. */
  readonly versions: readonly Version[];
};

export type Shelf = {
  /** Returns the file `retention/<name>`, or null. */
  readonly get: (name: string) => Promise<Buffer | null>;
  /** Writes a text that never changes. */
  readonly put: (name: string, bytes: Buffer) => Promise<void>;
  /** Writes what may change. */
  readonly replace: (name: string, bytes: Buffer) => Promise<void>;
  /** Returns the minimum indexes for which there is a text, ascending. */
  readonly texts: () => Promise<number[]>;
  /** Yields the full bundles that are there and end at or below `end` entries, ascending. */
  readonly bundles: (end: number) => AsyncGenerator<KeptBundle>;
  /** Removes some bundles, from the first to the last. Resolves to why not all of them could be, or null. */
  readonly remove: (bundles: readonly KeptBundle[]) => Promise<string | null>;
  /** Sets or lifts the legal hold on some bundles. Resolves to why that is not so, or null; absent where there are no such holds. */
  readonly legalHold?: (bundles: readonly KeptBundle[], isOn: boolean) => Promise<string | null>;
};

/** Requests at the same time. */
const AT_ONCE = 16;

export function fileShelf(data: string): Shelf {
  const dir = join(data, "retention");
  // Made with the first text: most logs have none.
  const store = () => fileStore(dir, join(data, "retention.drafts"));
  const log = join(data, "log");
  const root = join(log, "tile", "entries");

  async function* walk(path: string): AsyncGenerator<string> {
    const entries = await readdir(path, { withFileTypes: true }).catch((error: unknown) => {
      if (codeOf(error) === "ENOENT") return [];
      throw error;
    });
    for (const entry of entries) {
      if (entry.isDirectory() && !entry.name.endsWith(".p")) yield* walk(join(path, entry.name));
      else if (entry.isFile()) yield join(path, entry.name);
    }
  }

  return {
    get: (name) => readFile(join(dir, name)).catch(nullIfMissing),
    put: async (name, bytes) => {
      const opened = store();
      await opened.put(name, bytes);
      await opened.sync();
    },
    replace: (name, bytes) => store().replace(name, bytes),
    texts: async () =>
      parseNames((await readdir(dir).catch(nullIfMissing)) ?? []).sort((a, b) => a - b),
    bundles: async function* (end) {
      const found: number[] = [];
      for await (const path of walk(root)) {
        const tile = parseTilePath(path.slice(log.length + 1));
        if (tile?.width !== TILE_WIDTH || (tile.index + 1) * TILE_WIDTH > end) continue;
        found.push(tile.index);
      }
      for (const index of found.sort((a, b) => a - b)) {
        const { mtime } = await lstat(join(log, pathOf(index)));
        yield { index, written: mtime, versions: [] };
      }
    },
    remove: async (bundles) => {
      for (const { index } of bundles) {
        const path = join(log, pathOf(index));
        try {
          await unlink(path).catch(async (error: unknown) => {
            // It may have the immutable flag.
            if (codeOf(error) !== "EPERM") throw error;
            await setImmutable([path], false);
            await unlink(path);
          });
        } catch (error) {
          if (codeOf(error) !== "ENOENT") return `${path}: ${describe(error)}`;
        }
        // The directory of a thousand bundles goes with the last of them.
        if (index % 1000 === 999) await rmdir(dirname(path)).catch(() => undefined);
      }
      return null;
    },
  };
}

function pathOf(index: number): string {
  return tilePath({ level: "entries", index, width: TILE_WIDTH });
}

function nullIfMissing(error: unknown): null {
  if (codeOf(error) === "ENOENT") return null;
  throw error;
}

/** `lockMs` locks texts as the log's other files. */
export function bucketShelf(bucket: Bucket, home: string, lockMs: number): Shelf {
  const keyOf = (name: string): string => `${home}retention/${name}`;
  const read = async (name: string): Promise<{ bytes: Buffer; etag: string } | null> =>
    await bucket.get(keyOf(name), MAX_RETENTION_BYTES);
  const { hold } = bucket;
  return {
    get: async (name) => (await read(name))?.bytes ?? null,
    put: async (name, bytes) => {
      const until = lockMs === 0 ? null : new Date(Date.now() + lockMs);
      if ((await bucket.create(keyOf(name), bytes, until)) !== null) return;
      if ((await read(name))?.bytes.equals(bytes) === true) return;
      throw new Error(`${keyOf(name)} holds other bytes: run verify`);
    },
    replace: async (name, bytes) => {
      for (;;) {
        const held = await read(name);
        if (held?.bytes.equals(bytes) === true) return;
        const written =
          held === null
            ? await bucket.create(keyOf(name), bytes, null)
            : await bucket.swap(keyOf(name), bytes, held.etag);
        if (written !== null) return;
      }
    },
    texts: async () => {
      const names = new Set<string>();
      for await (const { key, isDeleteMarker } of bucket.versions(keyOf(""))) {
        if (!isDeleteMarker) names.add(key.slice(keyOf("").length));
      }
      return parseNames([...names]).sort((a, b) => a - b);
    },
    bundles: async function* (end) {
      const found = new Map<number, Version[]>();
      for await (const version of bucket.versions(`${home}log/tile/entries/`)) {
        const tile = parseTilePath(version.key.slice(`${home}log/`.length));
        if (tile?.width !== TILE_WIDTH || (tile.index + 1) * TILE_WIDTH > end) continue;
        const held = found.get(tile.index);
        if (held === undefined) found.set(tile.index, [version]);
        else held.push(version);
      }
      for (const [index, versions] of [...found].sort(([a], [b]) => a - b)) {
        const newest = Math.max(...versions.map(({ modified }) => modified.getTime()));
        yield { index, written: new Date(newest), versions };
      }
    },
    // One after the other: whoever finds the first one there may take it that all others are.
    remove: async (bundles) => {
      for (const { versions } of bundles) {
        const [only] = versions;
        // What somebody did to it is evidence.
        if (only === undefined || versions.length > 1)
          return `${only?.key} has ${versions.length} versions: run verify`;
        try {
          await bucket.remove([only]);
        } catch (error) {
          return describe(error);
        }
      }
      return null;
    },
    ...(hold === undefined
      ? {}
      : {
          legalHold: (bundles: readonly KeptBundle[], isOn: boolean) =>
            some(bundles, async ({ versions }) => {
              for (const { key, version, isDeleteMarker } of versions)
                if (!isDeleteMarker) await hold(key, version, isOn);
            }),
        }),
  };
}

/** Runs `work` on some at a time, from the first on, and stops behind the first ones that fail. Resolves to why, or null. */
async function some(
  bundles: readonly KeptBundle[],
  work: (bundle: KeptBundle) => Promise<void>,
): Promise<string | null> {
  for (let at = 0; at < bundles.length; at += AT_ONCE) {
    const done = await Promise.allSettled(bundles.slice(at, at + AT_ONCE).map(work));
    const failed = done.find((one) => one.status === "rejected");
    if (failed !== undefined) return describe(failed.reason);
  }
  return null;
}
