import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { readSettings } from "../../exporter/config.ts";
import { runChecks } from "../../exporter/doctor/check.ts";
import { meshChecks } from "../../exporter/doctor/mesh.ts";
import { scratchDir } from "../support/control-plane.ts";
import { validate, writeCrds } from "../support/crds.ts";
import { type GoTool, goTool } from "../support/go-tools.ts";

const CHART = "deploy/helm/meshseal";

const MESH_WIDE = "deploy/istio/mesh-wide.yaml";
const GATEWAY = "deploy/envoy-gateway/meshseal.yaml";
const BASE = "deploy/kustomize/base/meshseal.yaml";

const scratch = scratchDir("manifests");
let crds = "";

function run(
  tool: GoTool | "go",
  args: readonly string[],
): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(tool === "go" ? "go" : goTool(tool), args, {
    encoding: "utf8",
    maxBuffer: 1 << 28,
  });
  return { status, stdout, stderr };
}

function helm(...args: string[]): string {
  const { status, stdout, stderr } = run("helm", args);
  if (status !== 0) throw new Error(`helm ${args.join(" ")}: ${stderr}${stdout}`);
  return stdout;
}

function render(...settings: string[]): string {
  const args = settings.flatMap((setting) => ["--set-json", setting]);
  return helm(
    "template",
    "meshseal",
    CHART,
    "--namespace",
    "meshseal-system",
    "--kube-version",
    "1.31.0",
    ...args,
  );
}

/** What kubectl-validate says of these resources: "" where it takes them. */
function refused(text: string): string {
  const file = join(scratch.dir, "resources.yaml");
  writeFileSync(file, text);
  const [judged] = validate(crds, [file]);
  expect((judged?.valid ?? 0) + (judged?.refusals.length ?? 0)).toBeGreaterThan(0);
  return judged?.refusals.join("\n") ?? "nothing was said";
}

beforeAll(() => {
  crds = writeCrds(join(scratch.dir, "crds"));
}, 900_000);

afterAll(() => scratch.remove());

const FILES = ["deploy/istio", "deploy/envoy-gateway"].flatMap((dir) =>
  readdirSync(dir)
    .filter((name) => name !== "mesh-config.yaml")
    .map((name) => join(dir, name)),
);

test("every committed manifest is what an API server takes", () => {
  const judged = validate(crds, FILES);
  expect(judged.map(({ refusals }) => refusals.join())).toEqual(FILES.map(() => ""));
  for (const { valid } of judged) expect(valid).toBeGreaterThan(0);
});

/** What it is, in which file, what is changed into what, and a word of the refusal. */
const BROKEN: readonly [string, string, string | RegExp, string, string][] = [
  ["an unknown field", MESH_WIDE, "  phase: AUTHN", "  phases: AUTHN", "spec.phases"],
  ["an unknown mode", MESH_WIDE, "mode: SERVER", "mode: SERVERS", "SERVERS"],
  ["a bad digest", MESH_WIDE, /sha256: "0{64}"/, "sha256: 0g", "sha256"],
  ["an ftp address", MESH_WIDE, "url: oci:", "url: ftp:", "url must have schema"],
  ["Lua beside Wasm", MESH_WIDE, "  wasm:\n", '  lua: { inlineCode: "x" }\n  wasm:\n', "oneOf"],
  ["a field of no policy", GATEWAY, "failOpen: false", "failOpened: false", "failOpened"],
  ["no target", GATEWAY, /targetRefs:\n.*\n.*\n.*\n/, "", "targetRef"],
  ["a Pod's field misspelt", BASE, "runAsNonRoot", "runAsNonroot", "runAsNonroot"],
  ["a number where text is", BASE, "mode: STRICT", "mode: 1", "mode"],
  ["no kind", BASE, "kind: ConfigMap\n", "", "kind  not found"],
];

test("what is broken is refused", () => {
  const files = BROKEN.map(([_what, file, from, to], i) => {
    const text = readFileSync(file, "utf8");
    expect(text).toMatch(from);
    const broken = join(scratch.dir, `broken-${i}.yaml`);
    writeFileSync(broken, text.replace(from, to));
    return broken;
  });
  const judged = validate(crds, files);
  for (const [i, [what, , , , word]] of BROKEN.entries())
    expect(judged[i]?.refusals.join(), what).toContain(word);
});

