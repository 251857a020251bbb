import { createHash, createHmac } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import asc from "assemblyscript/asc";
import fc from "fast-check";
import { beforeAll, expect, test } from "vitest";

type Exports = { memory: { buffer: ArrayBuffer } } & Record<string, (...args: number[]) => number>;

let wasm: Exports;
let variables: string[] = [];

/** WASI's environment: pointers, and behind each a name, "=", a value and a NUL. */
function environ(pointers: number, text: number): number {
  const view = Buffer.from(wasm.memory.buffer);
  let at = text;
  variables.forEach((variable, i) => {
    view.writeUInt32LE(at, pointers + 4 * i);
    at += view.write(`${variable}\0`, at);
  });
  return 0;
}

function environSizes(count: number, bytes: number): number {
  const view = Buffer.from(wasm.memory.buffer);
  view.writeUInt32LE(variables.length, count);
  view.writeUInt32LE(Buffer.byteLength(variables.map((one) => `${one}\0`).join("")), bytes);
  return 0;
}

beforeAll(async () => {
  const dir = mkdtempSync(join(tmpdir(), "meshseal-hmac-"));
  const file = join(dir, "hmac.wasm");
  const { error, stderr } = await asc.main([
    "test/support/hmac.as.ts",
    ...["--outFile", file, "--runtime", "stub", "--use", "abort=filter/abort/abort"],
    ...["-O3", "--noAssert", "--enable", "simd"],
  ]);
  if (error !== null) throw new Error(stderr.toString());
  const module = await WebAssembly.compile(readFileSync(file));
  const imports: Record<string, Record<string, (...args: never[]) => unknown>> = {};
  for (const { module: from, name } of WebAssembly.Module.imports(module)) {
    imports[from] ??= {};
    imports[from][name] = () => 1;
  }
  imports["wasi_snapshot_preview1"] = {
    ...imports["wasi_snapshot_preview1"],
    environ_get: environ,
    environ_sizes_get: environSizes,
  };
  wasm = (await WebAssembly.instantiate(module, imports)).exports as Exports;
  rmSync(dir, { recursive: true });
});

function call(name: string, ...args: number[]): number {
  return wasm[name]?.(...args) ?? 0;
}

function put(bytes: Uint8Array): number {
  Buffer.from(wasm.memory.buffer).set(bytes, call("input"));
  return bytes.length;
}

function digest(): Buffer {
  return Buffer.from(Buffer.from(wasm.memory.buffer, call("digest"), 32));
}

test("SHA-256 in pieces of any size is Node's", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 1000 }),
      fc.integer({ min: 1, max: 300 }),
      (message, piece) => {
        put(message);
        call("inPieces", message.length, piece);
        expect(digest()).toEqual(createHash("sha256").update(message).digest());
      },
    ),
    { numRuns: 300 },
  );
});

test("HMAC-SHA-256 is Node's, for any key and any message", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 64 }),
      fc.oneof(fc.uint8Array({ maxLength: 200 }), fc.constant(new Uint8Array(100_000))),
      (key, message) => {
        put(Buffer.concat([key, message]));
        call("run", key.length, message.length);
        expect(digest()).toEqual(createHmac("sha256", key).update(message).digest());
      },
    ),
    { numRuns: 300 },
  );
});

test("HMAC-SHA-256 is that of RFC 4231, test cases 1 and 2", () => {
  const cases = [
    [Buffer.alloc(20, 0x0b), "Hi There", "b0344c61d8db38535ca8afceaf0bf12b"],
    [Buffer.from("Jefe"), "what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c7"],
  ] as const;
  for (const [key, message, expected] of cases) {
    put(Buffer.concat([key, Buffer.from(message)]));
    call("run", key.length, message.length);
    expect(digest().toString("hex").slice(0, 32)).toBe(expected);
  }
});

test.each([
  ["k1:000102030405060708090a0b0c0d0e0f", true],
  ["2026-11.a_B:000102030405060708090A0b0c0d0e0f\n", true],
  [`k:${"ab".repeat(64)}`, true],
  [`k:${"ab".repeat(65)}`, false],
  [`k:${"ab".repeat(15)}`, false],
  [`k:${"ab".repeat(16)}a`, false],
  [`k:${"ab".repeat(16)}gg`, false],
  [`:${"ab".repeat(16)}`, false],
  [`${"i".repeat(65)}:${"ab".repeat(16)}`, false],
  [`a b:${"ab".repeat(16)}`, false],
  ["ab".repeat(16), false],
  ["", false],
])("%j is a key: %s", (text, isKey) => {
  expect(call("read", put(Buffer.from(text)))).toBe(isKey ? 1 : 0);
  if (!isKey) return;
  const [id = "", hex = ""] = text.trimEnd().split(":");
  const expected = createHmac("sha256", Buffer.from(hex, "hex")).update(id).digest();
  expect(digest()).toEqual(expected);
});

test("a variable of the host's environment is found by its whole name only", () => {
  const look = (name: string): string | null => {
    const bytes = call("look", put(Buffer.from(name)));
    return bytes < 0
      ? null
      : Buffer.from(Buffer.from(wasm.memory.buffer, call("input"), bytes)).toString();
  };
  variables = [];
  expect(look("KEY")).toBeNull();
  variables = ["AKEY=1", "KEY2=2", "KEY=a=b", "PEM=-----BEGIN\nx\n", "EMPTY="];
  expect(look("KEY")).toBe("a=b");
  expect(look("PEM")).toBe("-----BEGIN\nx\n");
  expect(look("EMPTY")).toBe("");
  expect(look("EY")).toBeNull();
  expect(look("KEY2=2")).toBeNull();
});
