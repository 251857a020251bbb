/**
 * What says how the exporter is: `/healthz` (the process runs), `/readyz` (batches are taken, or why not) and `/metrics`. On the
 * main address, and with --health-listen on one of its own that has nothing else: for probes and scrapers that hold no
 * certificate, and where the main address is on loopback behind a sidecar. docs/health.md says it for operators.
 */
import { type FastifyInstance, type FastifyReply, fastify } from "fastify";
import type { Metrics } from "./metrics.ts";

/** What `/readyz` says: ready if there are no reasons against it. */
export type Readiness = {
  readonly reasons: readonly string[];
  readonly details: Readonly<Record<string, unknown>>;
};

const REQUEST_TIMEOUT_MS = 10_000;
const MAX_CONNECTIONS = 256;

/** Adds `/healthz` and `/readyz`. */
export function addHealth(app: FastifyInstance, readiness: () => Readiness): void {
  const answer = (reply: FastifyReply, status: number, body: object): FastifyReply =>
    reply.code(status).header("cache-control", "no-store").send(body);
  app.get("/healthz", (_request, reply) => answer(reply, 200, { status: "ok" }));
  app.get("/readyz", (_request, reply) => {
    const { reasons, details } = readiness();
    const isReady = reasons.length === 0;
    const status = isReady ? "ready" : "not ready";
    return answer(reply, isReady ? 200 : 503, { status, reasons, ...details });
  });
}

/** Returns a server with health and metrics only, not yet listening. */
export function createHealth(readiness: () => Readiness, metrics: Metrics): FastifyInstance {
  const app = fastify({
    requestTimeout: REQUEST_TIMEOUT_MS,
    forceCloseConnections: true,
    exposeHeadRoutes: true,
    bodyLimit: 1024,
  });
  app.server.maxConnections = MAX_CONNECTIONS;
  app.server.headersTimeout = REQUEST_TIMEOUT_MS;
  addHealth(app, readiness);
  app.get("/metrics", async (_request, reply) =>
    reply.type(metrics.registry.contentType).send(await metrics.registry.metrics()),
  );
  return app;
}
