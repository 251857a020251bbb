/**
 * The exporter in few files: it starts in 0.6 of the time, and a suite that starts thousands of them spends most of its time there.
 * Its calls on the data are the same.
 */
import { mkdirSync, mkdtempSync } from "node:fs";
import { join } from "node:path";
import { buildSync } from "esbuild";

const ROOT = new URL("../../", import.meta.url).pathname;

/** Returns the path of a `meshseal` command that was made now. `compiledMain` removes it when it is an hour old. */
export function bundledMain(): string {
  mkdirSync(join(ROOT, "build"), { recursive: true });
  const outdir = mkdtempSync(join(ROOT, "build", "exporter-bundle-"));
  buildSync({
    absWorkingDir: ROOT,
    entryPoints: [
      "exporter/cli/main.ts",
      "exporter/publisher-thread.ts",
      "exporter/audit/span-thread.ts",
    ],
    outdir,
    // Threads are found beside the file that starts them, whichever that is now.
    entryNames: "[name]",
    bundle: true,
    splitting: true,
    format: "esm",
    platform: "node",
    target: "node20.19",
    external: ["lmdb", "@azure/*"],
    // Libraries in CommonJS ask for Node's own modules by `require`.
    banner: {
      js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);',
    },
    logLevel: "error",
  });
  return join(outdir, "main.js");
}
