/** The error that ends the program with one sentence for the person who started it. */

/** A fault of set-up or surroundings. Its message says what is wrong and what to do next. */
export class MeshsealError extends Error {
  override name = "MeshsealError";
}

/** Returns the `code` of a system error, such as "ENOENT", or "". */
export function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error && typeof error.code === "string"
    ? error.code
    : "";
}
