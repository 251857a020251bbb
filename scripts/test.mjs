/** `npm test`: sets up what is missing, then runs every suite that needs nothing but Node and Envoy. */
import { spawnSync } from "node:child_process";
import { installPackages, ROOT } from "./setup.mjs";

installPackages();
const run = spawnSync(
  process.execPath,
  ["node_modules/vitest/vitest.mjs", "run", ...process.argv.slice(2)],
  {
    cwd: ROOT,
    stdio: "inherit",
  },
);
process.exitCode = run.status ?? 1;
