/**
 * Reads a request's body into memory that is used again. A fresh Buffer a batch is memory outside of V8's heap: at 1,000
 * batches a second its collector marks the whole heap some times a second, for a third of all CPU (measured).
 */
import type { Readable } from "node:stream";

/** Bytes of a buffer that is used again: more than a filter's usual batch (64 KiB). Larger bodies get their own. */
const POOLED_BYTES = 128 * 1024;
/** Buffers kept. */
const MAX_POOLED = 64;

export class BodyTooLarge extends Error {
  override name = "BodyTooLarge";
  readonly statusCode = 413;
}

export class Bodies {
  readonly #maxBytes: number;
  readonly #free: Buffer[] = [];

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Resolves to the whole body, `announced` bytes long or NaN where that was not said. Rejects if it is longer than allowed. */
  async read(stream: Readable, announced: number): Promise<Buffer> {
    if (announced > this.#maxBytes) throw new BodyTooLarge("the body is too large");
    let body = this.#take(Number.isNaN(announced) ? POOLED_BYTES : announced);
    let length = 0;
    return new Promise((resolve, reject) => {
      const fail = (error: unknown): void => {
        stream.removeAllListeners("data");
        reject(error);
      };
      stream.on("data", (part: Buffer) => {
        const end = length + part.length;
        if (end > this.#maxBytes) return fail(new BodyTooLarge("the body is too large"));
        if (end > body.length) {
          const larger = Buffer.allocUnsafeSlow(Math.min(this.#maxBytes, 2 * end));
          body.copy(larger, 0, 0, length);
          body = larger;
        }
        part.copy(body, length);
        length = end;
      });
      stream.on("end", () => resolve(body.subarray(0, length)));
      stream.on("error", fail);
      stream.on("close", () => fail(new Error("the connection was closed in the middle")));
    });
  }

  /** Takes back the memory of a body that nobody needs any more. */
  release(body: Buffer): void {
    if (body.buffer.byteLength !== POOLED_BYTES || this.#free.length >= MAX_POOLED) return;
    this.#free.push(Buffer.from(body.buffer));
  }

  #take(bytes: number): Buffer {
    if (bytes > POOLED_BYTES) return Buffer.allocUnsafeSlow(bytes);
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(POOLED_BYTES);
  }
}
