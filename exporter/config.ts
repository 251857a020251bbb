/** Settings of `serve`: flags, then MESHSEAL_* variables, then a JSON file, then the defaults. */
import { readFileSync } from "node:fs";
import { z } from "zod";
import { MeshsealError } from "./errors.ts";

const LOOPBACK = /^(127\.\d+\.\d+\.\d+|localhost|\[::1\])$/;

/** All values are checked; see `meshseal serve --help` for what each does. */
export type Settings = {
  readonly data: string;
  readonly listen: string;
  readonly origin?: string | undefined;
  readonly checkpointMs: number;
  readonly allowAnonymous: boolean;
  readonly logLevel: "debug" | "info" | "warn" | "error" | "silent";
};

const Schema = z.strictObject({
  data: z.string().min(1).default("./meshseal-data"),
  listen: z
    .string()
    .regex(/^(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}$/, "must be host:port")
    .default("127.0.0.1:7700"),
  origin: z.string().min(1).optional(),
  checkpointMs: z.coerce.number().int().min(10).max(60_000).default(1000),
  allowAnonymous: z.stringbool().or(z.boolean()).default(false),
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
  const { listen, allowAnonymous } = parsed.data;
  const host = listen.slice(0, listen.lastIndexOf(":"));
  if (!allowAnonymous && !LOOPBACK.test(host)) {
    throw new MeshsealError(
      `listen ${listen}: batches from anyone are taken on loopback only. Add --allow-anonymous if the network is trusted.`,
    );
  }
  return parsed.data;
}

function readFile(path: string): Record<string, unknown> {
  try {
    return z.record(z.string(), z.unknown()).parse(JSON.parse(readFileSync(path, "utf8")));
  } catch (error) {
    throw new MeshsealError(`--config ${path}: ${error instanceof Error ? error.message : error}`);
  }
}
