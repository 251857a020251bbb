/** Reads a request's body into a place on the desk (desk.ts): known length or not, at most as long as allowed, copied once. */
import type { Readable } from "node:stream";
import { release, take } from "./desk.ts";

/** Room for a body whose length was not announced, at first. */
const UNKNOWN_BYTES = 128 * 1024;

export class BodyTooLarge extends Error {
  override name = "BodyTooLarge";
}

/** A request's bytes, and what gives their room back: to be called once, when nobody needs them any more. */
export type Body = { readonly bytes: Buffer; readonly release: () => void };

/**
 * Resolves to the whole body, `announced` bytes long or NaN where that was not said. Rejects with BodyTooLarge if it is longer
 * than `maxBytes`, and otherwise where it does not come whole.
 */
export function readBody(stream: Readable, announced: number, maxBytes: number): Promise<Body> {
  if (announced > maxBytes) return Promise.reject(new BodyTooLarge("the body is too large"));
  let room = take(Number.isNaN(announced) ? UNKNOWN_BYTES : announced);
  let length = 0;
  return new Promise((resolve, reject) => {
    let isDone = false;
    const fail = (error: unknown): void => {
      if (isDone) return;
      isDone = true;
      release(room);
      reject(error);
    };
    stream.on("data", (part: Buffer) => {
      if (isDone) return;
      const end = length + part.length;
      if (end > maxBytes) return fail(new BodyTooLarge("the body is too large"));
      if (end > room.length) {
        const larger = Buffer.allocUnsafeSlow(Math.min(maxBytes, 2 * end));
        room.copy(larger, 0, 0, length);
        release(room);
        room = larger;
      }
      room.set(part, length);
      length = end;
    });
    stream.on("end", () => {
      if (isDone) return;
      isDone = true;
      let isHeld = true;
      resolve({
        bytes: room.subarray(0, length),
        release: () => {
          if (isHeld) release(room);
          isHeld = false;
        },
      });
    });
    stream.on("error", fail);
    stream.on("close", () => {
      // Of every request: an Error, with its stack, only for those that need one.
      if (!isDone) fail(new Error("the connection was closed in the middle"));
    });
  });
}
