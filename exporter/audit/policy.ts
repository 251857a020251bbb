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

/** A key of a log, and the tree sizes it may sign: a rotated key is good for its own time only. */
export type LogTrust = {
  readonly verifier: Verifier;
  readonly fromSize: number;
  /** The largest size it signs; Infinity where it is still in use. */
  readonly toSize: number;
};

/** A time stamp authority: its roots, and which of its policies count (all, if none are named). */
export type TsaTrust = {
  readonly name: string;
  readonly roots: readonly X509Certificate[];
  readonly policies: readonly string[];
};

/** A proxy's signing key, and whose it is: by SPIFFE id, workload, or the key id that its `open` states. */
export type ProxyTrust = {
  readonly key: KeyObject;
  readonly spiffe?: string | undefined;
  readonly workload?: string | undefined;
  readonly keyId?: string | undefined;
};

/** A Git remote's history, in a clone that the verifier has fetched. */
export type GitTrust = {
  /** The name that the log's operator gave the anchor. */
  readonly name: string;
  readonly clone: string;
  readonly branch: string;
  /** Where the clone is from, for people. */
  readonly remote: string;
};

export const ANCHOR_KINDS = [
  "witness",
  "rfc3161",
  "opentimestamps",
  "rekor",
  "git",
  "object-lock",
] as const;
export type AnchorKind = (typeof ANCHOR_KINDS)[number];

/** What must have been anchored: all entries but those of the log's last `maxAgeSeconds`. */
export type Requirement = {
  readonly anchor: AnchorKind;
  /** Only this authority; any of the kind where it is absent. For witnesses the quorum decides. */
  readonly name?: string | undefined;
  readonly maxAgeSeconds: number;
};

export type Policy = {
  readonly logs: readonly LogTrust[];
  readonly witnesses: TlogPolicy;
  readonly tsas: readonly TsaTrust[];
  /** Bitcoin block headers of 80 bytes, by height; null where none were given. */
  readonly bitcoinHeaders: ReadonlyMap<number, Buffer> | null;
  /** Keys of Rekor logs; a requirement names one by its key's name. */
  readonly rekorLogs: readonly Verifier[];
  readonly git: readonly GitTrust[];
  readonly proxies: readonly ProxyTrust[];
  /** Signed checkpoints that were seen before. */
  readonly lastSeen: readonly Buffer[];
  readonly required: readonly Requirement[];
};

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

/** Returns the policy that trusts one key and nothing else: `--key`. */
export function policyOf(log: Verifier): Policy {
  return {
    logs: [{ verifier: log, fromSize: 0, toSize: Number.POSITIVE_INFINITY }],
    witnesses: NO_WITNESSES,
    tsas: [],
    bitcoinHeaders: null,
    rekorLogs: [],
    git: [],
    proxies: [],
    lastSeen: [],
    required: [],
  };
}

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

/** Returns the keys that may have signed a checkpoint of `origin` with this size. */
export function logKeysAt(logs: readonly LogTrust[], origin: string, treeSize: number): Verifier[] {
  return logs
    .filter((log) => log.fromSize <= treeSize && treeSize <= log.toSize)
    .map((log) => log.verifier)
    .filter(({ name }) => name === origin);
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
