/** Settings of `serve`: flags, then MESHSEAL_* variables, then a JSON file, then the defaults. */
import { readFileSync } from "node:fs";
import { z } from "zod";
import { isLoopback } from "./address.ts";
import { MeshsealError } from "./errors.ts";
import { STORE_FORMS, STORE_URL } from "./store/settings.ts";

/** All values are checked; see `meshseal serve --help` for what each does. */
export type Settings = {
  readonly data: string;
  readonly listen: string;
  readonly origin?: string | undefined;
  /** Verifier keys of the logs whose chains are taken up here: exporter/intake/origins.ts. */
  readonly origins?: string | undefined;
  readonly checkpointMs: number;
  readonly allowAnonymous: boolean;
  /** Certificate, key and authorities of clients, PEM files: exporter/access/tls.ts. */
  readonly tlsCert?: string | undefined;
  readonly tlsKey?: string | undefined;
  readonly tlsClientCa?: string | undefined;
  /** The sidecar on this machine says who sends, in x-forwarded-client-cert. */
  readonly trustXfcc: boolean;
  /** Who may write, read and administer: exporter/access/rules.ts. */
  readonly access?: string | undefined;
  /** Keys of senders that have a MAC in place of a certificate: exporter/access/mac.ts. */
  readonly batchKeys?: string | undefined;
  readonly maxConnections: number;
  /** A chain that sends nothing for so long is silent: exporter/intake/silence.ts. */
  readonly silentAfterSeconds: number;
  /** Health and metrics on an address of their own, beside the main one: exporter/health.ts. */
  readonly healthListen?: string | undefined;
  /** Between SIGTERM and the last batch taken: /readyz says 503 for so long, in milliseconds. */
  readonly drainDelayMs: number;
  /** A place in a bucket (store/settings.ts); the data directory if absent. */
  readonly store?: string | undefined;
  /** A second directory with the same log: exporter/store/mirror.ts. */
  readonly mirror?: string | undefined;
  /** Full files of a log in a directory get the immutable flag, where that can be: exporter/store/flags.ts. */
  readonly immutableFiles: boolean;
  readonly s3Endpoint?: string | undefined;
  readonly s3Region?: string | undefined;
  readonly s3PathStyle: boolean;
  readonly gcsEndpoint?: string | undefined;
  readonly azureEndpoint?: string | undefined;
  /** Files are locked for this long; 0 for not at all. */
  readonly lockDays?: number | undefined;
  /** What receipts wait for. */
  readonly ack: "wal" | "store";
  /** MiB that the WAL may have while the store is away. */
  readonly walLimitMib: number;
  /** Witnesses, time stamps and other outsiders: exporter/anchor/config.ts. */
  readonly anchors?: string | undefined;
  readonly logLevel: "debug" | "info" | "warn" | "error" | "silent";
};

const Address = z.string().regex(/^(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}$/, "must be host:port");

const Schema = z.strictObject({
  data: z.string().min(1).default("./meshseal-data"),
  listen: Address.default("127.0.0.1:7700"),
  origin: z.string().min(1).optional(),
  origins: z.string().min(1).optional(),
  checkpointMs: z.coerce.number().int().min(10).max(60_000).default(1000),
  allowAnonymous: z.stringbool().or(z.boolean()).default(false),
  tlsCert: z.string().min(1).optional(),
  tlsKey: z.string().min(1).optional(),
  tlsClientCa: z.string().min(1).optional(),
  trustXfcc: z.stringbool().or(z.boolean()).default(false),
  access: z.string().min(1).optional(),
  batchKeys: z.string().min(1).optional(),
  maxConnections: z.coerce.number().int().min(1).max(1_000_000).default(10_000),
  silentAfterSeconds: z.coerce.number().min(1).max(86_400).default(180),
  healthListen: Address.optional(),
  drainDelayMs: z.coerce.number().int().min(0).max(600_000).default(0),
  store: z.string().regex(STORE_URL, `must be ${STORE_FORMS}`).optional(),
  mirror: z.string().min(1).optional(),
  immutableFiles: z.stringbool().or(z.boolean()).default(false),
  s3Endpoint: z.url({ protocol: /^https?$/ }).optional(),
  s3Region: z.string().min(1).optional(),
  s3PathStyle: z.stringbool().or(z.boolean()).default(false),
  gcsEndpoint: z.url({ protocol: /^https?$/ }).optional(),
  azureEndpoint: z.url({ protocol: /^https?$/ }).optional(),
  lockDays: z.coerce.number().int().min(0).max(36_500).optional(),
  ack: z.enum(["wal", "store"]).default("wal"),
  walLimitMib: z.coerce.number().int().min(1).max(1_000_000).default(8192),
  anchors: z.string().min(1).optional(),
  logLevel: z.enum(["debug", "info", "warn", "error", "silent"]).default("info"),
});

