/**
 * Copies entries out of records into bundles, where they stand without their 0x00. A window of a record at a time lies in the
 * memory of a wasm instance: what was just copied there is walked in a cache, while a record comes from another core's.
 */
import { ENTRY_PREFIX_BYTES } from "../../record/wire.ts";
import { BUNDLE_PREFIX_BYTES, growTo, instantiate } from "./wasm.ts";

/** More than the longest entry (64 KiB), and less than a core's cache holds. */
const WINDOW_BYTES = 256 * 1024;
/** What stands before an entry in a record and not in a bundle. */
const DROPPED_BYTES = ENTRY_PREFIX_BYTES - BUNDLE_PREFIX_BYTES;

export class Packer {
  readonly #wasm = instantiate();
  readonly #windowAt = this.#wasm.free();
  readonly #packedAt = this.#windowAt + WINDOW_BYTES;
  readonly #memory: Buffer;
  #at = 0;
  #end = 0;

  constructor() {
    growTo(this.#wasm, this.#packedAt + WINDOW_BYTES);
    this.#memory = Buffer.from(this.#wasm.memory.buffer);
  }

  /** Takes up as much of `entries`, from `from` on, as the window holds. Returns how many bytes; the last entry may be cut off. */
  open(entries: Uint8Array, from: number): number {
    const bytes = Math.min(WINDOW_BYTES, entries.length - from);
    this.#memory.set(entries.subarray(from, from + bytes), this.#windowAt);
    this.#at = this.#windowAt;
    this.#end = this.#windowAt + bytes;
    return bytes;
  }

  /** Bytes of the window that were packed. */
  get read(): number {
    return this.#at - this.#windowAt;
  }

  /**
   * Packs the window's next entries, at most `count`, to `at` of `bundle`, which must have room for all of the window. Returns how
   * many, and where they end.
   */
  pack(count: number, bundle: Uint8Array, at: number): { packed: number; end: number } {
    const packed = this.#wasm.pack(this.#at, this.#end, count, this.#packedAt);
    const bytes = this.#wasm.packed() - this.#packedAt;
    bundle.set(this.#memory.subarray(this.#packedAt, this.#packedAt + bytes), at);
    this.#at += bytes + packed * DROPPED_BYTES;
    return { packed, end: at + bytes };
  }
}
