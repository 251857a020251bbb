/**
 * `POST /v1/batches` (FORMAT.md section 5): who may send, how much, and what the intake answers. On Node's own HTTP and
 * not on the framework that serves the rest, whose way to a handler costs as much as checking 60 entries (RATIONALE.md).
 */
import type { IncomingMessage, ServerResponse } from "node:http";
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
  REFUSAL_MAC_HEADER,
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
import type { Sender } from "../access/identity.ts";
import { type BatchKeys, judgeMac, macOfReceipt, macOfRefusal } from "../access/mac.ts";
import type { Rates } from "../access/rates.ts";
import type { Role } from "../access/rules.ts";
import type { Metrics } from "../metrics.ts";
import { type Body, BodyTooLarge, readBody } from "./body.ts";
import type { Intake, Refusal } from "./intake.ts";

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

export type BatchesOptions = {
  readonly intake: Intake;
  readonly metrics: Metrics;
  readonly logger: Logger;
  /** Counts a refusal that never reached the intake's judgement as well. */
  readonly onRefused: (refusal: string) => void;
  /** Keys of the MACs over batches; a batch with a MAC is refused if absent. */
  readonly batchKeys?: BatchKeys | undefined;
  /** Entries were taken in that came out of an Envoy's log. */
  readonly onRecovered: (
    chain: Uint8Array,
    seq: number,
    count: number,
    proof: number,
  ) => Promise<void>;
  readonly senderOf: (request: IncomingMessage) => Sender;
  readonly may: (request: IncomingMessage, role: Role, who: Sender) => boolean;
  /** What bounds each sender's batches a second, if something does. */
  readonly rates: Rates | null;
  /** False once the server is closing: connections then end with their answer. */
  readonly isOpen: () => boolean;
};

const NO_KEYS: BatchKeys = new Map();

/** Tells if a request is for here. */
export function isBatch(request: IncomingMessage): boolean {
  return request.url === BATCH_PATH && request.method === "POST";
}

/** Returns what answers such requests. It never rejects. */
export function createBatches(
  options: BatchesOptions,
): (request: IncomingMessage, response: ServerResponse) => Promise<void> {
  const { intake, metrics, logger, senderOf, may } = options;

  const answer = (response: ServerResponse, status: number, body: object): void => {
    const json = JSON.stringify(body);
    response.setHeader("content-type", "application/json; charset=utf-8");
    response.setHeader("content-length", Buffer.byteLength(json));
    response.writeHead(status).end(json);
  };

  const refuse = (
    response: ServerResponse,
    { refusal, message, want }: Refusal,
    status = STATUS[refusal] ?? 500,
  ): void => {
    metrics.batches.inc({ outcome: refusal });
    options.onRefused(refusal);
    logger.warn({ refusal, want }, message);
    response.setHeader(REFUSAL_HEADER, refusal);
    if (want !== undefined) response.setHeader(WANT_HEADER, String(want));
    if (refusal === REFUSED_BUSY) response.setHeader("retry-after", String(RETRY_AFTER_SECONDS));
    answer(response, status, { code: refusal, message, want });
  };

  const forbid = (response: ServerResponse, who: Sender, what: string): void => {
    const message = `${who.name || "a caller without an identity"} may not ${what} here`;
    refuse(response, { refusal: REFUSED_FORBIDDEN, message });
  };

  /** Whether the batch is worth reading. Answers where it is not. */
  const isWelcome = (request: IncomingMessage, response: ServerResponse): boolean => {
    const who = senderOf(request);
    // Whose a MAC is shows when the body is there: then it is asked again.
    if (request.headers[KEY_ID_HEADER] === undefined && !may(request, "write", who)) {
      forbid(response, who, "write");
      return false;
    }
    const { rates } = options;
    if (rates !== null && !rates.take(who.name || (request.socket.remoteAddress ?? ""))) {
      refuse(response, { refusal: REFUSED_BUSY, message: "too many batches a second" }, 429);
      return false;
    }
    if (request.headers["content-type"] !== BATCH_TYPE) {
      answer(response, 415, { code: "error", message: `the body must be ${BATCH_TYPE}` });
      return false;
    }
    return true;
  };

  const take = async (
    request: IncomingMessage,
    response: ServerResponse,
    body: Body,
  ): Promise<void> => {
    const stop = metrics.receiptSeconds.startTimer();
    const batch = body.bytes;
    const keyId = request.headers[KEY_ID_HEADER];
    const keys = options.batchKeys ?? NO_KEYS;
    const mac = judgeMac(batch, typeof keyId === "string" ? keyId : undefined, keys);
    if (mac !== null && "problem" in mac) {
      return refuse(response, { refusal: REFUSED_UNAUTHENTICATED, message: mac.problem });
    }
    const known = senderOf(request);
    const who = known.auth === SENDER_NONE ? (mac?.sender ?? known) : known;
    const isRecovery = request.headers[RECOVERED_HEADER] !== undefined;
    if (!may(request, "write", who) || (isRecovery && !may(request, "administer", known))) {
      return forbid(response, who, "do that");
    }
    // What is asked for after the answer is kept: the room may be another batch's by then.
    const chain = Uint8Array.from(mac?.chain ?? []);
    const batchMac = Uint8Array.from(mac?.mac ?? []);
    const header = isRecovery ? parseBatchHeader(Buffer.from(batch)) : null;
    const taken = await intake.accept(batch, who, isRecovery, body.release);
    if ("refusal" in taken) {
      if (mac !== null) {
        const proof = macOfRefusal(mac.key, chain, batchMac, taken.refusal, taken.want);
        response.setHeader(REFUSAL_MAC_HEADER, proof.toString("base64"));
      }
      return refuse(response, taken);
    }
    if (header !== null && taken.added > 0) await recovered(header, taken, mac !== null);
    stop();
    metrics.batches.inc({ outcome: "receipted" });
    metrics.entries.inc({ outcome: "added" }, taken.added);
    if (taken.skipped > 0) metrics.entries.inc({ outcome: "skipped" }, taken.skipped);
    const receipt = Buffer.from(taken.receipt).toString("base64");
    const headers = [RECEIPT_HEADER, receipt, "content-length", "0"];
    if (mac !== null) {
      const proof = macOfReceipt(mac.key, chain, taken.receipt);
      headers.push(RECEIPT_MAC_HEADER, proof.toString("base64"));
    }
    response.writeHead(200, headers).end();
  };

  const recovered = (
    { chain, firstSeq }: BatchHeader,
    { added, skipped }: { added: number; skipped: number },
    hasMac: boolean,
  ): Promise<void> =>
    options.onRecovered(chain, firstSeq + skipped, added, hasMac ? RECOVERED_MAC : RECOVERED_LINKS);

  return async (request, response) => {
    let body: Body | null = null;
    try {
      if (!options.isOpen()) response.setHeader("connection", "close");
      if (!isWelcome(request, response)) return;
      const length = request.headers["content-length"];
      body = await readBody(request, Number(length ?? Number.NaN), MAX_BATCH_BYTES);
      await take(request, response, body);
    } catch (error) {
      if (response.headersSent || response.destroyed) return;
      if (error instanceof BodyTooLarge) {
        // The rest of it is not read.
        response.setHeader("connection", "close");
        const message = `a batch has at most ${MAX_BATCH_BYTES} bytes`;
        return refuse(response, { refusal: REFUSED_TOO_LARGE, message });
      }
      if (request.readableAborted) return;
      logger.error({ err: error }, "request failed");
      const message = error instanceof Error ? error.message : "error";
      answer(response, 500, { code: "error", message });
    } finally {
      body?.release();
    }
  };
}
