/** What the history of a Git remote says of a log, in a clone that the verifier fetched: every checkpoint in it, and whether what the remote had taken is there. */
import type { ProofName } from "../anchor/proofs.ts";
import { readHistory } from "./git-history.ts";
import { type AnchorReport, type Findings, isoTime } from "./report.ts";
import type { GitTrust } from "./trust.ts";
import { Unreachable } from "./unreachable.ts";

/** What is done with what was found: AnchorCheck's. */
export type Log = {
  /** Holds a checkpoint against the log. Resolves to its size, or -1 if it counts for nothing. */
  readonly checkpoint: (note: Buffer, file: string) => Promise<number>;
  readonly report: (report: AnchorReport) => void;
  /** The first `size` entries are in the history that the policy names so. */
  readonly reached: (name: string, size: number) => void;
};

export class GitCheck {
  readonly #trusts: readonly GitTrust[];
  readonly #origin: string;
  readonly #findings: Findings;
  readonly #log: Log;
  /** What each clone's history holds of this log. */
  readonly #held = new Map<
    string,
    { readonly trust: GitTrust; readonly commits: Set<string>; newest: number }
  >();

  constructor(trusts: readonly GitTrust[], origin: string, findings: Findings, log: Log) {
    this.#trusts = trusts;
    this.#origin = origin;
    this.#findings = findings;
    this.#log = log;
  }

  /** Takes the histories of Git remotes that the policy names clones of. */
  async histories(): Promise<void> {
    for (const trust of this.#trusts) {
      if (this.#held.has(trust.name)) continue;
      const held = { trust, commits: new Set<string>(), newest: -1 };
      this.#held.set(trust.name, held);
      let last: { commit: string; time: number; size: number } | null = null;
      try {
        for await (const { commit, time, note } of readHistory(trust, this.#origin)) {
          const size = await this.#log.checkpoint(note, `${trust.remote} at commit ${commit}`);
          if (size < 0) continue;
          held.commits.add(commit);
          if (size >= held.newest) last = { commit, time, size };
          held.newest = Math.max(held.newest, size);
        }
      } catch (error) {
        if (error instanceof Unreachable) throw error;
        const message = `the history of ${trust.remote}: ${error instanceof Error ? error.message : error}`;
        this.#findings.add({ severity: "cannot-say", cause: "git", message });
        continue;
      }
      if (last === null) continue;
      const { commit, size } = last;
      this.#log.reached(trust.name, size);
      const time = isoTime(last.time);
      const says = `The first ${size} entries are in the history of ${trust.remote} at commit ${commit}, committed at ${time} by the log's own clock; ${held.commits.size} checkpoints of this log are there.`;
      this.#log.report({
        kind: "git",
        name: trust.name,
        status: "verified",
        treeSize: size,
        time,
        says,
      });
    }
  }

  /** A commit that the remote had taken must be in its history, unless the clone is older. */
  commit({ name, size }: ProofName, bytes: Buffer, file: string): void {
    const { commit = "", remote = "?" } = commitOf(bytes) ?? {};
    const report = { kind: "git", name, treeSize: size } as const;
    const held = this.#held.get(name);
    if (held?.commits.has(commit)) return;
    if (held === undefined || size > held.newest) {
      const why = held === undefined ? "no clone of it was given" : "the clone is older";
      const says = `The checkpoint of ${size} entries is said to be at commit ${commit} of ${remote}, which was not checked: ${why}.`;
      this.#log.report({ ...report, status: "not-checked", says });
      return;
    }
    const message = `${file}: commit ${commit} with ${size} entries is not in the history of ${held.trust.remote}: it was rewritten`;
    this.#findings.add({ severity: "tampered", cause: "git-rewritten", file, message });
    this.#log.report({ ...report, status: "failed", says: message });
  }
}

/** Returns what a proof of the anchor `git` says, or null. */
function commitOf(bytes: Buffer): { commit: string; remote: string } | null {
  try {
    const { commit, remote } = JSON.parse(bytes.toString()) as Record<string, unknown>;
    if (typeof commit !== "string" || typeof remote !== "string") return null;
    return { commit: commit.slice(0, 64), remote: remote.slice(0, 2048) };
  } catch {
    return null;
  }
}
