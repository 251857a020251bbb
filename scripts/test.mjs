/**
 * `npm test`: sets up what is missing, then runs every suite that needs nothing but Node and Envoy, and says which
 * ones it left out. `npm run test:NAME` runs one of those. Arguments go on to vitest.
 */
import { spawnSync } from "node:child_process";
import { buildFilter, fail, installPackages, ROOT } from "./setup.mjs";

/**
 * A network with addresses for Pods (an API server takes none of loopback), from which nothing outside is reached, and the folder
 * in which Istio's agent keeps modules. What is after it is run in it.
 */
const OWN_MACHINE = [
  ...["unshare", ...(process.getuid?.() === 0 ? [] : ["--map-root-user"]), "--net", "--mount"],
  ...["sh", "-c"],
  [
    "ip link set lo up",
    'for i in 2 10 11 12 13 14 15; do ip addr add "10.77.0.$i/32" dev lo || exit; done',
    "mount -t tmpfs tmpfs /var/lib && mkdir -p /var/lib/istio/data",
    'exec "$@"',
  ].join(" && "),
  "sh",
];

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
    needs:
      "Go 1.26 or newer (https://go.dev/dl), Python 3 with venv and pip, and 360 MB for Azurite",
    shows:
      "logs in buckets of two real S3 servers with object lock, and of one that lies; on fake-gcs-server and Azurite, which lock nothing",
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
    prepare: [
      ...["--import", "tsx", "test/support/go-tools.ts"],
      ...["meshseal-istio", "helm", "kustomize", "kubectl-validate"],
    ],
  },
  cluster: {
    needs:
      "Linux with unshare and ip (util-linux, iproute2), and Go 1.26 or newer (https://go.dev/dl); the first run builds etcd, Kubernetes' and Istio's own programs, for a quarter of an hour",
    shows:
      "the README's part about Istio on a real API server, istiod, Istio's agents and Envoy, with mutual TLS; junk is refused",
    isReady: () =>
      process.platform === "linux" &&
      spawnSync("go", ["version"], { stdio: "ignore" }).status === 0 &&
      spawnSync(OWN_MACHINE[0], [...OWN_MACHINE.slice(1), "true"], { stdio: "ignore" }).status ===
        0,
    prepare: [
      ...["--import", "tsx", "test/support/go-tools.ts"],
      ...["etcd", "kube-apiserver", "kubectl", "istiod", "istio-agent", "istioctl"],
      ...["meshseal-istio", "helm", "kustomize"],
      ...["github.com/envoyproxy/gateway@v1.6.0"],
      ...["github.com/prometheus-operator/prometheus-operator@v0.85.0"],
    ],
    within: OWN_MACHINE,
  },
  crash: {
    needs:
      "strace, and to be root: it traces processes and mounts a tmpfs (in a container --cap-add SYS_PTRACE,SYS_ADMIN)",
    shows:
      "the exporter survives a failure or a kill at its system calls on data (MESHSEAL_STRIDE=1 for all of them: docs/durability.md)",
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
const { prepare, within = [] } = OTHERS[suite] ?? {};
if (
  prepare &&
  spawnSync(process.execPath, prepare, { cwd: ROOT, stdio: ["ignore", 2, 2] }).status !== 0
) {
  fail(`what npm run test:${suite} needs could not be built: see the lines above.`);
}
const [command, ...more] = [
  ...[...within, process.execPath, "node_modules/vitest/vitest.mjs"],
  ...["run", "--project", suite, ...args],
];
const run = spawnSync(command, more, { cwd: ROOT, stdio: "inherit" });
if (suite === "main") {
  console.error("Not part of npm test:");
  for (const [name, { needs, shows }] of Object.entries(OTHERS)) {
    console.error(`  npm run test:${name}  ${shows}; needs ${needs}`);
  }
}
process.exitCode = run.status ?? 1;