/** Returns the settings, or throws MeshsealError with a line that names key, value and what is allowed. */
export function readSettings(
  flags: Readonly<Record<string, unknown>>,
  env: Readonly<Record<string, string | undefined>>,
): Settings {
  const file = typeof flags["config"] === "string" ? flags["config"] : env["MESHSEAL_CONFIG"];
  const merged: Record<string, unknown> = file === undefined ? {} : readFile(file);
  for (const key of Object.keys(Schema.shape)) {
    const variable = `MESHSEAL_${key.replaceAll(/[A-Z]/g, "_$&").toUpperCase()}`;
    const value = flags[key] ?? env[variable];
    if (value !== undefined) merged[key] = value;
  }
  const parsed = Schema.safeParse(merged);
  if (!parsed.success) throw new MeshsealError(z.prettifyError(parsed.error));
  const { listen, allowAnonymous, tlsCert, tlsKey, tlsClientCa } = parsed.data;
  if ((tlsCert === undefined) !== (tlsKey === undefined)) {
    throw new MeshsealError("--tls-cert and --tls-key belong together: give both, or none.");
  }
  if (tlsClientCa !== undefined && tlsCert === undefined) {
    throw new MeshsealError("--tls-client-ca needs --tls-cert and --tls-key.");
  }
  if (parsed.data.store === undefined && parsed.data.ack === "store") {
    throw new MeshsealError("--ack store needs --store: a bucket.");
  }
  if (parsed.data.store !== undefined && parsed.data.mirror !== undefined) {
    throw new MeshsealError("--mirror is for a log in a directory: a bucket has its own copies.");
  }
  if (parsed.data.store !== undefined && parsed.data.lockDays === undefined) {
    throw new MeshsealError(
      "--store needs --lock-days: how long the log's files cannot be deleted by anyone, or 0 for not locked.",
    );
  }
  if (!allowAnonymous && !needsIdentity(parsed.data) && !isOnLoopback(parsed.data)) {
    throw new MeshsealError(
      `listen ${listen}: batches from anyone are taken on loopback only. Give --tls-client-ca or --batch-keys, or add --allow-anonymous if the network is trusted.`,
    );
  }
  return parsed.data;
}

/** Tells if senders are known by something, so that one without an identity is refused. */
export function needsIdentity(settings: Settings): boolean {
  if (settings.allowAnonymous) return false;
  if (settings.tlsClientCa !== undefined || settings.trustXfcc) return true;
  // Keys alone: whoever has none may still send from this machine.
  return settings.batchKeys !== undefined && !isOnLoopback(settings);
}

function isOnLoopback({ listen }: Pick<Settings, "listen">): boolean {
  return isLoopback(listen);
}

function readFile(path: string): Record<string, unknown> {
  try {
    return z.record(z.string(), z.unknown()).parse(JSON.parse(readFileSync(path, "utf8")));
  } catch (error) {
    throw new MeshsealError(`--config ${path}: ${error instanceof Error ? error.message : error}`);
  }
}
