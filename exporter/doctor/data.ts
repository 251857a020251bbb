/** Checks of a data directory: the key is private, there is room, the log's files are read-only. */
import { lstat, readdir, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import type { Check } from "./check.ts";

/** Less room than this is a warning, in bytes. */
const LITTLE_ROOM_BYTES = 1024 ** 3;

export function dataChecks(data: string): Check[] {
  return [
    {
      name: "the signing key is readable by its owner only",
      run: async () => {
        const { mode } = await stat(join(data, "log.key"));
        const text = `log.key has mode 0${(mode & 0o777).toString(8)}`;
        return (mode & 0o077) === 0
          ? { status: "good", message: text }
          : { status: "bad", message: `${text}: who can read it can sign a false tree` };
      },
    },
    {
      name: "there is room on the disk",
      run: async () => {
        const { bavail, bsize } = await statfs(data);
        const message = `${Math.floor((bavail * bsize) / 1024 ** 2)} MiB are free`;
        return { status: bavail * bsize < LITTLE_ROOM_BYTES ? "warning" : "good", message };
      },
    },
    {
      name: "the log's files are read-only",
      run: async () => {
        const writable = await findWritable(join(data, "log"));
        return writable === null
          ? { status: "good", message: "no file below log/ can be written to" }
          : { status: "warning", message: `log/${writable} can be written to` };
      },
    },
  ];
}

/** Returns the first file below `dir` that has a bit for writing, or null. */
async function findWritable(dir: string, below = ""): Promise<string | null> {
  for (const entry of await readdir(join(dir, below), { withFileTypes: true })) {
    const path = join(below, entry.name);
    if (entry.isDirectory()) {
      const found = await findWritable(dir, path);
      if (found !== null) return found;
    } else if (((await lstat(join(dir, path))).mode & 0o222) !== 0) return path;
  }
  return null;
}
