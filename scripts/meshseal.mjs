/** Runs the `meshseal` command from a checkout: installs packages once, then passes arguments, signals and exit code on. */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { installPackages, ROOT } from "./setup.mjs";

installPackages();
const tsx = import.meta.resolve("tsx");
const main = join(ROOT, "exporter/cli/main.ts");
const child = spawn(process.execPath, ["--import", tsx, main, ...process.argv.slice(2)], {
  stdio: "inherit",
});
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));
child.on("exit", (code, signal) => {
  process.exitCode = code ?? (signal === "SIGINT" ? 130 : 143);
});
