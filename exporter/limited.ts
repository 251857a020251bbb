/** Bytes from somebody else, as many as were asked for and no more. */

/** Resolves to all of `parts`, or to null where they have more than `limit` bytes: then the rest is not waited for. */
export async function readLimited(
  parts: AsyncIterable<Uint8Array>,
  limit: number,
): Promise<Buffer | null> {
  const held: Uint8Array[] = [];
  let bytes = 0;
  for await (const part of parts) {
    bytes += part.length;
    if (bytes > limit) return null;
    held.push(part);
  }
  return Buffer.concat(held);
}
