/** The exporter's HTTP: batches in, the log's files, health and metrics out. */
import { resolve } from "node:path";
import fastifyStatic from "@fastify/static";
import { type FastifyInstance, type FastifyReply, fastify } from "fastify";
import type { Logger } from "pino";
import {
  BATCH_PATH,
  BATCH_TYPE,
  MAX_BATCH_BYTES,
  RECEIPT_HEADER,
  REFUSAL_HEADER,
  REFUSED_BUSY,
  REFUSED_FORK,
  REFUSED_HOLE,
  REFUSED_MALFORMED,
  REFUSED_ROLLBACK,
  REFUSED_TOO_LARGE,
  WANT_HEADER,
} from "../../record/wire.ts";
import type { Metrics } from "../metrics.ts";
import type { Answer, Intake, Refusal } from "./intake.ts";

const STATUS: Readonly<Record<string, number>> = {
  [REFUSED_MALFORMED]: 400,
  [REFUSED_FORK]: 409,
  [REFUSED_ROLLBACK]: 409,
  [REFUSED_HOLE]: 409,
  [REFUSED_TOO_LARGE]: 413,
  [REFUSED_BUSY]: 503,
};

const RETRY_AFTER_SECONDS = 1;
const REQUEST_TIMEOUT_MS = 30_000;

/** What `/readyz` says: ready if there are no reasons against it. */
export type Readiness = {
  readonly reasons: readonly string[];
  readonly details: Readonly<Record<string, number | string>>;
};

export type HttpOptions = {
  readonly intake: Intake;
  readonly logDir: string;
  readonly metrics: Metrics;
  readonly logger: Logger;
  readonly readiness: () => Readiness;
};

/** Returns the server, not yet listening. */
export function createHttp(options: HttpOptions): FastifyInstance {
  const { intake, metrics, logger, readiness } = options;
  const app = fastify({
    bodyLimit: MAX_BATCH_BYTES,
    requestTimeout: REQUEST_TIMEOUT_MS,
    forceCloseConnections: "idle",
    exposeHeadRoutes: false,
  });
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(BATCH_TYPE, { parseAs: "buffer" }, (_request, body, done) =>
    done(null, body),
  );

  app.setErrorHandler((error: { statusCode?: number; message?: string }, _request, reply) => {
    const status = error.statusCode ?? 500;
    if (status === 413) {
      const message = `a batch has at most ${MAX_BATCH_BYTES} bytes`;
      return refuse(reply, { refusal: REFUSED_TOO_LARGE, message });
    }
    if (status >= 500) logger.error({ err: error }, "request failed");
    return reply.code(status).send({ code: "error", message: error.message ?? "error" });
  });

  const refuse = (reply: FastifyReply, { refusal, message, want }: Refusal): FastifyReply => {
    metrics.batches.inc({ outcome: refusal });
    logger.warn({ refusal, want }, message);
    reply.code(STATUS[refusal] ?? 500).header(REFUSAL_HEADER, refusal);
    if (want !== undefined) reply.header(WANT_HEADER, String(want));
    if (refusal === REFUSED_BUSY) reply.header("retry-after", String(RETRY_AFTER_SECONDS));
    return reply.send({ code: refusal, message, want });
  };

  app.post(BATCH_PATH, async (request, reply) => {
    if (!Buffer.isBuffer(request.body)) {
      return reply.code(415).send({ code: "error", message: `the body must be ${BATCH_TYPE}` });
    }
    const stop = metrics.receiptSeconds.startTimer();
    const answer: Answer = await intake.accept(request.body);
    if ("refusal" in answer) return refuse(reply, answer);
    stop();
    metrics.batches.inc({ outcome: "receipted" });
    metrics.entries.inc({ outcome: "added" }, answer.added);
    metrics.entries.inc({ outcome: "skipped" }, answer.skipped);
    return reply.header(RECEIPT_HEADER, Buffer.from(answer.receipt).toString("base64")).send("");
  });

  app.get("/healthz", () => ({ status: "ok" }));
  app.get("/readyz", (_request, reply) => {
    const { reasons, details } = readiness();
    const status = reasons.length === 0 ? "ready" : "not ready";
    return reply.code(reasons.length === 0 ? 200 : 503).send({ status, reasons, ...details });
  });
  app.get("/metrics", async (_request, reply) =>
    reply.type(metrics.registry.contentType).send(await metrics.registry.metrics()),
  );
  app.register(fastifyStatic, {
    root: resolve(options.logDir),
    prefix: "/log/",
    index: false,
    dotfiles: "deny",
    setHeaders: (reply, path) => {
      // https://c2sp.org/tlog-tiles: the checkpoint is text and changes, the rest is bytes and never does.
      const isCheckpoint = path.endsWith("/checkpoint");
      reply.header(
        "content-type",
        isCheckpoint ? "text/plain; charset=utf-8" : "application/octet-stream",
      );
      reply.header(
        "cache-control",
        isCheckpoint ? "no-cache" : "public, max-age=31536000, immutable",
      );
    },
  });
  return app;
}
