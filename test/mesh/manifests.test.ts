import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { readSettings } from "../../exporter/config.ts";
import { runChecks } from "../../exporter/doctor/check.ts";
import { meshChecks } from "../../exporter/doctor/mesh.ts";
import { scratchDir } from "../support/control-plane.ts";
import { type GoTool, goTool } from "../support/go-tools.ts";

const CHART = "deploy/helm/meshseal";
const ENVOY_GATEWAY = "github.com/envoyproxy/gateway@v1.6.0";

const scratch = scratchDir("manifests");
const crds: string[] = [];

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

/** What an API server says of these resources: "" where it takes them. */
function refused(text: string): string {
  const file = join(scratch.dir, "resources.yaml");
  writeFileSync(file, text);
  const { status, stdout, stderr } = run("meshseal-istio", [
    "validate",
    ...crds.flatMap((one) => ["--crds", one]),
    file,
  ]);
  if (status === 0) expect(stdout).toContain("valid ");
  return status === 0 ? "" : stderr;
}

beforeAll(() => {
  mkdirSync(scratch.dir, { recursive: true });
  const istio = join(scratch.dir, "istio-crds.yaml");
  const { stdout } = run("meshseal-istio", ["crds"]);
  // Istio's test packages say something before our main begins.
  writeFileSync(istio, stdout.slice(stdout.indexOf("# DO NOT EDIT")));
  const module = JSON.parse(run("go", ["mod", "download", "-json", ENVOY_GATEWAY]).stdout) as {
    Dir: string;
  };
  const generated = join(module.Dir, "charts/gateway-helm/crds/generated");
  crds.push(istio, ...readdirSync(generated).map((name) => join(generated, name)));
}, 900_000);

afterAll(() => scratch.remove());

const FILES = ["deploy/istio", "deploy/envoy-gateway"].flatMap((dir) =>
  readdirSync(dir)
    .filter((name) => name !== "mesh-config.yaml")
    .map((name) => join(dir, name)),
);

test.each(FILES)("%s is what an API server takes", (file) => {
  expect(refused(readFileSync(file, "utf8"))).toBe("");
});

test.each([
  ["an unknown field", "  phase: AUTHN", "  phases: AUTHN", "unknown field"],
  ["an unknown mode", "mode: SERVER", "mode: SERVERS", "SERVERS"],
  ["a bad digest", /sha256: "0{64}"/, "sha256: 0g", "sha256"],
  ["Lua beside Wasm", "  wasm:\n", '  lua: { inlineCode: "x" }\n  wasm:\n', "oneOf"],
])("and %s is what it refuses", (_what, from, to, word) => {
  const text = readFileSync("deploy/istio/mesh-wide.yaml", "utf8");
  expect(text).toMatch(from);
  expect(refused(text.replace(from, to))).toContain(word);
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
