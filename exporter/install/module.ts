/** The filter as a file: its digest, and what it asks of Envoy, read from the module itself so that no second list can differ from it. */
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { MeshsealError } from "../errors.ts";

/** A module of ours has less than 64 KiB; this is the bound for what is read at all. */
const MAX_MODULE_BYTES = 16 << 20;

export type Module = {
  readonly path: string;
  readonly bytes: Buffer;
  /** SHA-256, 64 hex digits. */
  readonly sha256: string;
  /**
   * The names for Envoy's `capability_restriction_config.allowed_capabilities`: each import, and each callback that it exports
   * (`proxy_on_*`). Under that list a missing one fails silently.
   */
  readonly capabilities: readonly string[];
};

/** Reads a module, by default the filter that was built with this exporter. Throws MeshsealError if it is none. */
export async function readModule(path: string = builtModule("filter.wasm")): Promise<Module> {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new MeshsealError(
      `the module cannot be read: ${error instanceof Error ? error.message : error}. In a checkout, npm run build makes it.`,
    );
  }
  if (bytes.length > MAX_MODULE_BYTES)
    throw new MeshsealError(`${path} has ${bytes.length} bytes: that is no filter of ours.`);
  let compiled: WebAssembly.Module;
  try {
    compiled = await WebAssembly.compile(new Uint8Array(bytes));
  } catch {
    throw new MeshsealError(`${path} is no WebAssembly module.`);
  }
  const imports = WebAssembly.Module.imports(compiled).map(({ name }) => name);
  const callbacks = WebAssembly.Module.exports(compiled)
    .map(({ name }) => name)
    .filter((name) => name.startsWith("proxy_on_"));
  return {
    path,
    bytes,
    sha256: createHash("sha256").update(bytes).digest("hex"),
    capabilities: [...new Set([...imports.sort(), ...callbacks.sort()])],
  };
}

/** Where a built module lies: in `build/` of a checkout, or beside the compiled files of the npm package. */
export function builtModule(name: string): string {
  const places = [`../../build/${name}`, `../../${name}`].map((relative) =>
    fileURLToPath(new URL(relative, import.meta.url)),
  );
  return places.find((path) => existsSync(path)) ?? (places[0] as string);
}
