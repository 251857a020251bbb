/** What all adapters need of HTTP: answers with a limit. */
import type { Dispatcher } from "undici";
import { readLimited } from "../limited.ts";
import { AnchorError } from "./anchor.ts";

/** Resolves to the whole body. Rejects with AnchorError where it is longer than `limit` bytes. */
export async function readBody(
  body: Dispatcher.ResponseData["body"],
  limit: number,
): Promise<Buffer> {
  const bytes = await readLimited(body, limit);
  if (bytes === null) throw new AnchorError(`the answer has more than ${limit} bytes`);
  return bytes;
}
