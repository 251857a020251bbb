/** Where verify reads a log from: a directory or a URL. Everything read is attacker-controlled, so every size has a limit. */
import { closeSync, constants, fstatSync, openSync, readFileSync, readSync } from "node:fs";
import { lstat, readdir } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { codeOf } from "../errors.ts";
import { readLimited } from "../limited.ts";
import { STORE_URL, type StoreFlags } from "../store/settings.ts";
import type { BucketView } from "./bucket-source.ts";
import { parseNames, type RetentionTexts, retentionName } from "./retention-texts.ts";
import { Unreachable } from "./unreachable.ts";

export type Source = {
  /** What `openSource` was given, for another thread to open; absent where that thread could not. */
  readonly where?: string;
  /** Returns the file at a C2SP path, or null if there is none. Longer than `limit` bytes counts as damaged: null. */
  readonly read: (path: string, limit: number) => Promise<Buffer | null>;
  /**
   * Reads the same file to where `room` says for its length, and returns that length, or -1 where `read` resolves to null. Directories
   * only.
   */
  readonly readInto?: (path: string, limit: number, room: (bytes: number) => Uint8Array) => number;
  /** Returns every version of a file that has more than one, oldest first, and no versions of others. Buckets only. */
  readonly readAll?: (path: string, limit: number) => Promise<Buffer[]>;
  /**
   * Yields every file below the log, or is absent where that cannot be known. `isFile` is false for links and the like. An
   * empty directory is none: it says nothing, and is what a kill between two removals of partial tiles leaves.
   */
  readonly list?: () => AsyncGenerator<{ path: string; isFile: boolean }>;
  /** What stands for entries that were pruned (pruned.ts), by minimum index; absent where that cannot be known. */
  readonly retention?: RetentionTexts;
  /** What a bucket keeps besides. */
  readonly bucket?: BucketView;
};

/** A list of names that an exporter sends. */
const MAX_LIST_BYTES = 1 << 20;
const TIMEOUT_MS = 15_000;

/** Returns the source for `where`: a URL of a log's prefix, http(s) or in a bucket, or a data directory, or its `log` directory. */
export async function openSource(where: string, flags: StoreFlags = {}): Promise<Source> {
  if (STORE_URL.test(where)) {
    return await (await import("./bucket-source.ts")).bucketSource(where, flags);
  }
  if (/^https?:\/\//.test(where)) {
    const url = where.replace(/\/+$/, "");
    return { ...urlSource(url), ...retentionBeside(url), where };
  }
  const inside = await lstat(join(where, "log")).catch(() => null);
  const dir = inside?.isDirectory() ? join(where, "log") : where;
  const found = await lstat(dir).catch(() => null);
  if (!found?.isDirectory()) throw new Unreachable(`${where} is no directory`);
  return { ...dirSource(dir), retention: retentionIn(dirname(resolve(dir))), where };
}

// Calls that block: half the time of promises, and whoever reads a log has nothing else to do.
function dirSource(dir: string): Source {
  return {
    read: async (path, limit) => withFile(dir, path, limit, (file) => readFileSync(file)),
    readInto: (path, limit, room) =>
      withFile(dir, path, limit, (file, size) => {
        const to = room(size);
        for (let at = 0; at < size; ) {
          const more = readSync(file, to, at, size - at, null);
          // It has become shorter since.
          if (more === 0) return -1;
          at += more;
        }
        return size;
      }) ?? -1,
    list: () => walk(dir, ""),
  };
}

/** Gives `take` the open file at `path` and its length. Returns null where there is no such file of at most `limit` bytes. */
function withFile<T>(
  dir: string,
  path: string,
  limit: number,
  take: (file: number, size: number) => T,
): T | null {
  try {
    // Opening a FIFO would wait for its writer.
    const file = openSync(`${dir}/${path}`, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const found = fstatSync(file);
      return found.isFile() && found.size <= limit ? take(file, found.size) : null;
    } finally {
      closeSync(file);
    }
  } catch (error) {
    if (["ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "ENXIO"].includes(codeOf(error))) return null;
    throw new Unreachable(`${path}: ${error instanceof Error ? error.message : error}`);
  }
}

/** Yields what is below `dir`, by paths that begin with `prefix`. */
async function* walk(
  dir: string,
  prefix: string,
): AsyncGenerator<{ path: string; isFile: boolean }> {
  const entries = await readdir(dir, { withFileTypes: true });
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const path = prefix + entry.name;
    if (entry.isDirectory()) yield* walk(join(dir, entry.name), `${path}/`);
    else yield { path, isFile: entry.isFile() };
  }
}

/** Texts beside the log in a data directory. */
function retentionIn(data: string): RetentionTexts {
  const { read } = dirSource(join(data, "retention"));
  return {
    list: async () => parseNames(await readdir(join(data, "retention")).catch(() => [])),
    read: (index, limit) => read(retentionName(index), limit),
  };
}

/** An exporter serves its log at /log, and these at /retention. */
function retentionBeside(url: string): Pick<Source, "retention"> {
  if (!url.endsWith("/log")) return {};
  const { read } = urlSource(url.replace(/log$/, "retention"));
  return {
    retention: {
      list: async () => {
        const bytes = await read("", MAX_LIST_BYTES).catch(() => null);
        return parseNames((bytes ?? "").toString().split("\n"));
      },
      read: (index, limit) => read(retentionName(index), limit),
    },
  };
}

function urlSource(base: string): Source {
  return {
    read: async (path, limit) => {
      const url = `${base}/${path}`;
      const { request } = await import("undici");
      try {
        const answer = await request(url, { headersTimeout: TIMEOUT_MS, bodyTimeout: TIMEOUT_MS });
        if (answer.statusCode !== 200) {
          await answer.body.dump();
          if (answer.statusCode === 404) return null;
          throw new Unreachable(`${url} answered ${answer.statusCode}`);
        }
        return await readLimited(answer.body, limit);
      } catch (error) {
        if (error instanceof Unreachable) throw error;
        throw new Unreachable(`${url}: ${error instanceof Error ? error.message : error}`);
      }
    },
  };
}
