/** The resources in YAML files, of which nothing is believed. */
import { readFileSync, statSync } from "node:fs";
import { parseAllDocuments } from "yaml";
import { MeshsealError } from "../errors.ts";
import { isObject, objectAt } from "./plugins.ts";

const MAX_FILE_BYTES = 64 << 20;

export type Resource = Readonly<Record<string, unknown>>;

/** Reads YAML files with any number of documents. Throws MeshsealError for what is no YAML. */
export function readResources(files: readonly string[]): Resource[] {
  return files.flatMap((file) => {
    let text: string;
    try {
      if (statSync(file).size > MAX_FILE_BYTES)
        throw new Error(`it has more than ${MAX_FILE_BYTES} bytes`);
      text = readFileSync(file, "utf8");
    } catch (error) {
      throw new MeshsealError(
        `${file} cannot be read: ${error instanceof Error ? error.message : error}`,
      );
    }
    return parseAllDocuments(text).flatMap((document) => {
      const [error] = document.errors;
      if (error !== undefined) throw new MeshsealError(`${file} is no YAML: ${error.message}`);
      // Aliases are expanded at most a hundred times: a small file cannot become a large one.
      const value: unknown = document.toJS({ maxAliasCount: 100 });
      return isObject(value) ? [value] : [];
    });
  });
}

/** "" where none is said. */
export function nameSpaceOf(resource: Resource): string {
  return String(objectAt(resource, "metadata")?.["namespace"] ?? "");
}

/** `namespace/name`. */
export function nameOf(resource: Resource): string {
  return `${nameSpaceOf(resource)}/${String(objectAt(resource, "metadata")?.["name"] ?? "")}`;
}
