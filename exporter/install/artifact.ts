/**
 * The filter as an OCI artifact, in the two forms that Istio's agent and Envoy Gateway take: an image whose last layer is a
 * tar with `plugin.wasm`, and an artifact of two layers, the first of which is the module. Bytes depend on nothing but the
 * module and the package's version: the same commit gives the same digest on any machine.
 *
 * The forms: https://github.com/solo-io/wasm/blob/master/spec/spec-compat.md and spec.md; how they are read: Istio's
 * pkg/wasm/imagefetcher.go. Manifests: https://github.com/opencontainers/image-spec/blob/main/manifest.md.
 */
import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";

export type Form = "image" | "artifact";

export type Blob = { readonly mediaType: string; readonly digest: string; readonly bytes: Buffer };

export type Artifact = {
  readonly manifest: Blob;
  readonly blobs: readonly Blob[];
};

const MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json";
const IMAGE_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json";
const TAR_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip";
const WASM_CONFIG_TYPE = "application/vnd.module.wasm.config.v1+json";
const WASM_TYPE = "application/vnd.module.wasm.content.layer.v1+wasm";
const EMPTY_TYPE = "application/vnd.oci.empty.v1+json";
export const SBOM_TYPE = "application/vnd.cyclonedx+json";

export type Described = {
  readonly wasm: Buffer;
  readonly version: string;
  readonly sbom: Buffer;
};

/** Returns manifest and blobs of one form. The manifest's digest is what goes into `sha256` of a WasmPlugin. */
export function makeArtifact(form: Form, { wasm, version, sbom }: Described): Artifact {
  if (form === "artifact") {
    // Istio wants exactly two layers, and finds the module by its media type: the second place is the SBOM's.
    const layers = [blob(WASM_TYPE, wasm), blob(SBOM_TYPE, sbom)];
    return withManifest(
      blob(WASM_CONFIG_TYPE, json({ type: "envoy_proxy", abiVersions: ["v0.2.1"] })),
      layers,
      version,
    );
  }
  const tar = tarOf("plugin.wasm", wasm);
  const layer = blob(TAR_TYPE, gzipStored(tar));
  const config = {
    architecture: "wasm",
    os: "wasip1",
    config: {},
    rootfs: { type: "layers", diff_ids: [digestOf(tar)] },
  };
  return withManifest(blob(IMAGE_CONFIG_TYPE, json(config)), [layer], version);
}

/** Returns an artifact that refers to `subject` and holds its SBOM: registries list it as a referrer. */
export function makeReferrer(subject: Blob, sbom: Buffer): Artifact {
  const config = blob(EMPTY_TYPE, Buffer.from("{}"));
  const layer = blob(SBOM_TYPE, sbom);
  const manifest = json({
    schemaVersion: 2,
    mediaType: MANIFEST_TYPE,
    artifactType: SBOM_TYPE,
    config: descriptor(config),
    layers: [descriptor(layer)],
    subject: descriptor(subject),
  });
  return { manifest: blob(MANIFEST_TYPE, manifest), blobs: [config, layer] };
}

function withManifest(config: Blob, layers: readonly Blob[], version: string): Artifact {
  const manifest = json({
    schemaVersion: 2,
    mediaType: MANIFEST_TYPE,
    config: descriptor(config),
    layers: layers.map(descriptor),
    annotations: {
      "org.opencontainers.image.title": "meshseal-filter",
      "org.opencontainers.image.version": version,
      "org.opencontainers.image.licenses": "Apache-2.0",
    },
  });
  return { manifest: blob(MANIFEST_TYPE, manifest), blobs: [config, ...layers] };
}

function descriptor({ mediaType, digest, bytes }: Blob): Record<string, unknown> {
  return { mediaType, digest, size: bytes.length };
}

function blob(mediaType: string, bytes: Buffer): Blob {
  return { mediaType, digest: digestOf(bytes), bytes };
}

function digestOf(bytes: Buffer): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value));
}

/** One file in POSIX ustar form (IEEE Std 1003.1, pax, "ustar Interchange Format"), with no time and no owner. */
function tarOf(name: string, bytes: Buffer): Buffer {
  const header = Buffer.alloc(512);
  const octal = (value: number, at: number, length: number): void => {
    header.write(`${value.toString(8).padStart(length - 1, "0")}\0`, at, "latin1");
  };
  header.write(name, 0, "latin1");
  octal(0o644, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(bytes.length, 124, 12);
  octal(0, 136, 12);
  header.write("        0", 148, "latin1");
  header.write("ustar\x0000", 257, "latin1");
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  const padding = Buffer.alloc((512 - (bytes.length % 512)) % 512);
  return Buffer.concat([header, bytes, padding, Buffer.alloc(1024)]);
}

/**
 * gzip (RFC 1952) with stored blocks (RFC 1951, 3.2.4). Not compressed, since what zlib makes of the same bytes differs
 * between its versions and would change the digest; a module is some 50 KB.
 */
function gzipStored(bytes: Buffer): Buffer {
  const parts: Buffer[] = [Buffer.of(0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255)];
  for (let at = 0; at === 0 || at < bytes.length; at += 0xffff) {
    const block = bytes.subarray(at, at + 0xffff);
    const head = Buffer.alloc(5);
    head.writeUInt8(at + 0xffff >= bytes.length ? 1 : 0, 0);
    head.writeUInt16LE(block.length, 1);
    head.writeUInt16LE(~block.length & 0xffff, 3);
    parts.push(head, block);
  }
  const tail = Buffer.alloc(8);
  tail.writeUInt32LE(crc32(bytes), 0);
  tail.writeUInt32LE(bytes.length >>> 0, 4);
  return Buffer.concat([...parts, tail]);
}
