/**
 * Whom the verifier trusts: `verify --policy FILE`. All of it comes from outside the log, and nothing that travels with a log
 * adds to it. The file is JSON as below, or a bare c2sp.org/tlog-policy, which is the part about logs and witnesses.
 * docs/policy.md explains it to auditors.
 */
import { createPublicKey, type KeyObject, type X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { parseCertificates } from "../anchor/certificates.ts";
import { BRANCH_PATTERN } from "../anchor/git.ts";
import { MeshsealError } from "../errors.ts";
import { parseVkey, type Verifier } from "../log/note.ts";
import { NO_WITNESSES, PolicyError, parseTlogPolicy, type TlogPolicy } from "../log/tlog-policy.ts";
import { ANCHOR_KINDS, type LogTrust, type Policy, policyOf, type Requirement } from "./trust.ts";

/** Reads a file that a policy names, as bytes. */
export type ReadFile = (path: string) => Buffer;

const MAX_LIST = 1000;
const MAX_TEXT = 65_536;
/** Wide enough for any clock and network; anchors are due within 60 seconds. */
const DEFAULT_MAX_AGE_SECONDS = 300;
const HEADER_BYTES = 80;

const text = z.string().min(1).max(MAX_TEXT);
const size = z.number().int().min(0);
const oid = z.string().regex(/^[0-2](\.(0|[1-9]\d{0,17}))+$/, "must be an object identifier");

const Schema = z.strictObject({
  logs: z
    .array(z.strictObject({ key: text, fromSize: size.optional(), toSize: size.optional() }))
    .max(MAX_LIST)
    .default([]),
  witnesses: z.union([text, z.array(z.string().max(MAX_TEXT)).max(MAX_LIST)]).optional(),
  timestampAuthorities: z
    .array(
      z.strictObject({ name: text, roots: text, policies: z.array(oid).max(MAX_LIST).optional() }),
    )
    .max(MAX_LIST)
    .default([]),
  bitcoinHeaders: text.optional(),
  rekorLogs: z.array(text).max(MAX_LIST).default([]),
  git: z
    .array(
      z.strictObject({
        name: text,
        clone: text,
        branch: z.string().regex(BRANCH_PATTERN, "is no branch").default("main"),
        remote: text.optional(),
      }),
    )
    .max(MAX_LIST)
    .default([]),
  proxies: z
    .array(
      z.strictObject({
        key: text,
        spiffe: text.optional(),
        workload: text.optional(),
        keyId: text.optional(),
      }),
    )
    .max(MAX_LIST)
    .default([]),
  lastSeen: z.array(text).max(MAX_LIST).default([]),
  require: z
    .array(
      z.strictObject({
        anchor: z.enum(ANCHOR_KINDS),
        name: text.optional(),
        maxAgeSeconds: z.number().positive().default(DEFAULT_MAX_AGE_SECONDS),
      }),
    )
    .max(MAX_LIST)
    .default([]),
});

/** Reads a policy file. Throws MeshsealError that names the file and what is wrong in it. */
export function readPolicy(path: string): Policy {
  const read = (name: string): Buffer => readFileSync(resolve(dirname(path), name));
  try {
    return parsePolicy(readFileSync(path, "utf8"), read, dirname(path));
  } catch (error) {
    throw new MeshsealError(`--policy ${path}: ${error instanceof Error ? error.message : error}`);
  }
}

/** Returns the policy in `source`, whose file names `read` resolves; directories are below `base`. Throws an Error that says what is wrong. */
export function parsePolicy(source: string, read: ReadFile, base = "."): Policy {
  if (!source.trimStart().startsWith("{")) return fromTlogPolicy(parseTlogPolicy(source));
  const parsed = Schema.safeParse(JSON.parse(source));
  if (!parsed.success) throw new PolicyError(z.prettifyError(parsed.error));
  const given = parsed.data;
  const witnesses = readWitnesses(given.witnesses, read);
  const logs = [
    ...witnesses.logs.map(({ verifier }) => trustAlways(verifier)),
    ...given.logs.map(({ key, fromSize, toSize }) => ({
      verifier: readVkey(key, read),
      fromSize: fromSize ?? 0,
      toSize: toSize ?? Number.POSITIVE_INFINITY,
    })),
  ];
  if (logs.length === 0) throw new PolicyError("no log is named: nothing could be verified");
  for (const { verifier, fromSize, toSize } of logs) {
    if (toSize < fromSize) throw new PolicyError(`${verifier.vkey}: toSize is less than fromSize`);
  }
  const policy: Policy = {
    logs,
    witnesses,
    tsas: given.timestampAuthorities.map(({ name, roots, policies }) => ({
      name,
      roots: readCertificates(roots, read),
      policies: policies ?? [],
    })),
    bitcoinHeaders:
      given.bitcoinHeaders === undefined ? null : parseHeaders(read(given.bitcoinHeaders)),
    rekorLogs: given.rekorLogs.map((key) => readVkey(key, read)),
    git: given.git.map(({ name, clone, branch, remote }) => ({
      name,
      clone: resolve(base, clone),
      branch,
      remote: remote ?? clone,
    })),
    proxies: given.proxies.map(({ key, ...whose }) => ({ key: readProxyKey(key, read), ...whose })),
    lastSeen: given.lastSeen.map((name) => read(name)),
    required: given.require,
  };
  return { ...policy, required: withQuorum(policy.required, witnesses) };
}

/** Returns the block headers in a file: lines of `<height> <160 hex digits>`, or `#` comments. */
export function parseHeaders(bytes: Buffer): Map<number, Buffer> {
  const headers = new Map<number, Buffer>();
  for (const [i, line] of bytes.toString("latin1").split("\n").entries()) {
    if (line.trim() === "" || line.startsWith("#")) continue;
    const [, height, hex] = /^(0|[1-9]\d{0,9}) ([0-9a-f]{160})\r?$/i.exec(line) ?? [];
    if (height === undefined || hex === undefined) {
      throw new PolicyError(
        `line ${i + 1} of the block headers is not: height, space, ${2 * HEADER_BYTES} hex digits`,
      );
    }
    headers.set(Number(height), Buffer.from(hex, "hex"));
  }
  return headers;
}

function fromTlogPolicy(witnesses: TlogPolicy): Policy {
  const [first, ...rest] = witnesses.logs;
  if (first === undefined) throw new PolicyError("no log is named: nothing could be verified");
  return {
    ...policyOf(first.verifier),
    logs: [first, ...rest].map(({ verifier }) => trustAlways(verifier)),
    witnesses,
    required: withQuorum([], witnesses),
  };
}

/** A quorum that is written down is asked for, whether `require` repeats it or not. */
function withQuorum(required: readonly Requirement[], { quorum }: TlogPolicy): Requirement[] {
  const isThere = required.some(({ anchor }) => anchor === "witness");
  if (quorum === null) {
    if (isThere) throw new PolicyError('"require" asks for witnesses, but there is no quorum');
    return [...required];
  }
  if (isThere) return [...required];
  return [{ anchor: "witness", maxAgeSeconds: DEFAULT_MAX_AGE_SECONDS }, ...required];
}

function readWitnesses(given: string | string[] | undefined, read: ReadFile): TlogPolicy {
  if (given === undefined) return NO_WITNESSES;
  return parseTlogPolicy(typeof given === "string" ? read(given).toString() : given.join("\n"));
}

function trustAlways(verifier: Verifier): LogTrust {
  return { verifier, fromSize: 0, toSize: Number.POSITIVE_INFINITY };
}

/** `@file` names a file with a key in it; anything else is the key itself. */
function readVkey(given: string, read: ReadFile): Verifier {
  const vkey = given.startsWith("@") ? read(given.slice(1)).toString().trim() : given;
  const verifier = parseVkey(vkey);
  if (verifier === null) throw new PolicyError(`"${vkey.slice(0, 80)}" is no verifier key`);
  return verifier;
}

function readPem(given: string, read: ReadFile): string {
  return given.startsWith("-----BEGIN ") ? given : read(given).toString("latin1");
}

function readCertificates(given: string, read: ReadFile): X509Certificate[] {
  const pem = readPem(given, read);
  try {
    return parseCertificates(pem);
  } catch {
    throw new PolicyError(`${given.slice(0, 80)} holds no certificate`);
  }
}

function readKeyObject(given: string, read: ReadFile): KeyObject {
  try {
    return createPublicKey(readPem(given, read));
  } catch {
    throw new PolicyError(`${given.slice(0, 80)} holds no public key in PEM`);
  }
}

function readProxyKey(given: string, read: ReadFile): KeyObject {
  const key = readKeyObject(given, read);
  if (key.asymmetricKeyType !== "ec" || key.asymmetricKeyDetails?.namedCurve !== "prime256v1") {
    throw new PolicyError(`${given.slice(0, 80)}: a proxy's key must be on the curve P-256`);
  }
  return key;
}
