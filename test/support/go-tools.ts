/**
 * Programs for tests that exist as Go modules: each is built once, with its versions pinned, and kept in the user's cache
 * folder, meshseal/tools/. Run as a program it builds those that it is given, and fetches modules: `npx tsx test/support/go-tools.ts helm`.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
} from "node:fs";
import { homedir, tmpdir } from "node:os";
import { dirname, join } from "node:path";

type Tool = {
  /** Folder beside this file that holds go.mod and go.sum; without one the package is built as its own module has it. */
  readonly module?: string;
  /** With `@version` where there is no module. */
  readonly package: string;
  /** More for the linker. */
  readonly ldflags?: string;
};

export type GoTool =
  | "meshseal-istio"
  | "istioctl"
  | "istiod"
  | "istio-agent"
  | "helm"
  | "kustomize"
  | "litewitness"
  | "etcd"
  | "kube-apiserver"
  | "kubectl"
  | "kubectl-validate"
  | "rekor"
  | "torchwood-client";

const KUBERNETES = ["Version=v1.37.2", "Major=1", "Minor=37"]
  .map((value) => `-X k8s.io/component-base/version.git${value}`)
  .join(" ");
/** The module has no version of its own: its dependencies are those of 1.31. */
const ISTIO = "-X istio.io/istio/pkg/version.buildVersion=1.31-dev";

const TOOLS: Readonly<Record<GoTool, Tool>> = {
  "meshseal-istio": { module: "istio", package: "." },
  helm: { package: "helm.sh/helm/v3/cmd/helm@v3.22.0" },
  istioctl: istio("istioctl/cmd/istioctl"),
  istiod: istio("pilot/cmd/pilot-discovery"),
  "istio-agent": istio("pilot/cmd/pilot-agent"),
  // `go install` does not take these three, since their go.mod replaces packages by folders of their own repository.
  etcd: { module: "kubernetes", package: "go.etcd.io/etcd/server/v3" },
  "kube-apiserver": kubernetes("kube-apiserver"),
  kubectl: kubernetes("kubectl"),
  "kubectl-validate": { package: "sigs.k8s.io/kubectl-validate@v0.0.4" },
  kustomize: { package: "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1" },
  litewitness: { package: "filippo.io/torchwood/cmd/litewitness@v0.9.0" },
  "torchwood-client": { module: "torchwood", package: "." },
  rekor: { package: "github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix@v2.3.0" },
};

function istio(path: string): Tool {
  return { module: "istio", package: `istio.io/istio/${path}`, ldflags: ISTIO };
}

function kubernetes(command: string): Tool {
  return {
    module: "kubernetes",
    package: `k8s.io/kubernetes/cmd/${command}`,
    ldflags: KUBERNETES,
  };
}

/** Returns the path of the program, and builds it first where it is not there yet: some minutes for the large ones. */
export function goTool(name: GoTool): string {
  const tool: Tool = TOOLS[name];
  const source = tool.module === undefined ? null : join(import.meta.dirname, tool.module);
  const target = join(cacheFolder(), "tools", `${name}-${fingerprint(tool, source)}`, name);
  if (existsSync(target)) return target;
  console.error(`meshseal: building ${name} (once; minutes) ...`);
  mkdirSync(dirname(target), { recursive: true });
  const work = mkdtempSync(join(dirname(target), "build-"));
  try {
    const flags = ["-p", "2", "-trimpath", "-ldflags", `-s -w ${tool.ldflags ?? ""}`.trim()];
    const args =
      source === null
        ? ["install", ...flags, tool.package]
        : ["build", ...flags, "-o", join(work, name), tool.package];
    const build = spawnSync("go", args, {
      cwd: source ?? work,
      encoding: "utf8",
      env: {
        ...process.env,
        CGO_ENABLED: "0",
        GOBIN: work,
        GOFLAGS: "-buildvcs=false",
        GOWORK: "off",
      },
    });
    const built = readdirSync(work)[0];
    if (build.status !== 0 || built === undefined) {
      throw new Error(`go ${args.join(" ")} failed: ${build.error?.message ?? build.stderr}`);
    }
    renameSync(join(work, built), target);
    return target;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Where Go keeps the files of a module, as `module`/go.mod has it, or in the version that is given with `@`. */
export function moduleDir(path: string, module?: string): string {
  const args = path.includes("@")
    ? ["mod", "download", "-json", path]
    : ["list", "-m", "-json", path];
  const cwd = module === undefined ? tmpdir() : join(import.meta.dirname, module);
  const { status, stdout, stderr } = spawnSync("go", args, { cwd, encoding: "utf8" });
  if (status !== 0) throw new Error(`go ${args.join(" ")}: ${stderr}${stdout}`);
  return (JSON.parse(stdout) as { Dir: string }).Dir;
}

function fingerprint(tool: Tool, source: string | null): string {
  const hash = createHash("sha256").update(JSON.stringify(tool));
  // The module's own program is built from all its files; a foreign one only follows the versions.
  const names = source === null ? [] : readdirSync(source).sort();
  for (const name of names) {
    if (tool.package === "." || name.startsWith("go."))
      hash.update(readFileSync(join(source ?? "", name)));
  }
  return hash.digest("hex").slice(0, 12);
}

export function cacheFolder(): string {
  const macOs = join(homedir(), "Library", "Caches");
  const others = process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache");
  return join(process.platform === "darwin" ? macOs : others, "meshseal");
}

if (process.argv[1] === import.meta.filename) {
  for (const name of process.argv.slice(2))
    console.log(name.includes("@") ? moduleDir(name) : goTool(name as GoTool));
}
