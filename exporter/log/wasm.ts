/** The exporter's own wasm (sha256x4.as.ts, entries.as.ts): one module, and instances of it with the field table filled in. */
import { fieldTable, kindName } from "../../record/fields.ts";
import { LOG_WASM } from "./wasm-code.ts";

export type Wasm = {
  readonly memory: WebAssembly.Memory;
  readonly free: () => number;
  readonly leaves: (from: number, count: number, prefix: number, to: number) => void;
  readonly placed: (places: number, count: number, to: number) => void;
  readonly root: (at: number, count: number) => void;
  readonly scan: (from: number, end: number, count: number, prefix: number, to: number) => number;
  readonly follow: (
    places: number,
    count: number,
    chain: number,
    first: number,
    digests: number,
  ) => number;
  readonly row: (
    places: number,
    from: number,
    count: number,
    digests: number,
    to: number,
  ) => number;
  readonly pack: (from: number, end: number, count: number, to: number) => number;
  readonly packed: () => number;
};

/** What `scan` says of an entry: 12 words, the last six of which are three doubles. All offsets are into the memory. */
export const PLACE_BYTES = 48;
export const PLACE_WORDS = 12;
export const PLACE_DOUBLES = 6;
// Words: where the entry begins and ends, where in it these fields are (0: no such field), and a Verdict of record/codec.ts.
export const START = 0;
export const END = 1;
export const CHAIN_AT = 2;
export const PREV_AT = 3;
export const STREAM_ID_AT = 4;
export const VERDICT = 5;
// Doubles.
export const KIND = 3;
export const SEQ = 4;
export const TIME = 5;

/** The length before an entry of a bundle: `prefix` there. Of a batch it is ENTRY_PREFIX_BYTES. */
export const BUNDLE_PREFIX_BYTES = 2;

const PAGE_BYTES = 65_536;

const FIELD_BYTES = 16;
const module = new WebAssembly.Module(Buffer.from(LOG_WASM, "base64"));

/** Returns a new instance, with `free()` as the first address that is the caller's. */
export function instantiate(): Wasm {
  const wasm = new WebAssembly.Instance(module).exports as Wasm & {
    readonly table: () => number;
    readonly kinds: () => number;
  };
  const view = new DataView(wasm.memory.buffer);
  for (const { number, type, min, max, times, kinds } of fieldTable()) {
    const at = wasm.table() + number * FIELD_BYTES;
    view.setUint32(at, kinds, true);
    view.setUint32(at + 4, min, true);
    view.setUint32(at + 8, max, true);
    view.setUint16(at + 12, times, true);
    view.setUint8(at + 14, type);
  }
  let known = 0;
  for (let kind = 1; kind < 32; kind++) if (kindName(kind) !== "") known |= 1 << kind;
  view.setInt32(wasm.kinds(), known, true);
  return wasm;
}

/** Grows the memory of `wasm` to `bytes` at least. Views of it before are then empty. */
export function growTo(wasm: Wasm, bytes: number): void {
  const missing = bytes - wasm.memory.buffer.byteLength;
  if (missing > 0) wasm.memory.grow(Math.ceil(missing / PAGE_BYTES));
}
