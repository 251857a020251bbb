import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type ApiServer, type Said, startApiServer } from "../support/api-server.ts";
import { scratchDir } from "../support/control-plane.ts";
import { writeCrds } from "../support/crds.ts";
import { type GoTool, goTool } from "../support/go-tools.ts";

const CHART = "deploy/helm/meshseal";
const NAMESPACES = ["meshseal-system", "shop", "bank", "istio-system", "istio-ingress"];
const DRY_RUN = ["apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f"];

const scratch = scratchDir("cluster");
let api: ApiServer;

function run(tool: GoTool, ...args: string[]): Said & { readonly stdout: string } {
  const env = { ...process.env, KUBECONFIG: api.kubeconfig };
  const { status, stdout, stderr } = spawnSync(goTool(tool), args, { env, encoding: "utf8" });
  return { status, out: `${stdout}${stderr}`, stdout };
}

beforeAll(async () => {
  mkdirSync(scratch.dir, { recursive: true });
  api = await startApiServer(scratch.dir);
  const crds = writeCrds(join(scratch.dir, "crds"));
  const applied = api.kubectl(["apply", "--server-side", "-f", crds]);
  expect(applied.status, applied.out).toBe(0);
  const served = api.kubectl([
    ...["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"],
  ]);
  expect(served.status, served.out).toBe(0);
  for (const name of NAMESPACES) expect(api.kubectl(["create", "namespace", name]).status).toBe(0);
}, 900_000);

afterAll(async () => {
  await api?.stop();
  scratch.remove();
}, 120_000);

test.each([
  [[]],
  [["senders=anonymous", "replicas=3"]],
  [["senders=certificates", "tls.secretName=meshseal-tls"]],
  [["podDisruptionBudget.enabled=false", "networkPolicy.enabled=false"]],
  [["serviceMonitor.enabled=true", "replicas=2"]],
])("helm install --dry-run=server with %j", (settings) => {
  const set = settings.flatMap((setting) => ["--set", setting]);
  const namespace = ["--namespace", "meshseal-system", "--dry-run=server"];
  const { status, out } = run("helm", "install", "meshseal", CHART, ...namespace, ...set);
  expect(status, out).toBe(0);
  expect(out).toContain("kind: StatefulSet");
  // What is asked of the server is also what the server takes.
  const place = ["--namespace", "meshseal-system", "--kube-version", "1.37.2"];
  const template = run("helm", "template", "meshseal", CHART, ...place, ...set);
  expect(template.status, template.out).toBe(0);
  const applied = api.kubectl([...DRY_RUN, "-", "-n", "meshseal-system"], template.stdout);
  expect(applied.status, applied.out).toBe(0);
});

test.each(
  ["deploy/istio", "deploy/envoy-gateway"].flatMap((dir) =>
    readdirSync(dir)
      .filter((name) => name !== "mesh-config.yaml")
      .map((name) => join(dir, name)),
  ),
)("%s is applied on the server's side", (file) => {
  const { status, out } = api.kubectl([...DRY_RUN, file]);
  expect(status, out).toBe(0);
  expect(out).toContain("serverside-applied (server dry run)");
});

test("the Kustomize base is applied on the server's side", () => {
  const built = run("kustomize", "build", "deploy/kustomize/base");
  expect(built.status, built.out).toBe(0);
  const { status, out } = api.kubectl([...DRY_RUN, "-", "-n", "meshseal-system"], built.stdout);
  expect(status, out).toBe(0);
});

test.each([
  ["an unknown field", "  phase: AUTHN", "  phases: AUTHN", "field not declared"],
  ["an unknown mode", "mode: SERVER", "mode: SERVERS", "Unsupported value"],
  ["a bad digest", /sha256: "0{64}"/, "sha256: 0g", "should match"],
  ["an ftp address", "url: oci:", "url: ftp:", "url must have schema"],
  ["Lua beside Wasm", "  wasm:\n", '  lua: { inlineCode: "x" }\n  wasm:\n', "is invalid"],
])("and %s is refused", (_what, from, to, words) => {
  const text = readFileSync("deploy/istio/mesh-wide.yaml", "utf8");
  expect(text).toMatch(from);
  const { status, out } = api.kubectl([...DRY_RUN, "-"], text.replace(from, to));
  expect(status).not.toBe(0);
  expect(out).toContain(words);
});
