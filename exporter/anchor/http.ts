/** What all adapters need of HTTP: answers with a limit. */
import type { Dispatcher } from "undici";
import { AnchorError } from "./anchor.ts";

/** Resolves to the whole body. Rejects with AnchorError where it is longer than `limit` bytes. */
export async function readBody(
  body: Dispatcher.ResponseData["body"],
  limit: number,
): Promise<Buffer> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of body) {
    bytes += part.length;
    if (bytes > limit) throw new AnchorError(`the answer has more than ${limit} bytes`);
    parts.push(part);
  }
  return Buffer.concat(parts);
}
