/**
 * Verifies several logs as one: each by itself, and then every chain across all of them, exactly once and in order. A chain
 * moves when its exporter is gone (FORMAT.md 5.5). What is missing between two logs, or differs in two, is named.
 */
import { decodeEntry } from "../../record/codec.ts";
import { parseCheckpoint } from "../log/checkpoint.ts";
import { leafHash } from "../log/merkle.ts";
import { parseNote } from "../log/note.ts";
import { TILE_WIDTH } from "../log/tile.ts";
import { openTrusted } from "./checkpoints.ts";
import type { ProofSource } from "./proofs.ts";
import type { ChainReport } from "./report.ts";
import { type Finding, Findings, type Verdict, type VerifyReport } from "./report.ts";
import type { Source } from "./source.ts";
import { Tiles } from "./tiles.ts";
import { policyOf } from "./trust.ts";
import { type VerifyOptions, verifyLog } from "./verify.ts";

/** A chain over all logs: where each part of it lies. */
export type JoinedChain = {
  readonly chain: string;
  readonly parts: readonly {
    readonly origin: string;
    readonly first: number;
    readonly last: number;
  }[];
  readonly state: ChainReport["state"];
};

export type UnionReport = {
  readonly verdict: Verdict;
  readonly logs: readonly VerifyReport[];
  /** Those that are in more than one log, or began in one that was not given. */
  readonly moved: readonly JoinedChain[];
  /** What no log shows by itself. */
  readonly findings: readonly Finding[];
  readonly moreFindings: number;
  readonly notes: readonly string[];
};

type Part = ChainReport & { readonly origin: string };

/** Returns the digest of a chain's entry in the log of an origin, or "" if it is not there. */
export type DigestAt = (origin: string, chain: string, seq: number) => Promise<string>;

/** Verifies the logs of `sources` together; `proofs` are those beside each of them. Throws Unreachable where one cannot be read. */
export async function verifyLogs(
  sources: readonly Source[],
  options: VerifyOptions,
  proofs: readonly (ProofSource | null)[] = [],
): Promise<UnionReport> {
  const findings = new Findings();
  const notes: string[] = [];
  const logs: VerifyReport[] = [];
  const { lastSeen, requireSeals, ...rest } = options;
  const beside = (i: number): Pick<VerifyOptions, "proofs"> => {
    const own = proofs[i] ?? null;
    return own === null ? {} : { proofs: own };
  };
  for (const [i, source] of sources.entries()) {
    logs.push(await verifyLog(source, { ...rest, ...beside(i), isPart: true }));
  }
  if (lastSeen !== undefined) {
    const origin = Buffer.from(lastSeen).toString("latin1").split("\n")[0] ?? "";
    const at = logs.findIndex((report) => report.origin === origin);
    const source = sources[at];
    if (source === undefined) {
      const message = `the last-seen checkpoint is of ${origin}, which is none of the logs given`;
      findings.add({ severity: "cannot-say", cause: "last-seen", message });
    } else logs[at] = await verifyLog(source, { ...rest, ...beside(at), isPart: true, lastSeen });
  }
  const origins = logs.map(({ origin }) => origin);
  for (const [i, origin] of origins.entries()) {
    if (origins.indexOf(origin) === i) continue;
    const message = `the log ${origin} is given twice`;
    findings.add({ severity: "cannot-say", cause: "twice", message });
  }
  const parts = new Map<string, Part[]>();
  for (const { origin, chains } of logs) {
    for (const chain of chains) {
      const held = parts.get(chain.chain) ?? [];
      held.push({ ...chain, origin });
      parts.set(chain.chain, held);
    }
  }
  await checkPeers(sources, logs, options, findings, notes);
  const digestAt = finder(sources, logs);
  const moved: JoinedChain[] = [];
  for (const [chain, held] of parts) {
    held.sort((a, b) => a.first - b.first || a.last - b.last);
    await joinChain(chain, held, new Set(origins), findings, notes, digestAt);
    const last = held.reduce((a, b) => (b.last > a.last ? b : a));
    if (requireSeals && last.state === "open") {
      const message = `chain ${chain} is open after seq ${last.last}`;
      findings.add({ severity: "incomplete", cause: "open-chain", chain, seq: last.last, message });
    }
    if (held.length > 1 || held[0]?.from !== "") {
      const where = held.map(({ origin, first, last: end }) => ({ origin, first, last: end }));
      moved.push({ chain, parts: where, state: last.state });
    }
  }
  const verdicts: readonly Verdict[] = [findings.verdict, ...logs.map(({ verdict }) => verdict)];
  const worst = (["tampered", "cannot-say", "incomplete"] as const).find((v) =>
    verdicts.includes(v),
  );
  return {
    verdict: worst ?? "verified",
    logs,
    moved,
    findings: findings.list,
    moreFindings: findings.dropped,
    notes,
  };
}

