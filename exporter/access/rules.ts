/** Who may write, read and administer: the access file, and what holds without one. Pure but for reading the file. */
import { readFileSync } from "node:fs";
import { z } from "zod";
import { SENDER_NONE } from "../../record/fields.ts";
import { MeshsealError } from "../errors.ts";
import type { Sender } from "./identity.ts";

/** `write`: send batches. `read`: log files, chains and metrics. `administer`: what changes the exporter. */
export type Role = "write" | "read" | "administer";

/**
 * Patterns of names, a role each: exact, or a beginning followed by `*`. `anonymous` is who has no identity, `*` is anyone. A role
 * that is absent is as `isAllowed` says.
 */
export type Rules = {
  readonly write?: readonly string[] | undefined;
  readonly read?: readonly string[] | undefined;
  readonly administer?: readonly string[] | undefined;
  /** Batches a second that one identity may send; a burst of as many is let through. */
  readonly batchesPerSecond?: number | undefined;
};

const MAX_PATTERNS = 10_000;
const patterns = z.array(z.string().min(1).max(2048)).max(MAX_PATTERNS).optional();
const Schema = z.strictObject({
  write: patterns,
  read: patterns,
  administer: patterns,
  batchesPerSecond: z.number().int().min(1).max(1_000_000).optional(),
});

/** Returns the rules in an access file, or throws MeshsealError that names the file and the key. */
export function readRules(path: string): Rules {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new MeshsealError(`--access ${path}: ${error instanceof Error ? error.message : error}`);
  }
  const parsed = Schema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new MeshsealError(`--access ${path}: ${z.prettifyError(parsed.error)}`);
}

/** What holds where the rules do not say who may have a role. */
export type Surroundings = {
  /** Client certificates or keys are in use: then writing needs an identity. */
  readonly needsIdentity: boolean;
  /** The other end is on this machine. */
  readonly isLocal: boolean;
};

/**
 * Tells if `sender` may act in `role`. Without a rule: writing needs an identity where identities are in use, reading is
 * open, and administering is for this machine.
 */
export function isAllowed(rules: Rules, role: Role, sender: Sender, around: Surroundings): boolean {
  const patterns = rules[role];
  if (patterns !== undefined) return patterns.some((pattern) => matches(pattern, sender));
  if (role === "write") return sender.auth !== SENDER_NONE || !around.needsIdentity;
  return role === "read" || around.isLocal;
}

function matches(pattern: string, { name, auth }: Sender): boolean {
  if (pattern === "*") return true;
  if (auth === SENDER_NONE) return pattern === "anonymous";
  return pattern.endsWith("*") ? name.startsWith(pattern.slice(0, -1)) : name === pattern;
}
