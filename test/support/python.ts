/** Python packages for tests, each in a virtual environment that is made once in the user's cache folder, meshseal/. Needs venv and pip. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { cacheFolder } from "./go-tools.ts";

/** Returns the path of a Python that has `requirement`, as pip names it: `package==version`. */
export function pythonWith(requirement: string): string {
  const target = join(cacheFolder(), requirement.replace("==", "-"));
  const python = join(target, "bin/python");
  const done = join(target, "complete");
  if (existsSync(done)) return python;
  console.error(`meshseal: installing ${requirement} (once) ...`);
  mkdirSync(dirname(target), { recursive: true });
  rmSync(target, { recursive: true, force: true });
  // A virtual environment knows its own path, so it is made where it stays.
  run("python3", "-m", "venv", target);
  run(python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", requirement);
  writeFileSync(done, "");
  return python;
}

function run(command: string, ...args: string[]): void {
  const { status, error, stderr } = spawnSync(command, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: ${error?.message ?? stderr}`);
}
