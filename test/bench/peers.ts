/** Builds what the log is compared with, once, with Go: kept in the user's cache folder under meshseal/. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

const SOURCE = join(import.meta.dirname, "peers");
const PACKAGES = {
  tesseraposix: ".",
  "tessera-fsck": "github.com/transparency-dev/tessera/cmd/fsck",
};

export type Peers = {
  readonly tesseraposix: string;
  readonly fsck: string;
  /** As `go version` and go.mod say. */
  readonly versions: { readonly go: string; readonly tessera: string };
};

/** Returns the paths of the programs, or null where there is no Go. Throws where they do not build. */
export function findPeers(): Peers | null {
  const go = spawnSync("go", ["env", "GOVERSION"], { encoding: "utf8" });
  if (go.status !== 0) return null;
  const module = readFileSync(join(SOURCE, "go.mod"), "utf8");
  const sources = [module, readFileSync(join(SOURCE, "main.go"), "utf8"), go.stdout];
  const key = createHash("sha256").update(sources.join()).digest("hex").slice(0, 16);
  const cache = process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache");
  const dir = join(cache, "meshseal", `bench-peers-${key}`);
  mkdirSync(dir, { recursive: true });
  for (const [name, path] of Object.entries(PACKAGES)) {
    if (existsSync(join(dir, name))) continue;
    const draft = join(dir, `${name}.${process.pid}`);
    const args = ["build", "-buildvcs=false", "-p", "2", "-o", draft, path];
    const build = spawnSync("go", args, { cwd: SOURCE, encoding: "utf8" });
    if (build.status !== 0) throw new Error(`go build ${path}: ${build.stderr}`);
    renameSync(draft, join(dir, name));
  }
  const tessera = /transparency-dev\/tessera (v\S+)/.exec(module)?.[1] ?? "";
  return {
    tesseraposix: join(dir, "tesseraposix"),
    fsck: join(dir, "tessera-fsck"),
    versions: { go: go.stdout.trim(), tessera },
  };
}
