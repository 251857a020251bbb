/**
 * Verifies a whole log against a key that comes from outside it: signature, every tile and bundle, every entry, every
 * link of every chain, receipts inside entries, and in a directory every file that is there.
 */
import { type Checkpoint, openCheckpoint } from "../log/checkpoint.ts";
import { MAX_NOTE_BYTES, type Verifier } from "../log/note.ts";
import { AnchorCheck, listAnchored } from "./anchors.ts";
import { checkBucket } from "./bucket.ts";
import { ChainWalk } from "./chains.ts";
import { checkLastSeen, openTrusted, originOf } from "./checkpoints.ts";
import { entriesAhead } from "./clocks.ts";
import { type Delays, measureDelays } from "./delays.ts";
import { checkFiles } from "./files.ts";
import { checkLeaves, type LeafOptions } from "./leaves.ts";
import type { ProofSource } from "./proofs.ts";
import { ProxyWalk } from "./proxies.ts";
import { checkRetention, readPruned } from "./pruned.ts";
import { type AnchorReport, Findings, type VerifyReport } from "./report.ts";
import { checkSeals, type SealKeys } from "./seals.ts";
import type { Source } from "./source.ts";
import { Tiles } from "./tiles.ts";
import { checkClaims, checkLevels, checkRoot } from "./tree.ts";
import { logKeysAt, type Policy, policyOf } from "./trust.ts";

export type VerifyOptions = ({ readonly log: Verifier } | { readonly policy: Policy }) &
  LeafOptions & {
    /** A checkpoint of this log that was signed earlier, if one is at hand: the log must extend it. */
    readonly lastSeen?: Uint8Array;
    /** What was kept of outsiders' proofs. */
    readonly proofs?: ProofSource;
    /** What witnesses or others kept of this log's checkpoints (evidence.ts), by the name of its file. */
    readonly evidence?: ReadonlyMap<string, Buffer>;
    /** Lines of proxies' own logs, with seals among them, and keys of their MACs. */
    readonly seals?: { readonly lines: Iterable<string>; readonly macs: SealKeys["macs"] };
    /** Every chain must be closed or sealed. */
    readonly requireSeals?: boolean;
    /** Other logs are verified with it (union.ts): chains may begin there. */
    readonly isPart?: boolean;
  };

/** Streams without an end that a report lists. */
const MAX_UNFINISHED = 100;

