/** `meshseal push`: the filter into a registry, from where Istio and Envoy Gateway fetch it. */
import { Command, Option } from "commander";
import { isLoopback } from "../address.ts";
import { MeshsealError } from "../errors.ts";
import type { Form } from "../install/artifact.ts";
import type { Image } from "../install/setup.ts";

type Flags = {
  form: Form;
  module?: string;
  enforceModule?: string;
  user?: string;
  plainHttp?: boolean;
  dryRun?: boolean;
  json?: boolean;
};

type Pushed = Image & { readonly sbom: string };

export function pushCommand(): Command {
  return new Command("push")
    .description(
      "Push the filter to an OCI registry, as Istio and Envoy Gateway fetch it, with its SBOM.",
    )
    .argument(
      "<reference>",
      "registry.example/team/meshseal-filter[:tag]; the tag is the version unless given",
    )
    .addOption(
      new Option("--form <form>", "an image with plugin.wasm, or an artifact of two layers")
        .choices(["image", "artifact"])
        .default("image"),
    )
    .option("--module <file>", "the plain build (default: that of this version)")
    .option(
      "--enforce-module <file>",
      "the enforcing build, pushed with -enforce behind the tag (default: that of this version)",
    )
    .option(
      "--user <name>",
      "user; the password is read from MESHSEAL_REGISTRY_PASSWORD (default: docker's login)",
    )
    .option("--plain-http", "speak HTTP without TLS; loopback always does")
    .option("--dry-run", "say the digests, send nothing")
    .option("--json", "print a JSON array, one object an image")
    .addHelpText("after", "\nExample:\n  meshseal push registry.example/team/meshseal-filter")
    .action(async (reference: string, flags: Flags) => {
      const images = await push(reference, flags);
      if (flags.json) console.log(JSON.stringify(images));
      else for (const image of images) print(image, flags.dryRun === true);
    });
}

function print({ reference, manifestSha256, moduleSha256 }: Pushed, isDry: boolean): void {
  console.log(`${isDry ? "would push" : "pushed"} ${reference}`);
  console.log(
    `  manifest sha256 ${manifestSha256}   (sha256 of a WasmPlugin, TrafficExtension or EnvoyExtensionPolicy)`,
  );
  console.log(`  module sha256   ${moduleSha256}   (moduleDigest in the filter's settings)`);
}

async function push(text: string, flags: Flags): Promise<Pushed[]> {
  const { builtImages } = await import("../install/images.ts");
  const { makeReferrer } = await import("../install/artifact.ts");
  const { findLogin, parseReference, Registry } = await import("../install/registry.ts");
  const { readPackage } = await import("../install/sbom.ts");
  const info = readPackage();
  const reference = parseReference(text, info.version);
  const files = { plain: flags.module, enforcing: flags.enforceModule };
  const images = await builtImages(reference, flags.form, info, files);
  const isPlain = flags.plainHttp === true || isLoopback(reference.registry);
  const login = flags.dryRun
    ? null
    : flags.user === undefined
      ? findLogin(reference.registry)
      : given(flags.user);
  const registry = new Registry(reference, login, isPlain);
  const pushed: Pushed[] = [];
  for (const { artifact, sbom, tag, reference: at, manifestSha256, moduleSha256 } of [
    images.plain,
    images.enforcing,
  ]) {
    const referrer = makeReferrer(artifact.manifest, sbom);
    if (!flags.dryRun) {
      await registry.push(artifact, tag);
      await registry.push(referrer, null);
    }
    pushed.push({ reference: at, manifestSha256, moduleSha256, sbom: referrer.manifest.digest });
  }
  return pushed;
}

function given(user: string): { user: string; password: string } {
  const password = process.env["MESHSEAL_REGISTRY_PASSWORD"];
  if (password === undefined)
    throw new MeshsealError("--user: set MESHSEAL_REGISTRY_PASSWORD to the password.");
  return { user, password };
}
