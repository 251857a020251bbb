/**
 * Completes package-lock.json after `npm install`: `node scripts/lock.mjs`.
 *
 * Download addresses are left out, so that any registry serves the lock file; and platform packages that the
 * registry at hand does not carry get an entry all the same, or `npm ci` would refuse the file.
 */
import { readFileSync, writeFileSync } from "node:fs";

const FILE = new URL("../package-lock.json", import.meta.url);
const lock = JSON.parse(readFileSync(FILE, "utf8"));

for (const entry of Object.values(lock.packages)) {
  delete entry.resolved;
  for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
    // Such as @biomejs/cli-darwin-arm64 or @biomejs/cli-linux-x64-musl.
    const platform = /-(android|darwin|linux|win32)-(arm|arm64|x64)(-musl)?$/.exec(name);
    const path = `node_modules/${name}`;
    if (platform === null || lock.packages[path] !== undefined) continue;
    const [, os, cpu, musl] = platform;
    lock.packages[path] = { version, cpu: [cpu], optional: true, os: [os] };
    if (entry.dev) lock.packages[path].dev = true;
    if (musl !== undefined) lock.packages[path].libc = ["musl"];
  }
}

const sorted = Object.entries(lock.packages).sort(([a], [b]) => (a < b ? -1 : 1));
lock.packages = Object.fromEntries(sorted);
writeFileSync(FILE, `${JSON.stringify(lock, null, 2)}\n`);
