/** Whom the verifier trusts, as policy.ts reads it from a file. Apart from it, since most runs name one key and need no schema. */
import type { KeyObject, X509Certificate } from "node:crypto";
import type { Verifier } from "../log/note.ts";
import { NO_WITNESSES, type TlogPolicy } from "../log/tlog-policy.ts";

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

/** Returns the keys that may have signed a checkpoint of `origin` with this size. */
export function logKeysAt(logs: readonly LogTrust[], origin: string, treeSize: number): Verifier[] {
  return logs
    .filter((log) => log.fromSize <= treeSize && treeSize <= log.toSize)
    .map((log) => log.verifier)
    .filter(({ name }) => name === origin);
}
