import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { request } from "undici";
import { expect, onTestFinished, test } from "vitest";
import { parseAllDocuments, parseDocument } from "yaml";
import { findPlugins } from "../exporter/doctor/plugins.ts";
import { makeArtifact, makeReferrer, SBOM_TYPE } from "../exporter/install/artifact.ts";
import { builtImages } from "../exporter/install/images.ts";
import { readModule } from "../exporter/install/module.ts";
import { parseReference } from "../exporter/install/registry.ts";
import { makeSbom, readPackage } from "../exporter/install/sbom.ts";
import { startUpstream } from "../scripts/demo/upstream.ts";
import { EXAMPLES, init, withoutDigests } from "../scripts/manifests.ts";
import { MODULES } from "../scripts/setup.mjs";
import { startExporter } from "./support/exporter.ts";
import { checkLog } from "./support/log.ts";
import { receipted, runEnvoy } from "./support/run-envoy.ts";

function scratch(): string {
  const dir = mkdtempSync(join(tmpdir(), "meshseal-install-"));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

test.each(EXAMPLES)("%s is what init writes", async (file, args) => {
  expect(withoutDigests(readFileSync(file, "utf8"))).toBe(await init(args));
});

test("an image holds plugin.wasm as tar and gzip tell it, whatever the module", () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 200_000, size: "max" }), (bytes) => {
      const wasm = Buffer.from(bytes);
      const { manifest, blobs } = makeArtifact("image", {
        wasm,
        version: "1",
        sbom: Buffer.from("{}"),
      });
      const [config, layer] = blobs;
      const tar = gunzipSync(layer?.bytes ?? Buffer.alloc(0));
      const length = Number.parseInt(tar.toString("latin1", 124, 135), 8);
      return (
        length === wasm.length &&
        tar.subarray(512, 512 + length).equals(wasm) &&
        tar.length % 512 === 0 &&
        JSON.parse(manifest.bytes.toString()).config.digest === config?.digest
      );
    }),
    { numRuns: 50 },
  );
});

test("tar itself reads the image's layer", async () => {
  const dir = scratch();
  const { bytes } = await readModule();
  const { blobs } = makeArtifact("image", { wasm: bytes, version: "1", sbom: Buffer.from("{}") });
  writeFileSync(join(dir, "layer.tgz"), blobs[1]?.bytes ?? "");
  expect(spawnSync("tar", ["xzf", "layer.tgz"], { cwd: dir }).status).toBe(0);
  expect(readFileSync(join(dir, "plugin.wasm")).equals(bytes)).toBe(true);
});

test("the same sources give the same module, artifact and SBOM", async () => {
  const file = join(scratch(), "again.wasm");
  const asc = join(import.meta.dirname, "../node_modules/assemblyscript/bin/asc.js");
  const args = [asc, `filter/${MODULES["filter"]}.ts`, "--target", "release", "--outFile", file];
  expect(spawnSync(process.execPath, args).status).toBe(0);
  const nowhere = { registry: "a", repository: "b", tag: "c" };
  for (const form of ["image", "artifact"] as const) {
    const digests = async (plain?: string): Promise<string[]> => {
      const { artifact, sbom } = (await builtImages(nowhere, form, readPackage(), { plain })).plain;
      return [artifact.manifest.digest, makeReferrer(artifact.manifest, sbom).manifest.digest];
    };
    expect(await digests(file)).toEqual(await digests());
  }
}, 300_000);

test("the artifact has two layers, as Istio wants it: the module, and its SBOM with both digests", async () => {
  const module = await readModule();
  const sbom = makeSbom(module, readPackage());
  const { manifest } = makeArtifact("artifact", { wasm: module.bytes, version: "0.1.0", sbom });
  const { layers } = JSON.parse(manifest.bytes.toString()) as {
    layers: { mediaType: string; digest: string }[];
  };
  expect(layers).toHaveLength(2);
  expect(layers[0]).toMatchObject({
    mediaType: "application/vnd.module.wasm.content.layer.v1+wasm",
    digest: `sha256:${module.sha256}`,
  });
  expect(layers[1]?.mediaType).toBe(SBOM_TYPE);
  const bom = JSON.parse(sbom.toString());
  expect(bom.metadata.component.hashes).toEqual([{ alg: "SHA-256", content: module.sha256 }]);
  const versions = JSON.parse(readFileSync("package.json", "utf8")).devDependencies;
  for (const { name, version } of bom.components) expect(version).toBe(versions[name]);
});

