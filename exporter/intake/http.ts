/** The exporter's HTTP: batches in, the log's files, health and metrics out. */
import {
  createServer as createHttpServer,
  type IncomingMessage,
  type ServerResponse,
} from "node:http";
import { createServer as createHttpsServer } from "node:https";
import { resolve } from "node:path";
import type { SecureContextOptions } from "node:tls";
import fastifyStatic from "@fastify/static";
import { type FastifyInstance, fastify } from "fastify";
import type { Logger } from "pino";
import { isLoopback, type Sender, senderOf } from "../access/identity.ts";
import type { BatchKeys } from "../access/mac.ts";
import { Rates } from "../access/rates.ts";
import { isAllowed, type Role, type Rules } from "../access/rules.ts";
import { addHealth, type Readiness } from "../health.ts";
import type { Metrics } from "../metrics.ts";
import { type BatchesOptions, createBatches, isBatch } from "./batches.ts";
import type { Intake } from "./intake.ts";
import { serveLogFiles } from "./log-files.ts";
import { type Policies, policyRoutes } from "./policies.ts";

// A client that is slow in any way is cut off: with its headers, with the whole request, with reading the answer.
const HEADERS_TIMEOUT_MS = 10_000;
const REQUEST_TIMEOUT_MS = 30_000;
const INACTIVITY_TIMEOUT_MS = 60_000;
/** Longer than proxies keep a connection that nobody uses, so that they close it and not we under their next request. */
const KEEP_ALIVE_TIMEOUT_MS = 72_000;
const CHECK_INTERVAL_MS = 5_000;
const MAX_HEADER_BYTES = 16_384;
const MAX_OTHER_BODY_BYTES = 1_048_576;

export type HttpOptions = {
  readonly intake: Intake;
  readonly logDir: string;
  /** Reads the log's files where they are not in `logDir`. */
  readonly readLog?: ((path: string) => Promise<Buffer | null>) | undefined;
  readonly metrics: Metrics;
  readonly logger: Logger;
  readonly readiness: () => Readiness;
  /** Every set of verifier keys that the log has had, oldest first. */
  readonly keys: () => readonly (readonly string[])[];
  /** Texts of rules, by digest. */
  readonly policies: Policies;
  /** Counts a refusal that never reached the intake's judgement as well. */
  readonly onRefused: (refusal: string) => void;
  /** Certificate and client authorities; plain HTTP if absent. */
  readonly tls?: SecureContextOptions | undefined;
  readonly rules: Rules;
  /** Senders have identities: client certificates, a sidecar's word, or keys. */
  readonly needsIdentity: boolean;
  readonly trustXfcc: boolean;
  /** Keys of the MACs over batches; a batch with a MAC is refused if absent. */
  readonly batchKeys?: BatchKeys | undefined;
  readonly onRecovered: BatchesOptions["onRecovered"];
  /** Connections at a time; one more is closed at once. */
  readonly maxConnections: number;
  /** Adds the routes of others. */
  readonly extend: (app: FastifyInstance) => void;
};

declare module "fastify" {
  interface FastifyContextConfig {
    /** What a caller must be allowed to; anyone may call a route without one. */
    role?: Role;
  }
}

/** Returns the server, not yet listening. */
export function createHttp(options: HttpOptions): FastifyInstance {
  const { metrics, logger, readiness, rules } = options;
  const sender = (request: IncomingMessage): Sender =>
    senderOf(request.socket, request.headers, options.trustXfcc);
  const may = (request: IncomingMessage, role: Role, who: Sender): boolean => {
    const isLocal = isLoopback(request.socket.remoteAddress);
    return isAllowed(rules, role, who, { needsIdentity: options.needsIdentity, isLocal });
  };
  const { batchesPerSecond } = rules;
  const batches = createBatches({
    ...options,
    senderOf: sender,
    may,
    rates: batchesPerSecond === undefined ? null : new Rates(batchesPerSecond, Date.now),
    isOpen: () => app.server.listening,
  });
  const app = createServer(options, batches);
  app.removeAllContentTypeParsers();

  app.addHook("onRequest", async (request, reply) => {
    const { role } = request.routeOptions.config;
    if (role === undefined) return;
    const who = sender(request.raw);
    if (may(request.raw, role, who)) return;
    const message = `${who.name || "a caller without an identity"} may not ${role} here`;
    return reply.code(403).send({ code: "forbidden", message });
  });

  app.setErrorHandler((error: { statusCode?: number; message?: string }, _request, reply) => {
    const status = error.statusCode ?? 500;
    if (status >= 500) logger.error({ err: error }, "request failed");
    return reply.code(status).send({ code: "error", message: error.message ?? "error" });
  });

  options.extend(app);
  addHealth(app, readiness);
  policyRoutes(app, options.policies);
  app.get("/keys", { config: { role: "read" } }, () => ({ keys: options.keys() }));
  app.get("/metrics", { config: { role: "read" } }, async (_request, reply) =>
    reply.type(metrics.registry.contentType).send(await metrics.registry.metrics()),
  );
  if (options.readLog !== undefined) {
    serveLogFiles(app, options.readLog);
    return app;
  }
  app.register((log, _, done) => {
    log.addHook("onRoute", (route) => {
      route.config = { ...route.config, role: "read" };
    });
    log.register(fastifyStatic, {
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
        // Whoever may read may read from a page: nothing here depends on cookies.
        reply.header("access-control-allow-origin", "*");
        reply.header("x-content-type-options", "nosniff");
      },
    });
    done();
  });
  return app;
}

/** Returns a server on which `batches` answers what is for it, and fastify all else. */
function createServer(
  { tls, maxConnections }: HttpOptions,
  batches: (request: IncomingMessage, response: ServerResponse) => Promise<void>,
): FastifyInstance {
  const limits = {
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: HEADERS_TIMEOUT_MS,
    requestTimeout: REQUEST_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    connectionsCheckingInterval: CHECK_INTERVAL_MS,
  };
  return fastify({
    bodyLimit: MAX_OTHER_BODY_BYTES,
    forceCloseConnections: "idle",
    exposeHeadRoutes: false,
    serverFactory: (others) => {
      const listener = (request: IncomingMessage, response: ServerResponse): void => {
        if (isBatch(request)) void batches(request, response);
        else others(request, response);
      };
      // Clients without a certificate get in, for probes and readers; what they may do is for the rules to say.
      const server =
        tls === undefined
          ? createHttpServer(limits, listener)
          : createHttpsServer(
              { ...limits, ...tls, requestCert: tls.ca !== undefined, rejectUnauthorized: false },
              listener,
            );
      server.setTimeout(INACTIVITY_TIMEOUT_MS);
      server.maxConnections = maxConnections;
      return server;
    },
  });
}