/** Verifies the log in `source`. Throws Unreachable where it cannot be read. */
export async function verifyLog(source: Source, options: VerifyOptions): Promise<VerifyReport> {
  const policy = "policy" in options ? options.policy : policyOf(options.log);
  const findings = new Findings();
  const notes: string[] = [];
  const anchored = options.proofs === undefined ? null : await listAnchored(options.proofs);
  const note = await source.read("checkpoint", MAX_NOTE_BYTES);
  const origin = originOf(note, policy);
  const proxies = new ProxyWalk(findings, policy.proxies);
  const checkpoint = note === null ? null : openTrusted(note, policy);
  const pruned = checkpoint === null ? null : await readPruned(source, checkpoint.size);
  const walk = new ChainWalk(findings, origin, policy.logs, proxies, pruned?.state ?? null);
  const anchors: AnchorReport[] = [];
  let lockedSize = 0;
  let delays: Delays | null = null;
  if (note === null) {
    const message = "there is no checkpoint: no data is not verified";
    const isBare = source.list === undefined || (await source.list().next()).done === true;
    findings.add({
      severity: isBare ? "cannot-say" : "tampered",
      cause: "no-checkpoint",
      file: "checkpoint",
      message,
    });
  } else if (checkpoint === null) {
    const message = `the checkpoint is not signed by ${origin} with a given key`;
    findings.add({ severity: "tampered", cause: "checkpoint", file: "checkpoint", message });
  } else if (checkpoint.size === 0) {
    const message = "the log is empty: no data is not verified";
    findings.add({ severity: "cannot-say", cause: "empty", message });
  }
  if (checkpoint !== null) {
    const tiles = new Tiles(source, checkpoint.size, pruned?.index ?? 0);
    const files = lookAside((aside, told) =>
      source.list === undefined ? null : checkFiles(source, source.list(), tiles, aside, told),
    );
    const wrong = await checkLeaves(source, tiles, walk, findings, options);
    walk.finish();
    await checkLevels(tiles, wrong, findings);
    await checkRoot(tiles, checkpoint, findings);
    await checkRetention(tiles, pruned, walk.retention, origin, findings, notes);
    await checkClaims(tiles, walk, findings);
    await checkLastSeen(tiles, policy, origin, options.lastSeen, findings, notes);
    await files(findings, notes);
    if (source.bucket !== undefined) {
      const opener = (bytes: Buffer): Checkpoint | null => openTrusted(bytes, policy);
      lockedSize = await checkBucket(source.bucket, tiles, opener, findings, notes);
    }
    const outsiders = new AnchorCheck(tiles, policy, origin, findings);
    if (lockedSize > 0) outsiders.locked(lockedSize);
    await outsiders.checkpoint(note ?? Buffer.alloc(0), "checkpoint");
    await outsiders.git.histories();
    if (anchored !== null) await outsiders.anchored(anchored, walk.words, notes);
    else if (walk.words.proofs.size > 0) {
      const text = `The log says that it got ${walk.words.proofs.size} proofs by outsiders; none were given here.`;
      notes.push(text);
    }
    const ahead = await entriesAhead(tiles, walk.newest, outsiders.stamps);
    if (ahead !== null) {
      const least = ahead.isSample ? "At least " : "";
      notes.push(
        `${least}${ahead.entries} entries claim a time later than the time stamp over them, the first one entry ${ahead.index} by ${ahead.seconds} s: their maker's clock was ahead.`,
      );
    }
    delays = await measureDelays(tiles, walk.words.steps);
    for (const [file, bytes] of options.evidence ?? [])
      await outsiders.evidence(file, bytes, notes);
    anchors.push(...(await outsiders.end(notes)));
  }
  proxies.finish(notes);
  const { lines, macs } = options.seals ?? {};
  const whole =
    lines === undefined || macs === undefined
      ? new Set<string>()
      : checkSeals(lines, { proxies: policy.proxies, macs }, walk.chains(), findings, notes);
  const chains = walk
    .chains()
    .map((one) =>
      one.state === "open" && whole.has(one.chain) ? ({ ...one, state: "sealed" } as const) : one,
    );
  if (options.isPart !== true) for (const finding of walk.elsewhere) findings.add(finding);
  const open = chains.filter(({ state }) => state === "open");
  if (open.length > 0) {
    const text = `${open.length} of ${chains.length} chains are open: what came after their last entry is not in this log.`;
    notes.push(text);
    if (options.requireSeals) {
      for (const { chain, last } of open) {
        const message = `chain ${chain} is open after seq ${last}`;
        findings.add({ severity: "incomplete", cause: "open-chain", chain, seq: last, message });
      }
    }
  }
  const unfinished = walk.unfinished();
  if (unfinished.length > 0)
    notes.push(`${unfinished.length} streams began and have not ended in this log.`);
  if (options.isPart !== true) {
    for (const { origin: peer } of walk.words.peers.values())
      notes.push(`It has seen the log ${peer}: verify both together.`);
  }
  if (walk.clockSteps > 0)
    notes.push(`The clock of a maker stepped back ${walk.clockSteps} times.`);
  if (walk.foreignReceipts > 0)
    notes.push(`${walk.foreignReceipts} receipts are of other logs and were not checked.`);
  return {
    verdict: findings.verdict,
    origin,
    treeSize: checkpoint?.size ?? 0,
    minimumIndex: pruned?.index ?? 0,
    root: checkpoint === null ? "" : Buffer.from(checkpoint.root).toString("base64"),
    signedBy:
      checkpoint === null
        ? ""
        : logKeysAt(policy.logs, origin, checkpoint.size)
            .filter((key) => note !== null && openCheckpoint(note, key) !== null)
            .map(({ vkey }) => vkey)
            .join(" "),
    checkpoint: checkpoint === null ? "" : (note ?? "").toString(),
    entries: walk.kinds,
    gaps: walk.gaps,
    chains,
    unfinished: unfinished.slice(0, MAX_UNFINISHED),
    anchors,
    delays,
    peers: [...walk.words.peers.values()].map(({ origin: name, vkey, note: seen }) => ({
      origin: name,
      key: vkey,
      checkpoint: seen.toString(),
    })),
    findings: findings.list,
    moreFindings: findings.dropped,
    notes,
  };
}

/** Begins to look for what is said later, while threads read. Returns what says it, in its place. */
function lookAside(
  look: (findings: Findings, notes: string[]) => Promise<void> | null,
): (findings: Findings, notes: string[]) => Promise<void> {
  const aside = new Findings();
  const told: string[] = [];
  const done = look(aside, told);
  done?.catch(() => undefined);
  return async (findings, notes) => {
    await done;
    findings.addAll(aside);
    notes.push(...told);
  };
}
