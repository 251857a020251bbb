/** Serves the log's files where they are not on this disk: one GET of the store for each. Adds the route to `app`. */
import type { FastifyInstance } from "fastify";

export function serveLogFiles(
  app: FastifyInstance,
  read: (path: string) => Promise<Buffer | null>,
): void {
  app.get("/log/*", { config: { role: "read" } }, async (request, reply) => {
    const path = (request.params as { "*": string })["*"];
    const bytes = await read(path);
    if (bytes === null) return reply.code(404).send({ code: "error", message: "no such file" });
    const isCheckpoint = path === "checkpoint";
    return reply
      .header("cache-control", isCheckpoint ? "no-cache" : "public, max-age=31536000, immutable")
      .header("access-control-allow-origin", "*")
      .header("x-content-type-options", "nosniff")
      .type(isCheckpoint ? "text/plain; charset=utf-8" : "application/octet-stream")
      .send(bytes);
  });
}