/** No log can vanish or shrink that another one has seen. */
async function checkPeers(
  sources: readonly Source[],
  logs: readonly VerifyReport[],
  options: VerifyOptions,
  findings: Findings,
  notes: string[],
): Promise<void> {
  const policy = "policy" in options ? options.policy : policyOf(options.log);
  for (const { origin, peers } of logs) {
    for (const { origin: peer, checkpoint } of peers) {
      if (checkpoint === "") continue;
      const bytes = Buffer.from(checkpoint);
      const claimed = parseCheckpoint(parseNote(bytes)?.text ?? "");
      if (claimed?.origin !== peer) continue;
      const at = logs.findIndex((report) => report.origin === peer);
      const [source, report] = [sources[at], logs[at]];
      const saw = `${origin} has seen ${peer} with ${claimed.size} entries`;
      if (source === undefined || report === undefined) {
        const message = `${saw}, and that log was not given`;
        findings.add({ severity: "incomplete", cause: "peer-missing", message });
        continue;
      }
      const seen = openTrusted(bytes, policy);
      if (seen === null) {
        const message = `${saw}, in a checkpoint that is not signed by a given key`;
        findings.add({ severity: "cannot-say", cause: "peer-not-signed", message });
        continue;
      }
      const isThere = seen.size <= report.treeSize;
      const root = isThere ? await new Tiles(source, report.treeSize).root(seen.size) : null;
      if (isThere && (root === null || Buffer.from(root).equals(seen.root))) {
        notes.push(`${saw}, which it has.`);
        continue;
      }
      const message = `${saw} and another history: ${peer} was rolled back or forked`;
      findings.add({ severity: "tampered", cause: "peer-contradicted", message });
    }
  }
}

/** Follows one chain over its parts, sorted by their first seq. */
export async function joinChain(
  chain: string,
  parts: readonly Part[],
  given: ReadonlySet<string>,
  findings: Findings,
  notes: string[],
  digestAt: DigestAt,
): Promise<void> {
  let before: Part | undefined;
  for (const part of parts) {
    const { origin, first, last, prev, from } = part;
    const at = { severity: "tampered", chain, seq: first } as const;
    const end = before?.last ?? -1;
    if (first > end + 1 && part.pruned === first) {
      notes.push(`Seq ${end + 1} to ${first - 1} of chain ${chain} were pruned from ${origin}.`);
    } else if (first > end + 1) {
      const what = `seq ${end + 1} to ${first - 1} of chain ${chain}`;
      if (given.has(from)) {
        const message = `${what} are missing: ${from} gave a receipt for them and does not hold them`;
        findings.add({ ...at, cause: "missing", message });
      } else {
        const message = `${what} are in the log ${from}, which was not given`;
        findings.add({ ...at, severity: "incomplete", cause: "elsewhere", message });
      }
    } else if (before !== undefined) {
      const joint = await digestAt(before.origin, chain, first - 1);
      const common = Math.min(end, last);
      const isSame =
        (first === 0 || joint === prev) &&
        (common < first ||
          (await digestAt(before.origin, chain, common)) ===
            (await digestAt(origin, chain, common)));
      if (!isSame) {
        const message = `chain ${chain} has two histories: ${before.origin} and ${origin} differ at or before seq ${Math.max(first - 1, common)}`;
        findings.add({ ...at, cause: "two-histories", message });
      } else if (common >= first) {
        notes.push(
          `Seq ${first} to ${common} of chain ${chain} are in both ${before.origin} and ${origin}, and are the same.`,
        );
      }
      if (before.state === "closed" && last > end) {
        const message = `chain ${chain} goes on in ${origin} after its close in ${before.origin}`;
        findings.add({ ...at, cause: "after-close", message });
      }
    }
    if (before === undefined || last > end) before = part;
  }
}

/** Finds digests by reading the log once more for each that is neither a head nor a link: moved chains are few. */
function finder(sources: readonly Source[], logs: readonly VerifyReport[]): DigestAt {
  return async (origin, chain, seq) => {
    const at = logs.findIndex((report) => report.origin === origin);
    const [source, report] = [sources[at], logs[at]];
    if (source === undefined || report === undefined) return "";
    const held = report.chains.find((found) => found.chain === chain);
    if (held?.last === seq) return held.head;
    if (held?.first === seq + 1) return held.prev;
    const tiles = new Tiles(source, report.treeSize);
    for (let tile = 0; tile * TILE_WIDTH < tiles.size; tile++) {
      for (const bytes of (await tiles.entries(tile)) ?? []) {
        const entry = decodeEntry(bytes);
        if (entry?.seq !== seq || Buffer.from(entry.chain).toString("hex") !== chain) continue;
        return Buffer.from(leafHash(bytes)).toString("hex");
      }
    }
    return "";
  };
}
