/**
 * The CRDs of everything that our manifests speak to, from the modules of those who make them, and what kubectl-validate
 * says of a manifest with them: schemas, unknown fields and CEL rules, as an API server judges them.
 */
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { goTool, moduleDir } from "./go-tools.ts";

const ENVOY_GATEWAY = "github.com/envoyproxy/gateway@v1.6.0";
const PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0";
/** The newest whose own kinds kubectl-validate has in itself; for others it would ask GitHub. */
const KUBERNETES = "1.30";

/** The text that `istioctl manifest generate` renders its CRDs from. */
export function istioCrds(): string {
  const { stdout } = spawnSync(goTool("meshseal-istio"), ["crds"], {
    encoding: "utf8",
    maxBuffer: 1 << 26,
  });
  // Istio's test packages say something before our main begins.
  return stdout.slice(stdout.indexOf("# DO NOT EDIT"));
}

/** Fills `dir` with the CRDs of Istio, Envoy Gateway, the Gateway API and the Prometheus Operator's ServiceMonitor. */
export function writeCrds(dir: string): string {
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, "istio.yaml"), istioCrds());
  const gateway = join(moduleDir(ENVOY_GATEWAY), "charts/gateway-helm/crds");
  cpSync(join(gateway, "generated"), dir, { recursive: true });
  cpSync(join(gateway, "gatewayapi-crds.yaml"), join(dir, "gatewayapi-crds.yaml"));
  const name = "monitoring.coreos.com_servicemonitors.yaml";
  const operator = join(moduleDir(PROMETHEUS_OPERATOR), "example/prometheus-operator-crd");
  cpSync(join(operator, name), join(dir, name));
  return dir;
}

export type Judged = {
  /** How many resources were taken. */
  readonly valid: number;
  /** Why others were not. */
  readonly refusals: readonly string[];
};

/** What kubectl-validate says of each file, in their order. */
export function validate(crds: string, files: readonly string[]): Judged[] {
  const args = ["--version", KUBERNETES, "--output", "json", "--local-crds", crds, ...files];
  const { stdout, stderr } = spawnSync(goTool("kubectl-validate"), args, {
    encoding: "utf8",
    maxBuffer: 1 << 26,
  });
  if (!stdout.startsWith("{")) throw new Error(`kubectl-validate: ${stdout}${stderr}`);
  const said = JSON.parse(stdout) as Record<string, { status: string; message?: string }[]>;
  return files.map((file) => {
    const each = said[file] ?? [];
    const refusals = each
      .filter(({ status }) => status !== "Success")
      .map(({ message }) => message ?? "no reason");
    return { valid: each.length - refusals.length, refusals };
  });
}