const VARIANTS: readonly (readonly string[])[] = [
  [],
  ['senders="anonymous"', "networkPolicy.egress=[]", "replicas=3"],
  [
    'senders="certificates"',
    'tls.secretName="meshseal-tls"',
    `image.digest="sha256:${"a".repeat(64)}"`,
  ],
  [
    'istio.principals=["cluster.local/ns/shop/sa/*"]',
    'access={"rules":[]}',
    'env=[{"name":"A","value":"b"}]',
    'persistence.storageClass="fast"',
  ],
  ["serviceMonitor.enabled=true", "replicas=2", 'serviceMonitor.labels={"release":"prometheus"}'],
  [
    "podDisruptionBudget.enabled=false",
    "networkPolicy.enabled=false",
    "istio.peerAuthentication=false",
  ],
];

test("helm lint finds nothing, with every kind of senders", () => {
  for (const settings of VARIANTS) {
    const out = helm(
      "lint",
      "--strict",
      CHART,
      ...settings.flatMap((setting) => ["--set-json", setting]),
    );
    expect(out).toContain("0 chart(s) failed");
  }
});

test.each(VARIANTS.map((settings) => [settings]))(
  "the chart with %j renders what an API server takes, and what serve takes",
  (settings) => {
    const text = render(...settings);
    expect(refused(text)).toBe("");
    const resources = parseAllDocuments(text).map((document) => document.toJS());
    const of = (kind: string) => resources.find((one) => one?.kind === kind);
    // Its settings file is one that `serve` reads.
    const file = join(scratch.dir, "meshseal.json");
    writeFileSync(file, of("ConfigMap")["data"]["meshseal.json"]);
    const serve = readSettings({ config: file }, {});
    expect(serve.data).toBe("/data");
    const container = of("StatefulSet")["spec"]["template"]["spec"]["containers"][0] as Record<
      string,
      unknown
    >;
    expect(container["securityContext"]).toMatchObject({
      readOnlyRootFilesystem: true,
      allowPrivilegeEscalation: false,
    });
    // Ports, probes, Services and NetworkPolicy speak of the same ports.
    const ports = Object.fromEntries(
      (container["ports"] as { name: string; containerPort: number }[]).map(
        ({ name, containerPort }) => [name, containerPort],
      ),
    );
    expect(serve.listen).toMatch(new RegExp(`:${ports["batches"]}$`));
    expect(serve.healthListen).toBe(`0.0.0.0:${ports["health"]}`);
    for (const probe of ["startupProbe", "livenessProbe", "readinessProbe"]) {
      expect(container[probe]).toMatchObject({ httpGet: { port: "health" } });
    }
  },
);

test("a value that the chart does not know is refused", () => {
  expect(() => render("sender=1")).toThrow(/sender/);
  expect(() => render('senders="mtls"')).toThrow(/senders/);
  expect(() => render('senders="certificates"')).toThrow(/tls.secretName/);
  expect(() => render('settings={"listen":"0.0.0.0:1"}')).toThrow(/settings/);
});

test("ServiceMonitor is off by default, and chooses the Service that has each replica", () => {
  expect(render()).not.toContain("ServiceMonitor");
  const resources = parseAllDocuments(render("serviceMonitor.enabled=true")).map((document) =>
    document.toJS(),
  );
  const monitor = resources.find((one) => one.kind === "ServiceMonitor");
  const chosen = resources.filter(
    (one) =>
      one.kind === "Service" &&
      Object.entries(monitor.spec.selector.matchLabels).every(
        ([key, value]) => one.metadata.labels[key] === value,
      ),
  );
  expect(chosen.map((one) => one.metadata.name)).toEqual(["meshseal-replicas"]);
  expect(chosen[0].spec.ports.map((one: { name: string }) => one.name)).toContain(
    monitor.spec.endpoints[0].port,
  );
});

test("the Kustomize base is the chart with its defaults", () => {
  const rendered = render()
    .replaceAll(/^ *helm.sh\/chart:.*\n/gm, "")
    .replaceAll("managed-by: Helm", "managed-by: kustomize")
    .replaceAll(/^# Source: .*\n/gm, "");
  expect(readFileSync("deploy/kustomize/base/meshseal.yaml", "utf8")).toBe(rendered);
});

test("the Kustomize base builds", () => {
  const { status, stdout, stderr } = run("kustomize", ["build", "deploy/kustomize/base"]);
  expect(status, stderr).toBe(0);
  expect(refused(stdout)).toBe("");
});

test("every provider and cluster that a manifest names exists", async () => {
  const chart = join(scratch.dir, "chart.yaml");
  writeFileSync(chart, render());
  for (const file of FILES) {
    const results = await runChecks(
      await meshChecks({ manifest: [file, "deploy/istio/mesh-config.yaml", chart] }),
    );
    expect(
      results.filter(({ status }) => status === "bad"),
      file,
    ).toEqual([]);
  }
});
