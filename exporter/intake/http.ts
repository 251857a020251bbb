/** The exporter's HTTP: batches in, the log's files, health and metrics out. */
import type { IncomingMessage } from "node:http";
import { resolve } from "node:path";
import type { SecureContextOptions } from "node:tls";
import rateLimit from "@fastify/rate-limit";
import fastifyStatic from "@fastify/static";
import { type FastifyInstance, type FastifyReply, type FastifyRequest, fastify } from "fastify";
import type { Logger } from "pino";
import { type BatchHeader, parseBatchHeader } from "../../record/batch.ts";
import { RECOVERED_LINKS, RECOVERED_MAC, SENDER_NONE } from "../../record/fields.ts";
import {
  BATCH_PATH,
  BATCH_TYPE,
  KEY_ID_HEADER,
  MAX_BATCH_BYTES,
  RECEIPT_HEADER,
  RECEIPT_MAC_HEADER,
  RECOVERED_HEADER,
  REFUSAL_HEADER,
  REFUSED_BUSY,
  REFUSED_FORBIDDEN,
  REFUSED_FORK,
  REFUSED_HOLE,
  REFUSED_MALFORMED,
  REFUSED_ROLLBACK,
  REFUSED_TOO_LARGE,
  REFUSED_UNAUTHENTICATED,
  WANT_HEADER,
} from "../../record/wire.ts";
import { isLoopback, type Sender, senderOf } from "../access/identity.ts";
import { type BatchKeys, judgeMac, macOfReceipt } from "../access/mac.ts";
import { isAllowed, type Role, type Rules } from "../access/rules.ts";
import { addHealth, type Readiness } from "../health.ts";
import type { Metrics } from "../metrics.ts";
import { Bodies } from "./body.ts";
import type { Answer, Intake, Refusal } from "./intake.ts";
import { serveLogFiles } from "./log-files.ts";
import { type Policies, policyRoutes } from "./policies.ts";

const STATUS: Readonly<Record<string, number>> = {
  [REFUSED_MALFORMED]: 400,
  [REFUSED_FORK]: 409,
  [REFUSED_ROLLBACK]: 409,
  [REFUSED_HOLE]: 409,
  [REFUSED_TOO_LARGE]: 413,
  [REFUSED_FORBIDDEN]: 403,
  [REFUSED_UNAUTHENTICATED]: 401,
  [REFUSED_BUSY]: 503,
};

const RETRY_AFTER_SECONDS = 1;

