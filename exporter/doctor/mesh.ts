/** The checks of a mesh that `meshseal doctor` was asked for: a running Envoy, an exporter, manifests. */
import { readFileSync } from "node:fs";
import { MeshsealError } from "../errors.ts";
import type { Check } from "./check.ts";

export type MeshFlags = {
  readonly envoy?: string;
  readonly envoyLog?: string;
  /** How long to wait for a receipt, in milliseconds. */
  readonly watchMs?: number;
  readonly exporter?: string;
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly manifest?: readonly string[];
  readonly rootNamespace?: string;
};

/** Returns the checks. Loads only what they need. */
export async function meshChecks(flags: MeshFlags): Promise<Check[]> {
  const checks: Check[] = [];
  const { manifest, exporter, envoy } = flags;
  if (manifest === undefined && exporter === undefined && envoy === undefined) return checks;
  const { readPackage } = await import("../install/sbom.ts");
  const info = readPackage();
  const { builtImages } = await import("../install/images.ts");
  const nowhere = {
    registry: "registry.example",
    repository: "meshseal-filter",
    tag: info.version,
  };
  const images = await builtImages(nowhere, "image", info);
  const modules = [images.plain.module, images.enforcing.module] as const;
  if (manifest !== undefined) {
    const artifacts = await builtImages(nowhere, "artifact", info);
    const all = [images.plain, images.enforcing, artifacts.plain, artifacts.enforcing];
    const { manifestChecks } = await import("./manifests.ts");
    checks.push(
      ...manifestChecks({
        files: manifest,
        modules,
        manifestDigests: all.map(({ manifestSha256 }) => manifestSha256),
        rootNamespace: flags.rootNamespace ?? "istio-system",
      }),
    );
  }
  if (exporter !== undefined) {
    const { exporterChecks } = await import("./exporter.ts");
    const { ca, cert, key } = flags;
    checks.push(
      ...exporterChecks({
        url: url("--exporter", exporter),
        version: info.version,
        ...(ca === undefined ? {} : { ca: pem("--ca", ca) }),
        ...(cert === undefined ? {} : { cert: pem("--cert", cert) }),
        ...(key === undefined ? {} : { key: pem("--key", key) }),
      }),
    );
  }
  if (envoy !== undefined) {
    const { envoyChecks } = await import("./envoy.ts");
    const { envoyLog: logFile, watchMs } = flags;
    checks.push(
      ...envoyChecks({
        admin: url("--envoy", envoy),
        modules,
        ...(logFile === undefined ? {} : { logFile }),
        ...(watchMs === undefined ? {} : { watchMs }),
      }),
    );
  }
  return checks;
}

function url(flag: string, text: string): string {
  if (URL.canParse(text) && /^https?:$/.test(new URL(text).protocol)) return text;
  throw new MeshsealError(`${flag} ${text}: must be like http://127.0.0.1:9901`);
}

function pem(flag: string, file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    throw new MeshsealError(`${flag}: ${error instanceof Error ? error.message : error}`);
  }
}
