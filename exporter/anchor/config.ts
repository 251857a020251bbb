/** Which anchors a log has: the JSON file of `serve --anchors FILE`. docs/anchors.md explains it to operators. */
import type { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { MeshsealError } from "../errors.ts";
import { parseCosignerVkey } from "../log/cosignature.ts";
import { parseVkey, type Verifier } from "../log/note.ts";
import { parseTlogPolicy, type TlogPolicy } from "../log/tlog-policy.ts";
import { NAME_PATTERN, PEERS, type Target } from "./anchor.ts";
import { parseCertificates } from "./certificates.ts";
import { BRANCH_PATTERN, type GitTarget, REMOTE_PATTERN } from "./git.ts";
import type { CalendarsOptions } from "./opentimestamps.ts";
import type { PutTarget } from "./put.ts";
import type { RekorTarget } from "./rekor.ts";

export type PeerConfig = {
  readonly url: string;
  readonly log: Verifier;
  readonly cosigner: Verifier;
};

export type TimestampConfig = Target & { readonly roots: readonly X509Certificate[] };

export type AnchorsConfig = {
  readonly witnesses: (Omit<Target, "url"> & { readonly policy: TlogPolicy }) | null;
  readonly timestamps: readonly TimestampConfig[];
  readonly opentimestamps: CalendarsOptions | null;
  readonly rekor: readonly RekorTarget[];
  readonly git: readonly GitTarget[];
  readonly puts: readonly PutTarget[];
  /** The role of a witness for other logs. */
  readonly witness: {
    readonly name?: string | undefined;
    readonly logs: readonly Verifier[];
  } | null;
  readonly peers: readonly PeerConfig[];
  readonly required: readonly string[];
  readonly maxAgeMs: number;
};

const text = z.string().min(1).max(65_536);
const name = z.string().regex(NAME_PATTERN, "must be lower case letters, digits and hyphens");
const seconds = (initial: number): z.ZodDefault<z.ZodNumber> =>
  z.number().min(0.1).max(86_400).default(initial);

const url = z.url({ protocol: /^https?$/ }).max(2048);

/** Calendars that the public pools hand on to. */
const PUBLIC_CALENDARS = [
  "https://alice.btc.calendar.opentimestamps.org",
  "https://bob.btc.calendar.opentimestamps.org",
  "https://finney.calendar.eternitywall.com",
  "https://btc.calendar.catallaxy.com",
];

const Schema = z.strictObject({
  opentimestamps: z
    .strictObject({
      name: name.default("bitcoin"),
      calendars: z.array(url).min(1).max(16),
      upgradeFrom: z.array(url).max(32).default(PUBLIC_CALENDARS),
      minimum: z.number().int().min(1).default(1),
      everySeconds: seconds(3600),
      timeoutSeconds: seconds(30),
    })
    .optional(),
  rekor: z
    .array(
      z.strictObject({
        name,
        url,
        key: text.optional(),
        everySeconds: seconds(300),
        timeoutSeconds: seconds(30),
      }),
    )
    .max(32)
    .default([]),
  git: z
    .array(
      z.strictObject({
        name,
        remote: z.string().max(2048).regex(REMOTE_PATTERN, "must be a URL, host:path or a path"),
        branch: z.string().regex(BRANCH_PATTERN, "is no branch").default("main"),
        everySeconds: seconds(600),
        timeoutSeconds: seconds(60),
      }),
    )
    .max(32)
    .default([]),
  put: z
    .array(
      z.strictObject({
        name,
        url,
        headers: z.record(z.string(), z.string().max(8192)).default({}),
        everySeconds: seconds(60),
        timeoutSeconds: seconds(15),
      }),
    )
    .max(32)
    .default([]),
  timestamps: z
    .array(
      z.strictObject({
        name,
        url,
        roots: text.optional(),
        everySeconds: seconds(30),
        timeoutSeconds: seconds(15),
      }),
    )
    .max(32)
    .default([]),
  witnesses: z
    .strictObject({
      policy: z.union([text, z.array(z.string().max(65_536)).max(1000)]),
      everySeconds: seconds(10),
      timeoutSeconds: seconds(10),
    })
    .optional(),
  witness: z
    .strictObject({ name: text.optional(), logs: z.array(text).min(1).max(1000) })
    .optional(),
  peers: z
    .array(z.strictObject({ url, log: text, cosigner: text }))
    .max(16)
    .default([]),
  required: z.array(name).max(100).default([]),
  maxAgeSeconds: seconds(60),
});

/** Reads the file. Throws MeshsealError that names it and what is wrong in it. */
export function readAnchors(path: string): AnchorsConfig {
  const read = (file: string): string => readFileSync(resolve(dirname(path), file), "utf8");
  try {
    return parseAnchors(readFileSync(path, "utf8"), read);
  } catch (error) {
    throw new MeshsealError(`--anchors ${path}: ${error instanceof Error ? error.message : error}`);
  }
}

/** Returns the anchors in `source`, whose file names `read` resolves. Throws an Error that says what is wrong. */
export function parseAnchors(source: string, read: (file: string) => string): AnchorsConfig {
  const parsed = Schema.safeParse(JSON.parse(source));
  if (!parsed.success) throw new Error(z.prettifyError(parsed.error));
  const given = parsed.data;
  const { witnesses } = given;
  const key = <T>(value: string, parse: (vkey: string) => T | null, what: string): T => {
    const found = parse(value.startsWith("@") ? read(value.slice(1)).trim() : value);
    if (found === null) throw new Error(`"${value.slice(0, 80)}" is no ${what}`);
    return found;
  };
  const config: AnchorsConfig = {
    witnesses: witnesses === undefined ? null : readWitnesses(witnesses, read),
    timestamps: given.timestamps.map(({ roots, ...target }) => ({
      ...timed(target),
      roots: roots === undefined ? [] : parseCertificates(read(roots)),
    })),
    opentimestamps: given.opentimestamps === undefined ? null : timed(given.opentimestamps),
    rekor: given.rekor.map(({ key: vkey, ...target }) => ({
      ...timed(target),
      keys: vkey === undefined ? [] : [key(vkey, parseVkey, "Rekor log's verifier key")],
    })),
    git: given.git.map(timed),
    puts: given.put.map(timed),
    witness:
      given.witness === undefined
        ? null
        : {
            name: given.witness.name,
            logs: given.witness.logs.map((log) => key(log, parseVkey, "log's verifier key")),
          },
    peers: given.peers.map(({ url, log, cosigner }) => ({
      url,
      log: key(log, parseVkey, "log's verifier key"),
      cosigner: key(cosigner, parseCosignerVkey, "cosigner's verifier key"),
    })),
    required: given.required,
    maxAgeMs: given.maxAgeSeconds * 1000,
  };
  const names = anchorNames(config);
  if (names.includes(PEERS)) throw new Error(`no anchor may be named ${PEERS}`);
  for (const [i, anchor] of names.entries()) {
    if (names.indexOf(anchor) !== i) throw new Error(`two anchors are named ${anchor}`);
  }
  for (const anchor of config.required) {
    if (!names.includes(anchor)) throw new Error(`"required" names ${anchor}, which is no anchor`);
  }
  return config;
}

/** Names of the anchors by outsiders. */
export function anchorNames(config: AnchorsConfig): string[] {
  const { witnesses, timestamps, opentimestamps, rekor, git, puts } = config;
  const all = [witnesses, ...timestamps, opentimestamps, ...rekor, ...git, ...puts];
  return all.flatMap((anchor) => (anchor === null ? [] : [anchor.name]));
}

function timed<T extends { everySeconds: number; timeoutSeconds: number }>({
  everySeconds,
  timeoutSeconds,
  ...rest
}: T): Omit<T, "everySeconds" | "timeoutSeconds"> & { everyMs: number; timeoutMs: number } {
  return { ...rest, everyMs: everySeconds * 1000, timeoutMs: timeoutSeconds * 1000 };
}

function readWitnesses(
  given: { policy: string | string[]; everySeconds: number; timeoutSeconds: number },
  read: (file: string) => string,
): NonNullable<AnchorsConfig["witnesses"]> {
  const lines = typeof given.policy === "string" ? read(given.policy) : given.policy.join("\n");
  const policy = parseTlogPolicy(lines);
  for (const { name: witness, url } of policy.witnesses) {
    if (url !== undefined && !URL.canParse(url))
      throw new Error(`witness ${witness}: ${url} is no URL`);
  }
  if (!policy.witnesses.some(({ url }) => url !== undefined)) {
    throw new Error("no witness has a URL: none could be asked");
  }
  return {
    name: "witnesses",
    policy,
    everyMs: given.everySeconds * 1000,
    timeoutMs: given.timeoutSeconds * 1000,
  };
}
