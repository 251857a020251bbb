/**
 * Finds the servers of buckets that tests and demo run, or builds them once into the user's cache folder, meshseal/: versitygw,
 * MinIO and fake-gcs-server with Go, moto with pip, Azurite with npm. Plain JavaScript without packages.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";

const SERVERS = {
  versitygw: {
    // Before 1.8.0 it let a retention be shortened.
    folder: "versitygw-1.8.0",
    binary: "versitygw",
    module: "github.com/versity/versitygw/cmd/versitygw@v1.8.0",
  },
  minio: {
    folder: "minio-2026-02-12",
    binary: "minio",
    module: "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c",
  },
  "fake-gcs-server": {
    folder: "fake-gcs-server-1.56.1",
    binary: "fake-gcs-server",
    module: "github.com/fsouza/fake-gcs-server@v1.56.1",
  },
  // 360 MB, and it asks for Node 22, though it runs on 20: no dependency of ours.
  azurite: {
    folder: "azurite-3.37.0",
    binary: "node_modules/azurite/dist/src/blob/main.js",
    npm: "azurite@3.37.0",
  },
  moto: { folder: "moto-5.2.5", binary: "bin/moto_server", package: "moto[server]==5.2.5" },
};

/** Returns the path of a server's binary. Throws an Error with one sentence that says what is missing. */
export function findServer(name) {
  const { folder, binary, module, package: pip, npm } = SERVERS[name];
  const target = join(cacheFolder(), folder);
  const path = join(target, binary);
  if (existsSync(path)) return path;
  console.error(`meshseal: building ${folder} (once, some minutes) ...`);
  mkdirSync(dirname(target), { recursive: true });
  if (npm !== undefined) {
    const args = ["install", "--no-audit", "--no-fund", "--loglevel", "error", "--prefix", target];
    mkdirSync(target, { recursive: true });
    if (runs("npm", [...args, npm])) return path;
    rmSync(target, { recursive: true, force: true });
    throw new Error(`${npm} could not be installed: npm and a registry are needed.`);
  }
  if (module === undefined) {
    // A virtual environment knows its own path, so it is made where it stays.
    const isMade =
      runs("python3", ["-m", "venv", target]) &&
      runs(join(target, "bin/pip"), ["--quiet", "--disable-pip-version-check", "install", pip]);
    if (isMade) return path;
    rmSync(target, { recursive: true, force: true });
    throw new Error(`${pip} could not be installed: Python 3 with venv and pip is needed.`);
  }
  const work = mkdtempSync(`${target}-`);
  const env = { ...process.env, GOBIN: work, CGO_ENABLED: "0" };
  const args = ["install", "-p", "2", "-trimpath", "-ldflags", "-s -w", module];
  if (!runs("go", args, env)) {
    rmSync(work, { recursive: true, force: true });
    throw new Error(
      `${module} could not be built: Go 1.26 or newer is needed (https://go.dev/dl).`,
    );
  }
  renameSync(work, target);
  return path;
}

function cacheFolder() {
  const macOs = join(homedir(), "Library", "Caches");
  const others = process.env.XDG_CACHE_HOME || join(homedir(), ".cache");
  return join(process.platform === "darwin" ? macOs : others, "meshseal");
}

function runs(command, args, env = process.env) {
  return spawnSync(command, args, { env, stdio: ["ignore", 2, 2] }).status === 0;
}
