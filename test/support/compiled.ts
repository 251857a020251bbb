/** The exporter as JavaScript: it starts in a third of the time that TypeScript takes. Made again when a source is newer. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { join } from "node:path";

const ROOT = new URL("../../", import.meta.url).pathname;
const BUILD = join(ROOT, "build");
const SOURCES = ["exporter", "record", "tsconfig.json", "tsconfig.build.json"];
const OLD_MS = 3_600_000;

let main = "";

/** Returns the path of the compiled `meshseal` command. */
export function compiledMain(): string {
  if (main !== "") return main;
  const name = `exporter-${stateOf(SOURCES)}`;
  const out = join(BUILD, name);
  if (!existsSync(out)) compileTo(out);
  for (const other of readdirSync(BUILD)) {
    // An hour old: nothing that runs now was started from it.
    const path = join(BUILD, other);
    const isOld = other.startsWith("exporter-") && other !== name;
    if (isOld && Date.now() - statSync(path).mtimeMs > OLD_MS) {
      rmSync(path, { recursive: true, force: true });
    }
  }
  main = join(out, "exporter", "cli", "main.js");
  return main;
}

/** Compiles beside and renames: several test files may do so at the same time. */
function compileTo(out: string): void {
  const draft = mkdtempSync(join(BUILD, "compiling-"));
  try {
    const run = spawnSync(
      process.execPath,
      ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json", "--outDir", draft],
      { cwd: ROOT, encoding: "utf8" },
    );
    if (run.status !== 0) throw new Error(`tsc: ${run.stdout}${run.stderr}`);
    cpSync(join(ROOT, "package.json"), join(draft, "package.json"));
    renameSync(draft, out);
  } catch (error) {
    if (!existsSync(out)) throw error;
  } finally {
    rmSync(draft, { recursive: true, force: true });
  }
}

/** Returns a word for names, sizes and times of all files. */
function stateOf(paths: readonly string[]): string {
  const hash = createHash("sha256");
  const visit = (path: string): void => {
    const { mtimeMs, size } = statSync(join(ROOT, path));
    if (!statSync(join(ROOT, path)).isDirectory()) hash.update(`${path} ${mtimeMs} ${size}\n`);
    else for (const name of readdirSync(join(ROOT, path)).sort()) visit(`${path}/${name}`);
  };
  for (const path of paths) visit(path);
  return hash.digest("hex").slice(0, 12);
}
