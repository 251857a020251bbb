/** Serves the proofs beside the log: lists as JSON arrays of names, files as they are. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import fastifyStatic from "@fastify/static";
import type { FastifyInstance } from "fastify";
import { isDay } from "./proofs.ts";

export function proofRoutes(app: FastifyInstance, dir: string): void {
  app.register((routes, _, done) => {
    routes.addHook("onRoute", (route) => {
      route.config = { ...route.config, role: "read" };
    });
    routes.get("/anchors/", async () => (await readdir(dir)).filter(isDay).sort());
    routes.get<{ Params: { day: string } }>("/anchors/:day/", async (request, reply) => {
      const { day } = request.params;
      if (!isDay(day)) return reply.code(404).send([]);
      return reply.send((await readdir(join(dir, day)).catch(() => [])).sort());
    });
    routes.register(fastifyStatic, {
      root: dir,
      prefix: "/anchors/",
      index: false,
      decorateReply: false,
      dotfiles: "deny",
      setHeaders: (reply) => {
        reply.header("cache-control", "no-cache");
        reply.header("access-control-allow-origin", "*");
        reply.header("x-content-type-options", "nosniff");
      },
    });
    done();
  });
}