test("a reference is taken exactly or refused, and never throws anything else", () => {
  expect(parseReference("oci://registry.example:5000/a/b-c:v1", "0")).toEqual({
    registry: "registry.example:5000",
    repository: "a/b-c",
    tag: "v1",
  });
  expect(parseReference("127.0.0.1:5000/a", "0.1.0")).toMatchObject({ tag: "0.1.0" });
  for (const bad of [
    "",
    "a",
    "docker.io/",
    "https://a/b",
    "a/B",
    "a/b:",
    "a/b:-x",
    "a/../b",
    "a/b@sha256:00",
    "a b/c",
    "a/b\nc",
  ]) {
    expect(() => parseReference(bad, "0"), bad).toThrow(/is no reference/);
  }
  fc.assert(
    fc.property(fc.string({ maxLength: 600 }), (text) => {
      try {
        const { registry, repository, tag } = parseReference(text, "0");
        return new URL(`https://${registry}/v2/${repository}/manifests/${tag}`).host !== "";
      } catch (error) {
        return error instanceof Error && error.message.includes("is no reference");
      }
    }),
  );
});

test("what init writes for Envoy allows just what the module imports and exports", async () => {
  for (const [delivery, file] of [
    ["bounded-loss", "build/filter.wasm"],
    ["enforced", "build/enforce.wasm"],
  ] as const) {
    const made = parseDocument(
      await init(["envoy", "--upstream", "a:1", "--delivery", delivery]),
    ).toJS();
    const { capabilities } = await readModule(file);
    expect(findPlugins(made)[0]?.capabilities?.toSorted()).toEqual(capabilities.toSorted());
    expect(findPlugins(made)[0]?.file).toContain(file);
  }
});

test.each([
  [["istio", "--image", "no/Upper"], "is no reference"],
  [["istio"], "--image is needed"],
  [
    ["istio", "--image", "r.example/a", "--namespace", "Shop"],
    "must be a name of lower-case letters",
  ],
  [
    ["istio", "--image", "r.example/a", "--namespace", "shop=always"],
    "must be one of bounded-loss",
  ],
  [["istio", "--image", "r.example/a", "--istio-version", "2"], "must be like 1.31"],
  [["envoy-gateway", "--image", "r.example/a", "--gateway", "edge"], "must be namespace/name"],
  [["envoy", "--upstream", "x"], "must be host:port"],
  [["envoy", "--upstream", "x:1", "--tls-cert", "a"], "give all three, or none"],
])("init %j is refused with a sentence", async (args, sentence) => {
  await expect(init(args)).rejects.toThrow(sentence);
});

test("what init writes for Istio is YAML that a WasmPlugin of any release understands", () => {
  const old = parseAllDocuments(readFileSync("deploy/istio/before-1.30.yaml", "utf8")).map(
    (document) => document.toJS(),
  );
  expect(old.map(({ kind }) => kind)).toEqual(["WasmPlugin", "EnvoyFilter"]);
  const waypoints = parseAllDocuments(readFileSync("deploy/istio/gateways.yaml", "utf8")).map(
    (document) => document.toJS(),
  );
  // A waypoint is matched as SERVER with port 0, a gateway as CLIENT: any match would lose one of them.
  for (const { spec } of waypoints) expect(spec.match).toBeUndefined();
});

test.each([[[]], [["--file-xds"]]])(
  "an Envoy started with what init envoy %j writes records every request",
  async (more) => {
    const dir = scratch();
    const upstream = await startUpstream();
    const exporter = await startExporter({ args: ["--checkpoint-ms", "100"] });
    const args = [
      "--upstream",
      `127.0.0.1:${upstream.port}`,
      "--exporter",
      exporter.address,
      "--listen",
      "127.0.0.1:0",
      "--admin",
      "127.0.0.1:0",
    ];
    await init(["envoy", ...args, ...more, "--out", dir]);
    const envoy = await runEnvoy("envoy.yaml", dir);
    onTestFinished(async () => {
      await envoy.stop();
      await exporter.stop();
      await upstream.stop();
    });
    let address: string | undefined;
    while (address === undefined) [address] = await envoy.listeners();
    for (let i = 0; i < 20; i++)
      expect((await request(`http://${address}/admin/${i}`)).statusCode).toBe(200);
    await receipted(envoy, 20);
    await envoy.stop();
    await exporter.stop();
    const report = await checkLog(exporter.dir);
    expect(report.entries["request"]).toBe(20);
    // A second run writes nothing over the first.
    await expect(init(["envoy", ...args, ...more, "--out", dir])).rejects.toThrow(
      "is there already",
    );
  },
);
