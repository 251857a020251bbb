/** Both builds of the filter as images of one repository: the plain one under the tag, the enforcing one under the tag with "-enforce". */
import { type Artifact, type Form, makeArtifact } from "./artifact.ts";
import { builtModule, type Module, readModule } from "./module.ts";
import type { Reference } from "./registry.ts";
import { makeSbom, type PackageInfo } from "./sbom.ts";
import type { Image } from "./setup.ts";

export const ENFORCE_SUFFIX = "-enforce";

export type BuiltImage = Image & {
  readonly tag: string;
  readonly module: Module;
  readonly artifact: Artifact;
  readonly sbom: Buffer;
};

export type Builds = { readonly plain: BuiltImage; readonly enforcing: BuiltImage };

/** Makes both from the modules of this version, or from files of the caller's. */
export async function builtImages(
  reference: Reference,
  form: Form,
  info: PackageInfo,
  files: { readonly plain?: string | undefined; readonly enforcing?: string | undefined } = {},
): Promise<Builds> {
  const make = async (file: string, tag: string): Promise<BuiltImage> => {
    const module = await readModule(file);
    const sbom = makeSbom(module, info);
    const artifact = makeArtifact(form, { wasm: module.bytes, version: info.version, sbom });
    return {
      reference: `oci://${reference.registry}/${reference.repository}:${tag}`,
      manifestSha256: artifact.manifest.digest.slice("sha256:".length),
      moduleSha256: module.sha256,
      tag,
      module,
      artifact,
      sbom,
    };
  };
  return {
    plain: await make(files.plain ?? builtModule("filter.wasm"), reference.tag),
    enforcing: await make(
      files.enforcing ?? builtModule("enforce.wasm"),
      reference.tag + ENFORCE_SUFFIX,
    ),
  };
}
