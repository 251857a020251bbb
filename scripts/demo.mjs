/** `npm run demo`: sets up what is missing, builds the filter, then runs the demonstration. */
import { spawnSync } from "node:child_process";
import { buildFilter, installPackages, ROOT } from "./setup.mjs";

installPackages();
buildFilter();
const run = spawnSync(
  process.execPath,
  ["--import", "tsx", "scripts/demo/main.ts", ...process.argv.slice(2)],
  { cwd: ROOT, stdio: "inherit" },
);
process.exitCode = run.status ?? 1;
