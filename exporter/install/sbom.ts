/** What the filter is made of, as CycloneDX 1.6 JSON (https://cyclonedx.org/docs/1.6/json/). No times, no random serial: the same module has the same bytes. */
import { readFileSync } from "node:fs";
import { z } from "zod";
import { MeshsealError } from "../errors.ts";
import type { Module } from "./module.ts";

/** What is compiled into the module besides our own sources: the standard library of the compiler, and the ABI's declarations. */
const COMPILED_IN = ["assemblyscript", "@solo-io/proxy-runtime"];

export type PackageInfo = {
  readonly version: string;
  readonly devDependencies: Readonly<Record<string, string>>;
};

const Package: z.ZodType<PackageInfo> = z.object({
  version: z.string(),
  devDependencies: z.record(z.string(), z.string()),
});

/** Reads the project's package.json, from a checkout or from the installed package. */
export function readPackage(): PackageInfo {
  for (const relative of ["../../package.json", "../../../package.json"]) {
    try {
      return Package.parse(JSON.parse(readFileSync(new URL(relative, import.meta.url), "utf8")));
    } catch {}
  }
  throw new MeshsealError("package.json is not where it belongs: install Meshseal again.");
}

export function makeSbom(module: Pick<Module, "sha256">, info: PackageInfo): Buffer {
  const root = `pkg:npm/meshseal@${info.version}#filter`;
  const components = COMPILED_IN.map((name) => {
    const version = info.devDependencies[name] ?? "unknown";
    const purl = `pkg:npm/${name.replace("@", "%40")}@${version}`;
    return {
      type: "library",
      "bom-ref": purl,
      name,
      version,
      purl,
      licenses: [{ license: { id: "Apache-2.0" } }],
    };
  });
  const bom = {
    bomFormat: "CycloneDX",
    specVersion: "1.6",
    version: 1,
    metadata: {
      component: {
        type: "library",
        "bom-ref": root,
        name: "meshseal-filter",
        version: info.version,
        hashes: [{ alg: "SHA-256", content: module.sha256 }],
        licenses: [{ license: { id: "Apache-2.0" } }],
      },
    },
    components,
    dependencies: [{ ref: root, dependsOn: components.map((component) => component["bom-ref"]) }],
  };
  return Buffer.from(JSON.stringify(bom));
}
