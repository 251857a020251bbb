/** Writes exporter/log/sha256x4-wasm.ts: exporter/log/sha256x4.as.ts compiled, in base64. `npx tsx scripts/sha256x4.ts` */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import asc from "assemblyscript/asc";

const ROOT = join(import.meta.dirname, "..");
const SOURCE = "exporter/log/sha256x4.as.ts";
const OUTPUT = join(ROOT, "exporter/log/sha256x4-wasm.ts");
const ARGS = ["-O3", "--runtime", "stub", "--enable", "simd", "--noAssert", "--config", "none"];

/** Returns the module, compiled anew. */
export async function compileSha256x4(): Promise<Uint8Array> {
  let wasm: Uint8Array | null = null;
  const { error, stderr } = await asc.main([SOURCE, ...ARGS, "--baseDir", ROOT, "-o", "out.wasm"], {
    writeFile: (_name: string, contents: string | Uint8Array) => {
      if (typeof contents !== "string") wasm = contents;
    },
  });
  if (error !== null || wasm === null) throw new Error(`asc: ${stderr.toString()}`);
  return wasm;
}

if (process.argv[1] === import.meta.filename) {
  const base64 = Buffer.from(await compileSha256x4()).toString("base64");
  const lines = base64.match(/.{1,90}/g) ?? [];
  const text = lines.map((line) => `  "${line}",\n`).join("");
  writeFileSync(
    OUTPUT,
    `/** sha256x4.as.ts compiled, in base64: scripts/sha256x4.ts writes this, test/hasher.test.ts compares. */\nexport const SHA256X4_WASM: string = [\n${text}].join("");\n`,
  );
}
