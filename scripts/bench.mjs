/** `npm run bench [-- filter|log|verify [options]]`: sets up what is missing, then measures. Without a name: all. */
import { spawnSync } from "node:child_process";
import { buildFilter, fail, installPackages, ROOT } from "./setup.mjs";

const BENCHES = ["filter", "log", "verify"];
const [name, ...args] = process.argv.slice(2);
if (name !== undefined && !BENCHES.includes(name)) {
  fail(`there is no benchmark "${name}": npm run bench -- ${BENCHES.join("|")}.`);
}

installPackages();
buildFilter();
for (const bench of name === undefined ? BENCHES : [name]) {
  const run = spawnSync(process.execPath, ["--import", "tsx", `test/bench/${bench}.ts`, ...args], {
    cwd: ROOT,
    stdio: "inherit",
  });
  if (run.status !== 0) process.exit(run.status ?? 1);
}
