/**
 * Installs what a fresh clone needs before anything of ours can run. Plain JavaScript: nothing is there yet.
 */
import { spawnSync } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

const MIN_NODE = [20, 19];

/** Ends the process with one sentence that says what to do next. */
export function fail(sentence) {
  console.error(`meshseal: ${sentence}`);
  process.exit(1);
}

/** Runs `npm ci` unless node_modules is already as new as the lock file. Prints to stderr only. */
export function installPackages() {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  if (major < MIN_NODE[0] || (major === MIN_NODE[0] && minor < MIN_NODE[1])) {
    fail(`Node ${process.versions.node} is too old: install Node ${MIN_NODE.join(".")} or newer.`);
  }
  const lock = join(ROOT, "package-lock.json");
  const installed = join(ROOT, "node_modules", ".package-lock.json");
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs) return;
  console.error("meshseal: installing npm packages (once) ...");
  const run = spawnSync("npm", ["ci", "--no-audit", "--no-fund", "--loglevel=error"], {
    cwd: ROOT,
    stdio: ["ignore", 2, 2],
    shell: process.platform === "win32",
  });
  if (run.status !== 0)
    fail(
      "npm ci failed: check the network or the registry in npm's settings, then run this again.",
    );
}

/** The modules, each with the file in filter/ that it is built from. */
export const MODULES = { filter: "observe", enforce: "enforce" };

/** Builds build/<module>.wasm, all of them. Takes some seconds; prints only what goes wrong, to stderr. */
export function buildFilter() {
  console.error("meshseal: building the filter ...");
  const asc = join(ROOT, "node_modules", "assemblyscript", "bin", "asc.js");
  for (const [module, entry] of Object.entries(MODULES)) {
    const run = spawnSync(
      process.execPath,
      [asc, `filter/${entry}.ts`, "--target", "release", "--outFile", `build/${module}.wasm`],
      { cwd: ROOT, stdio: ["ignore", 2, 2] },
    );
    if (run.status !== 0) fail("the filter did not build: see the lines above.");
  }
}
