/**
 * Google Cloud Storage's JSON API, as far as it is needed: https://cloud.google.com/storage/docs/json_api/v1. Credentials are Google's
 * usual (application default credentials), by its own library; requests are made here, each once.
 */
import { randomBytes } from "node:crypto";
import type { Dispatcher } from "undici";
import { readLimited } from "../limited.ts";
import { TooLarge } from "./bucket.ts";
import { ServiceError } from "./service.ts";

/** The fields of an object that are asked for. Numbers are strings in JSON. */
export type GcsObject = {
  readonly name?: string;
  readonly generation?: string;
  readonly timeCreated?: string;
  /** Of a version that is not the live one. */
  readonly timeDeleted?: string;
  /** Of a version that was removed and is kept for a while. */
  readonly softDeleteTime?: string;
  readonly hardDeleteTime?: string;
  readonly size?: string;
  readonly retention?: { readonly mode?: string; readonly retainUntilTime?: string };
  readonly metadata?: Readonly<Record<string, string>>;
};

export type GcsList = {
  readonly items?: readonly GcsObject[];
  readonly prefixes?: readonly string[];
  readonly nextPageToken?: string;
};

export type GcsCall = {
  readonly method?: "GET" | "POST" | "PATCH" | "DELETE";
  /** Below `/storage/v1/b/<bucket>`: "" or "/o" or "/o/<key, encoded>". */
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly json?: unknown;
  /** With `json` as its metadata. */
  readonly upload?: Uint8Array;
  /** Of the answer, in bytes. */
  readonly limit?: number;
};

export type GcsAnswer = {
  readonly bytes: Buffer;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
};

/** Rejects with a ServiceError for every answer that is no success. */
export type GcsApi = (call: GcsCall) => Promise<GcsAnswer>;

const HOST = "https://storage.googleapis.com";
const SCOPES = ["https://www.googleapis.com/auth/cloud-platform"];
const CONNECT_MS = 5000;
/** For one request, from its start to its last byte: a staged object may be some MiB. */
const REQUEST_MS = 30_000;
const SOCKETS = 64;
/** Lists and metadata are not longer. */
const MAX_JSON_BYTES = 1 << 26;

/** Returns the API for one bucket, at Google or at `endpoint`. */
export async function gcsApi(bucket: string, endpoint: string = HOST): Promise<GcsApi> {
  const { Agent, request } = await import("undici");
  const { GoogleAuth } = await import("google-auth-library");
  const agent = new Agent({ connections: SOCKETS, connect: { timeout: CONNECT_MS } });
  const auth = new GoogleAuth({ scopes: SCOPES });
  const base = endpoint.replace(/\/+$/, "");
  // A token goes nowhere in the clear: what is not HTTPS is a test's server.
  const isOpen = !base.startsWith("https:");

  async function credentials(): Promise<Record<string, string>> {
    if (isOpen) return {};
    try {
      return Object.fromEntries(await auth.getRequestHeaders(base));
    } catch (error) {
      const { name, message, status = 401 } = error as Error & { status?: number };
      throw new ServiceError(name, `no credentials: ${message}`, status);
    }
  }

  return async ({ method = "GET", path, query = {}, json, upload, limit = MAX_JSON_BYTES }) => {
    const root = upload === undefined ? "/storage/v1/b" : "/upload/storage/v1/b";
    const url = `${base}${root}/${bucket}${path}?${new URLSearchParams(query)}`;
    const content = upload === undefined ? jsonBody(json) : multipart(json, upload);
    try {
      const answer = await request(url, {
        method,
        headers: { ...(await credentials()), ...content?.headers },
        body: content?.body ?? null,
        signal: AbortSignal.timeout(REQUEST_MS),
        dispatcher: agent,
      });
      if (answer.statusCode >= 300) throw await errorOf(answer);
      const bytes = await read(path, answer, limit);
      return { bytes, headers: answer.headers };
    } catch (error) {
      if (error instanceof ServiceError || error instanceof TooLarge) throw error;
      const { name, code, message } = error as Error & { code?: string };
      throw new ServiceError(code ?? name, message, 0);
    }
  };
}

type Content = { readonly headers: Record<string, string>; readonly body: Buffer };

function jsonBody(json: unknown): Content | null {
  if (json === undefined) return null;
  return {
    headers: { "content-type": "application/json" },
    body: Buffer.from(JSON.stringify(json)),
  };
}

/** https://cloud.google.com/storage/docs/uploading-objects#uploading-an-object, "JSON API, multipart". */
function multipart(metadata: unknown, bytes: Uint8Array): Content {
  const boundary = randomBytes(16).toString("hex");
  const head = `--${boundary}\r\ncontent-type: application/json\r\n\r\n${JSON.stringify(metadata)}\r\n--${boundary}\r\ncontent-type: application/octet-stream\r\n\r\n`;
  return {
    headers: { "content-type": `multipart/related; boundary=${boundary}` },
    body: Buffer.concat([Buffer.from(head), bytes, Buffer.from(`\r\n--${boundary}--\r\n`)]),
  };
}

async function errorOf({ statusCode, body }: Dispatcher.ResponseData): Promise<ServiceError> {
  const text = await body.text();
  try {
    const { error } = JSON.parse(text) as {
      error: { message: string; errors?: [{ reason: string }] };
    };
    return new ServiceError(
      error.errors?.[0].reason ?? `HTTP ${statusCode}`,
      error.message,
      statusCode,
    );
  } catch {
    return new ServiceError(`HTTP ${statusCode}`, text.trim(), statusCode);
  }
}

async function read(
  path: string,
  { headers, body }: Dispatcher.ResponseData,
  limit: number,
): Promise<Buffer> {
  const generation = String(headers["x-goog-generation"] ?? "");
  if (Number(headers["content-length"] ?? 0) > limit) {
    body.destroy();
    throw new TooLarge(`${path} has ${headers["content-length"]} bytes`, generation);
  }
  const bytes = await readLimited(body, limit);
  if (bytes === null) throw new TooLarge(`${path} has more than ${limit} bytes`, generation);
  return bytes;
}
