/** Before `npm pack`: the modules of the filter, the exporter as JavaScript, and what it reads beside its code, into build/. */
import { spawnSync } from "node:child_process";
import { chmodSync, cpSync, rmSync } from "node:fs";
import { join } from "node:path";
import { buildFilter, fail, ROOT } from "./setup.mjs";

buildFilter();
for (const dir of ["exporter", "record"]) {
  rmSync(join(ROOT, "build", dir), { recursive: true, force: true });
  cpSync(join(ROOT, dir), join(ROOT, "build", dir), {
    recursive: true,
    filter: (path) => !/\.(ts|md)$/.test(path),
  });
}
const tsc = join(ROOT, "node_modules", "typescript", "bin", "tsc");
const run = spawnSync(process.execPath, [tsc, "-p", "tsconfig.build.json", "--outDir", "build"], {
  cwd: ROOT,
  stdio: ["ignore", 2, 2],
});
if (run.status !== 0) fail("the exporter did not compile: see the lines above.");
chmodSync(join(ROOT, "build/exporter/cli/main.js"), 0o755);
