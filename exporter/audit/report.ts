/** What verify found, and the verdict that follows from it. */
import type { Delays } from "./delays.ts";

export type Severity = "tampered" | "incomplete" | "cannot-say";
export type Verdict = "verified" | Severity;

export type Finding = {
  readonly severity: Severity;
  /** One word or a few with hyphens, for programs. */
  readonly cause: string;
  readonly message: string;
  readonly index?: number;
  readonly chain?: string;
  readonly seq?: number;
  readonly file?: string;
};

export type ChainReport = {
  readonly chain: string;
  readonly first: number;
  readonly last: number;
  readonly head: string;
  readonly entries: number;
  /** `sealed`: not closed in the log, but its proxy's own log says that this was its last entry. */
  readonly state: "open" | "closed" | "sealed";
  /** The link of its first entry: zeros unless the chain began in another log. */
  readonly prev: string;
  /** Origin of the log that held it before seq `first`, "" if it began here. */
  readonly from: string;
  /** Its first entries up to this seq were pruned: `first` is the first that was left, and `entries` those that are there. */
  readonly pruned?: number;
};

/** What one anchor proves, or why it proves nothing here. */
export type AnchorReport = {
  /** witness, quorum, rfc3161, opentimestamps, rekor, git, object-lock, put. */
  readonly kind: string;
  readonly name: string;
  /** `not-checked`: no key was given; `pending`: its proof is not complete yet; `failed`: it does not verify. */
  readonly status: "verified" | "pending" | "not-checked" | "failed";
  /** The first entries that it speaks of. */
  readonly treeSize: number;
  /** When the outsider says that it saw them, ISO 8601. */
  readonly time?: string;
  /** A sentence for people. */
  readonly says: string;
};

export type VerifyReport = {
  readonly verdict: Verdict;
  readonly origin: string;
  readonly treeSize: number;
  /** Entries below it were pruned. */
  readonly minimumIndex: number;
  /** Base64, or "" where there is no signed checkpoint. */
  readonly root: string;
  readonly signedBy: string;
  /** The checkpoint that was verified, with its signatures, or "". */
  readonly checkpoint: string;
  /** Entries by the name of their kind. */
  readonly entries: Readonly<Record<string, number>>;
  /** `count` requests are missing, as `entries` gap entries say. */
  readonly gaps: { readonly count: number; readonly entries: number };
  readonly chains: readonly ChainReport[];
  /** The first streams that began and whose end is not in this log. */
  readonly unfinished: readonly { index: number; chain: string; seq: number }[];
  readonly anchors: readonly AnchorReport[];
  /** How long entries waited for their first outsider, by the log's own clock and word; null where it speaks of none. */
  readonly delays: Delays | null;
  /** Other logs of the deployment, with the last checkpoint of each that this log saw; "" if there was none. */
  readonly peers: readonly { origin: string; key: string; checkpoint: string }[];
  /** The first ones, in the order of the log; `moreFindings` were left out. */
  readonly findings: readonly Finding[];
  readonly moreFindings: number;
  /** What was shown and what was not, in sentences. */
  readonly notes: readonly string[];
};

/** Exit codes of verify: DESIGN and `meshseal verify --help`. */
export const EXIT_CODES: Readonly<Record<Verdict, number>> = {
  verified: 0,
  tampered: 1,
  incomplete: 2,
  "cannot-say": 3,
};

const MAX_FINDINGS = 1000;

/** Collects findings, bounded, and knows the worst of them. */
export class Findings {
  readonly list: Finding[] = [];
  #dropped = 0;
  readonly #seen = new Set<Severity>();

  add(finding: Finding): void {
    this.#seen.add(finding.severity);
    if (this.list.length < MAX_FINDINGS) this.list.push(finding);
    else this.#dropped++;
  }

  addAll(others: Findings): void {
    for (const finding of others.list) this.add(finding);
    this.#dropped += others.dropped;
  }

  get dropped(): number {
    return this.#dropped;
  }

  /** Tampered before cannot-say before incomplete before verified. */
  get verdict(): Verdict {
    for (const severity of ["tampered", "cannot-say", "incomplete"] as const) {
      if (this.#seen.has(severity)) return severity;
    }
    return "verified";
  }
}

/** Returns Unix seconds as people read them. */
export function isoTime(seconds: number): string {
  return new Date(seconds * 1000).toISOString().replace(".000Z", "Z");
}
