/** Keeps the bytes of batches that were refused for good, as evidence. Bounded in number and size. */
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const MAX_FILES = 1000;
const MAX_BYTES = 64 * 1024 * 1024;

/** Returns a function that keeps a batch as `<cause>-<SHA-256>.batch` and gives that name, or "" when it is full. */
export function openQuarantine(dir: string): (cause: string, batch: Buffer) => string {
  mkdirSync(dir, { recursive: true });
  const names = readdirSync(dir);
  let files = names.length;
  let bytes = names.reduce((sum, name) => sum + statSync(join(dir, name)).size, 0);
  return (cause, batch) => {
    if (files >= MAX_FILES || bytes + batch.length > MAX_BYTES) return "";
    const name = `${cause}-${createHash("sha256").update(batch).digest("hex")}.batch`;
    try {
      writeFileSync(join(dir, name), batch, { flag: "wx" });
      files++;
      bytes += batch.length;
    } catch {
      // The same bytes again, or no room: the refusal stands either way, and its digest is logged.
    }
    return name;
  };
}
