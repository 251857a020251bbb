/**
 * `npm test`: sets up what is missing, then runs every suite that needs nothing but Node and Envoy, and says which
 * ones it left out. `npm run test:NAME` runs one of those. Arguments go on to vitest.
 */
import { spawnSync } from "node:child_process";
import { buildFilter, fail, installPackages, ROOT } from "./setup.mjs";

/** The suites of their own, with what each needs. */
const OTHERS = {
  interop: {
    needs:
      "Go 1.25 or newer (https://go.dev/dl), Python 3 with venv and pip, and OpenSSH's ssh-agent",
    shows:
      "Go's tlog and note packages, Tessera's fsck, litewitness, torchwood's client and Rekor take our logs; OpenTimestamps' own library our proofs",
    isReady: () =>
      spawnSync("go", ["version"], { stdio: "ignore" }).status === 0 &&
      spawnSync("python3", ["-m", "pip", "--version"], { stdio: "ignore" }).status === 0 &&
      spawnSync("ssh-add", ["-l"], { stdio: "ignore" }).error === undefined,
  },
  stores: {
    needs: "Go 1.26 or newer (https://go.dev/dl), and Python 3 with venv and pip",
    shows: "logs in buckets of two real S3 servers with object lock, and of one that lies",
    isReady: () =>
      spawnSync("go", ["version"], { stdio: "ignore" }).status === 0 &&
      spawnSync("python3", ["-m", "pip", "--version"], { stdio: "ignore" }).status === 0,
  },
  mesh: {
    needs:
      "Go 1.26 or newer (https://go.dev/dl); the first run builds Istio's generators and Helm, for some minutes",
    shows:
      "Istio's own code takes our manifests and gives a real Envoy our filter from a registry; the chart; the packed command",
    isReady: () => spawnSync("go", ["version"], { stdio: "ignore" }).status === 0,
    /** Built before the tests, so that no time limit of theirs is spent on it. */
    prepare: ["--import", "tsx", "test/support/go-tools.ts", "meshseal-istio", "helm", "kustomize"],
  },
  cluster: {
    needs:
      "Go 1.26 or newer, etcd (Debian's etcd-server) and kubectl on PATH; the first run builds kube-apiserver, for some minutes",
    shows: "a real Kubernetes API server takes the chart and every manifest, and refuses junk",
    isReady: () =>
      spawnSync("go", ["version"], { stdio: "ignore" }).status === 0 &&
      spawnSync("etcd", ["--version"], { stdio: "ignore" }).status === 0 &&
      spawnSync("kubectl", ["version", "--client"], { stdio: "ignore" }).status === 0,
    prepare: [
      ...["--import", "tsx", "test/support/go-tools.ts"],
      ...["kube-apiserver", "meshseal-istio", "helm", "kustomize"],
    ],
  },
  crash: {
    needs:
      "strace, and to be root: it traces processes and mounts a tmpfs (in a container --cap-add SYS_PTRACE,SYS_ADMIN)",
    shows:
      "the exporter survives a failure or a kill at every system call (MESHSEAL_STRIDE=1 for all of them)",
    isReady: () =>
      spawnSync(
        "strace",
        ["-o", "/dev/null", "unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/tmp"],
        { stdio: "ignore" },
      ).status === 0,
  },
};

const [first = "main", ...rest] = process.argv.slice(2);
const suite = first in OTHERS ? first : "main";
// Most of the main suite's time is spent waiting for Envoys and exporters: two files at a time also on two cores.
const args = suite === "main" ? ["--maxWorkers=2", ...process.argv.slice(2)] : rest;

installPackages();
buildFilter();
if (suite !== "main" && !OTHERS[suite].isReady()) {
  fail(`npm run test:${suite} needs ${OTHERS[suite].needs}: install it, then run this again.`);
}
const { prepare } = OTHERS[suite] ?? {};
if (
  prepare &&
  spawnSync(process.execPath, prepare, { cwd: ROOT, stdio: ["ignore", 2, 2] }).status !== 0
) {
  fail(`what npm run test:${suite} needs could not be built: see the lines above.`);
}
const run = spawnSync(
  process.execPath,
  ["node_modules/vitest/vitest.mjs", "run", "--project", suite, ...args],
  { cwd: ROOT, stdio: "inherit" },
);
if (suite === "main") {
  console.error("Not part of npm test:");
  for (const [name, { needs, shows }] of Object.entries(OTHERS)) {
    console.error(`  npm run test:${name}  ${shows}; needs ${needs}`);
  }
}
process.exitCode = run.status ?? 1;
