/** Writes exporter/log/wasm-code.ts: the AssemblyScript of exporter/log, compiled, in base64. `npx tsx scripts/log-wasm.ts` */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import asc from "assemblyscript/asc";

const ROOT = join(import.meta.dirname, "..");
const SOURCES = ["exporter/log/sha256x4.as.ts", "exporter/log/entries.as.ts"];
const OUTPUT = join(ROOT, "exporter/log/wasm-code.ts");
const ARGS = ["-O3", "--runtime", "stub", "--enable", "simd", "--noAssert", "--config", "none"];

/** Returns the module, compiled anew. */
export async function compileLogWasm(): Promise<Uint8Array> {
  let wasm: Uint8Array | null = null;
  const args = [...SOURCES, ...ARGS, "--baseDir", ROOT, "-o", "out.wasm"];
  const { error, stderr } = await asc.main(args, {
    writeFile: (_name: string, contents: string | Uint8Array) => {
      if (typeof contents !== "string") wasm = contents;
    },
  });
  if (error !== null || wasm === null) throw new Error(`asc: ${stderr.toString()}`);
  return wasm;
}

if (process.argv[1] === import.meta.filename) {
  const base64 = Buffer.from(await compileLogWasm()).toString("base64");
  const lines = base64.match(/.{1,90}/g) ?? [];
  const text = lines.map((line) => `  "${line}",\n`).join("");
  writeFileSync(
    OUTPUT,
    `/** The AssemblyScript of this folder, compiled, in base64: scripts/log-wasm.ts writes this, test/hasher.test.ts compares. */\nexport const LOG_WASM: string = [\n${text}].join("");\n`,
  );
}