// A client that is slow in any way is cut off: with its headers, with the whole request, with reading the answer.
const HEADERS_TIMEOUT_MS = 10_000;
const REQUEST_TIMEOUT_MS = 30_000;
const INACTIVITY_TIMEOUT_MS = 60_000;
const CHECK_INTERVAL_MS = 5_000;
const MAX_HEADER_BYTES = 16_384;
/** Identities whose rate is remembered at a time. */
const MAX_RATES = 20_000;

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
  /** Entries were taken in that came out of an Envoy's log. */
  readonly onRecovered: (
    chain: Uint8Array,
    seq: number,
    count: number,
    proof: number,
  ) => Promise<void>;
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
  const { intake, metrics, logger, readiness } = options;
  const app = createServer(options);
  app.removeAllContentTypeParsers();
  const bodies = new Bodies(MAX_BATCH_BYTES);
  app.addContentTypeParser(BATCH_TYPE, (request: FastifyRequest, payload: IncomingMessage) =>
    bodies.read(payload, Number(request.headers["content-length"])),
  );
  type Handler = (request: FastifyRequest, reply: FastifyReply) => Promise<FastifyReply>;
  const releasing =
    (handler: Handler): Handler =>
    async (request, reply) => {
      try {
        return await handler(request, reply);
      } finally {
        if (Buffer.isBuffer(request.body)) bodies.release(request.body);
      }
    };

  const sender = (request: FastifyRequest): Sender =>
    senderOf(request.raw.socket, request.headers, options.trustXfcc);

  const may = (request: FastifyRequest, role: Role, who: Sender): boolean => {
    const isLocal = isLoopback(request.raw.socket.remoteAddress);
    const { rules, needsIdentity } = options;
    return isAllowed(rules, role, who, { needsIdentity, isLocal });
  };

  app.addHook("onRequest", async (request, reply) => {
    const { role } = request.routeOptions.config;
    if (role === undefined) return;
    // Whose the MAC is shows when the body is there: write() asks again then.
    if (role === "write" && request.headers[KEY_ID_HEADER] !== undefined) return;
    const who = sender(request);
    if (may(request, role, who)) return;
    const message = `${who.name || "a caller without an identity"} may not ${role} here`;
    if (role === "write") return refuse(reply, { refusal: REFUSED_FORBIDDEN, message });
    return reply.code(403).send({ code: "forbidden", message });
  });

  app.setErrorHandler((error: { statusCode?: number; message?: string }, _request, reply) => {
    const status = error.statusCode ?? 500;
    if (status === 413) {
      const message = `a batch has at most ${MAX_BATCH_BYTES} bytes`;
      return refuse(reply, { refusal: REFUSED_TOO_LARGE, message });
    }
    if (status >= 500) logger.error({ err: error }, "request failed");
    if (status === 429) {
      return refuse(reply, { refusal: REFUSED_BUSY, message: "too many batches a second" }, 429);
    }
    return reply.code(status).send({ code: "error", message: error.message ?? "error" });
  });

  const refuse = (
    reply: FastifyReply,
    { refusal, message, want }: Refusal,
    status?: number,
  ): FastifyReply => {
    metrics.batches.inc({ outcome: refusal });
    options.onRefused(refusal);
    logger.warn({ refusal, want }, message);
    reply.code(status ?? STATUS[refusal] ?? 500).header(REFUSAL_HEADER, refusal);
    if (want !== undefined) reply.header(WANT_HEADER, String(want));
    if (refusal === REFUSED_BUSY) reply.header("retry-after", String(RETRY_AFTER_SECONDS));
    return reply.send({ code: refusal, message, want });
  };

  app.register((batches, _, done) => {
    if (options.rules.batchesPerSecond !== undefined) {
      batches.register(rateLimit, {
        max: options.rules.batchesPerSecond,
        timeWindow: 1000,
        cache: MAX_RATES,
        keyGenerator: (request) => sender(request).name || request.ip,
      });
    }
    // After the limit is in place: it adds itself to the routes that come later.
    batches.after(() => {
      const write: Handler = async (request, reply) => {
        if (!Buffer.isBuffer(request.body)) {
          return reply.code(415).send({ code: "error", message: `the body must be ${BATCH_TYPE}` });
        }
        const stop = metrics.receiptSeconds.startTimer();
        const keyId = request.headers[KEY_ID_HEADER];
        const mac = judgeMac(
          request.body,
          typeof keyId === "string" ? keyId : undefined,
          options.batchKeys ?? new Map(),
        );
        if (mac !== null && "problem" in mac) {
          return refuse(reply, { refusal: REFUSED_UNAUTHENTICATED, message: mac.problem });
        }
        const known = sender(request);
        const who = known.auth === SENDER_NONE ? (mac?.sender ?? known) : known;
        const isRecovery = request.headers[RECOVERED_HEADER] !== undefined;
        if (!may(request, "write", who) || (isRecovery && !may(request, "administer", known))) {
          const message = `${who.name || "a caller without an identity"} may not do that here`;
          return refuse(reply, { refusal: REFUSED_FORBIDDEN, message });
        }
        const answer: Answer = await intake.accept(request.body, who, isRecovery);
        if ("refusal" in answer) return refuse(reply, answer);
        if (isRecovery && answer.added > 0) {
          const { chain, firstSeq } = parseBatchHeader(request.body) as BatchHeader;
          const proof = mac === null ? RECOVERED_LINKS : RECOVERED_MAC;
          await options.onRecovered(chain, firstSeq + answer.skipped, answer.added, proof);
        }
        stop();
        metrics.batches.inc({ outcome: "receipted" });
        metrics.entries.inc({ outcome: "added" }, answer.added);
        metrics.entries.inc({ outcome: "skipped" }, answer.skipped);
        reply.header(RECEIPT_HEADER, Buffer.from(answer.receipt).toString("base64"));
        if (mac !== null) {
          const proof = macOfReceipt(mac.key, mac.chain, answer.receipt);
          reply.header(RECEIPT_MAC_HEADER, proof.toString("base64"));
        }
        return reply.send("");
      };
      batches.post(BATCH_PATH, { config: { role: "write" } }, releasing(write));
    });
    done();
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

function createServer({ tls, maxConnections }: HttpOptions): FastifyInstance {
  const limits = {
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: HEADERS_TIMEOUT_MS,
    connectionsCheckingInterval: CHECK_INTERVAL_MS,
  };
  const common = {
    bodyLimit: MAX_BATCH_BYTES,
    requestTimeout: REQUEST_TIMEOUT_MS,
    connectionTimeout: INACTIVITY_TIMEOUT_MS,
    forceCloseConnections: "idle",
    exposeHeadRoutes: false,
  } as const;
  // Clients without a certificate get in, for probes and readers; what they may do is for the rules to say.
  const app =
    tls === undefined
      ? fastify({ ...common, http: limits })
      : fastify({
          ...common,
          https: {
            ...limits,
            ...tls,
            requestCert: tls.ca !== undefined,
            rejectUnauthorized: false,
          },
        });
  app.server.maxConnections = maxConnections;
  return app as FastifyInstance;
}
