/**
 * What outsiders say about a log's checkpoints: every checkpoint that was anchored against the tree, every proof that a key was given for,
 * and whether what the policy asks for is there.
 */
import { decodeEntry } from "../../record/codec.ts";
import { SUFFIXES } from "../anchor/anchor.ts";
import type { ProofName } from "../anchor/proofs.ts";
import { openCheckpoint, parseCheckpoint } from "../log/checkpoint.ts";
import { cosignedAt } from "../log/cosignature.ts";
import { MAX_NOTE_BYTES, openNote, parseNote } from "../log/note.ts";
import { TILE_WIDTH } from "../log/tile.ts";
import { hasQuorum } from "../log/tlog-policy.ts";
import type { Stamp } from "./clocks.ts";
import { noteOf } from "./evidence.ts";
import { GitCheck } from "./git-check.ts";
import { type OwnWords, proofKey } from "./own-words.ts";
import { type ProofSource, readAhead } from "./proofs.ts";
import { type AnchorReport, type Findings, isoTime } from "./report.ts";
import type { Tiles } from "./tiles.ts";
import { type AnchorKind, logKeysAt, type Policy, type Requirement } from "./trust.ts";

/** How far clocks may be apart without a word, in seconds: a second of the authority's and some of the maker's; a block's time is good to two hours. */
const SLACK_SECONDS = { rfc3161: 5, opentimestamps: 7200 } as const;

const MAX_HEIGHTS = 100;

/** Sizes that a finding names. */
const MAX_NAMED = 5;

/** The proofs that were there before the log's checkpoint was read. */
export type Anchored = {
  readonly source: ProofSource;
  readonly proofs: readonly ProofName[];
  /** The newest checkpoint with cosignatures, or null. */
  readonly cosigned: Buffer | null;
};

export async function listAnchored(source: ProofSource): Promise<Anchored> {
  return {
    source,
    proofs: await source.list(),
    cosigned: await source.read("checkpoint", MAX_NOTE_BYTES),
  };
}

/** Checks what outsiders say about the log named `origin`, whose served checkpoint is `note`. */
export class AnchorCheck {
  readonly #tiles: Tiles;
  readonly #policy: Policy;
  readonly #origin: string;
  readonly #findings: Findings;
  /** The newest report of each anchor and status, and how many there were. */
  readonly #reports = new Map<string, { report: AnchorReport; count: number }>();
  readonly #reached: { kind: AnchorKind; name: string; size: number }[] = [];
  readonly #unknown = new Set<string>();
  /** Bitcoin blocks whose headers were not given. */
  readonly #heights = new Set<number>();
  /** Verified time stamps. */
  readonly stamps: Stamp[] = [];
  readonly git: GitCheck;

  constructor(tiles: Tiles, policy: Policy, origin: string, findings: Findings) {
    this.#tiles = tiles;
    this.#policy = policy;
    this.#origin = origin;
    this.#findings = findings;
    this.git = new GitCheck(policy.git, origin, findings, {
      checkpoint: (note, file) => this.checkpoint(note, file),
      report: (report) => this.#report(report),
      reached: (name, size) => this.#reached.push({ kind: "git", name, size }),
    });
  }

  /** Takes a checkpoint and the cosignatures on it. Returns its size, or -1 if it counts for nothing. */
  async checkpoint(note: Buffer, file: string): Promise<number> {
    const claimed = parseCheckpoint(parseNote(note)?.text ?? "");
    if (claimed === null || claimed.origin !== this.#origin) return -1;
    const keys = logKeysAt(this.#policy.logs, claimed.origin, claimed.size);
    const signed = openCheckpoint(note, ...keys);
    if (signed === null) return -1;
    const { size, root } = signed;
    const found = size > this.#tiles.size ? null : await this.#tiles.root(size);
    if (size > this.#tiles.size || (found !== null && !Buffer.from(found).equals(root))) {
      const message = `${file}, signed by this log, has ${size} entries with another history: it was rolled back or forked`;
      this.#findings.add({ severity: "tampered", cause: "anchor-contradicted", file, message });
    }
    this.#cosignatures(
      note,
      size,
      logKeysAt(this.#policy.logs, this.#origin, size).map(({ name }) => name),
    );
    return size;
  }

  /** The bucket says that these entries, and a checkpoint over them, are locked. */
  locked(size: number): void {
    this.#reached.push({ kind: "object-lock", name: "", size });
    const says = `The first ${size} entries and a checkpoint over them are locked, as the bucket says.`;
    this.#report({ kind: "object-lock", name: "bucket", status: "verified", treeSize: size, says });
  }

  /** Takes all that was kept beside the log, and what the log says that it got. */
  async anchored(
    { source, proofs, cosigned }: Anchored,
    words: OwnWords,
    notes: string[],
  ): Promise<void> {
    const missing = new Map(words.proofs);
    if (cosigned !== null) await this.checkpoint(cosigned, "anchors/checkpoint");
    let at = "";
    let size = -1;
    let unsigned = 0;
    for await (const { proof, file, note, bytes } of readAhead(source, proofs)) {
      const path = `${proof.day}/${proof.size}`;
      if (at !== path) {
        at = path;
        const checkpoint = `anchors/${path}.checkpoint`;
        size = note === null ? -1 : await this.checkpoint(note, checkpoint);
        if (note === null) {
          const message = `${checkpoint} is missing: the proofs of it cannot be checked`;
          this.#findings.add({ severity: "incomplete", cause: "anchor-lost", message });
        } else if (size !== proof.size) unsigned++;
      }
      if (note === null || bytes === null || size !== proof.size) continue;
      missing.delete(proofKey(proof.name, proof.size));
      await this.#proof(proof, note, bytes, `anchors/${file}`);
    }
    if (unsigned > 0) {
      notes.push(
        `${unsigned} checkpoints beside the log are not signed by ${this.#origin} with a given key: the proofs of them were not checked.`,
      );
    }
    if (missing.size > 0) await this.#missing(missing, source);
  }

  /** Holds a checkpoint that somebody kept against the log. */
  async evidence(file: string, bytes: Buffer, notes: string[]): Promise<void> {
    const note = noteOf(bytes);
    const before = this.#findings.list.length;
    const size = await this.checkpoint(note, file);
    if (size < 0)
      notes.push(
        `${file} is not signed by ${this.#origin} with a given key: it says nothing here.`,
      );
    else if (this.#findings.list.length === before)
      notes.push(`${file}: the checkpoint of ${size} entries in it is one of this log's.`);
  }

  /** Judges what the policy asks for, and returns all reports. */
  async end(notes: string[]): Promise<AnchorReport[]> {
    for (const required of this.#policy.required) await this.#require(required);
    for (const name of this.#unknown) {
      notes.push(`The cosignature by ${name} was not checked: no key given.`);
    }
    if (this.#heights.size > 0) {
      const heights = [...this.#heights].sort((a, b) => a - b).slice(0, MAX_HEIGHTS);
      const more = this.#heights.size > heights.length ? " and others" : "";
      notes.push(`The headers of Bitcoin blocks ${heights.join(", ")}${more} were not given.`);
    }
    for (const { report, count } of this.#reports.values()) {
      if (count > 1 && report.status === "verified") {
        notes.push(`${count} proofs by ${report.name} are verified; the newest one is shown.`);
      }
    }
    return [...this.#reports.values()].map(({ report }) => report);
  }

  /** Names the proofs that the log says it got and that are not here. Of a log that grows, some came since the list was read. */
  async #missing(missing: Map<string, unknown>, source: ProofSource): Promise<void> {
    for (const { name, size } of await source.list()) missing.delete(proofKey(name, size));
    const sizes = new Map<string, string[]>();
    for (const key of missing.keys()) {
      const [size = "", name = ""] = key.split(" ");
      const held = sizes.get(name);
      if (held === undefined) sizes.set(name, [size]);
      else held.push(size);
    }
    for (const [name, lost] of sizes) {
      const some = lost.slice(-MAX_NAMED).join(", ");
      const message = `the log says that it got ${lost.length} proofs by ${name} that are not here: of the checkpoints of ${some} entries`;
      this.#findings.add({ severity: "incomplete", cause: "anchor-lost", message });
    }
  }

  async #proof(proof: ProofName, note: Buffer, bytes: Buffer, file: string): Promise<void> {
    const { name, size, suffix } = proof;
    if (suffix === "cosignature") {
      await this.checkpoint(Buffer.concat([note, bytes]), file);
      return;
    }
    if (suffix === SUFFIXES.git) {
      this.git.commit(proof, bytes, file);
      return;
    }
    // Readers of proofs take longer to load than 100,000 entries to check: only where there is one.
    const { judgeProof } = await import("./judge-proof.ts");
    const judged = judgeProof(suffix, { name, size, note, bytes }, this.#policy);
    if (judged === null) return;
    this.#report(judged.report);
    for (const height of judged.heights ?? []) this.#heights.add(height);
    if (judged.counts !== undefined) this.#reached.push({ ...judged.counts, size });
    const { status, time, kind } = judged.report;
    if (status === "verified" && time !== undefined && kind in SLACK_SECONDS) {
      const slack = SLACK_SECONDS[kind as keyof typeof SLACK_SECONDS];
      this.stamps.push({ size, time: Date.parse(time) / 1000, slack });
    }
    if (status !== "failed") return;
    const message = `${file}: ${judged.report.says}`;
    this.#findings.add({ severity: "tampered", cause: "anchor-broken", file, message });
  }

  #cosignatures(note: Buffer, size: number, logs: readonly string[]): void {
    const { witnesses } = this.#policy;
    const cosigners = new Set<string>();
    for (const { name, verifier } of witnesses.witnesses) {
      // One key at a time: a cosignature that does not verify spoils no other.
      const signature = openNote(note, [verifier])?.verified[0];
      if (signature === undefined) continue;
      cosigners.add(name);
      const time = isoTime(cosignedAt(signature));
      this.#report({
        kind: "witness",
        name: verifier.name,
        status: "verified",
        treeSize: size,
        time,
        says: `The first ${size} entries were witnessed by ${verifier.name} at ${time}, which has seen no other history of this log.`,
      });
    }
    const known = [...logs, ...witnesses.witnesses.map(({ verifier }) => verifier.name)];
    for (const { name } of parseNote(note)?.signatures ?? []) {
      if (!known.includes(name)) this.#unknown.add(name);
    }
    if (witnesses.quorum === null || !hasQuorum(witnesses, cosigners)) return;
    this.#reached.push({ kind: "witness", name: "", size });
    this.#report({
      kind: "quorum",
      name: witnesses.quorum,
      status: "verified",
      treeSize: size,
      says: `The first ${size} entries were witnessed by ${cosigners.size} of ${witnesses.witnesses.length}: the quorum "${witnesses.quorum}" holds.`,
    });
  }

  #report(report: AnchorReport): void {
    const key = `${report.kind} ${report.name} ${report.status}`;
    const held = this.#reports.get(key);
    const isNewer = held === undefined || report.treeSize >= held.report.treeSize;
    this.#reports.set(key, {
      report: isNewer ? report : held.report,
      count: (held?.count ?? 0) + 1,
    });
  }

  async #require(required: Requirement): Promise<void> {
    const meets = this.#reached.filter(
      ({ kind, name }) =>
        kind === required.anchor && (required.name === undefined || required.name === name),
    );
    const size = Math.max(0, ...meets.map((reach) => reach.size));
    const lag = await lagSeconds(this.#tiles, size);
    if (size > 0 && lag !== null && lag <= required.maxAgeSeconds) return;
    const what = describe(required, this.#policy);
    const late =
      lag === null
        ? ""
        : ` within ${Math.round(lag)} s, where ${required.maxAgeSeconds} s are allowed`;
    const message =
      size === 0
        ? `the policy asks for ${what}, and there is none that could be verified`
        : `the policy asks for ${what}, and what came after the first ${size} entries has none${late}`;
    // A proof that is there and was not checked, for want of a key, may be a good one.
    const isUnchecked = [...this.#reports.values()].some(
      ({ report }) => report.kind === required.anchor && report.status === "not-checked",
    );
    const severity = size === 0 && isUnchecked ? "cannot-say" : "incomplete";
    this.#findings.add({ severity, cause: "anchor-missing", message });
  }
}

/** Time from the first entry that is not among the first `size` to the last entry: what the anchors leave open. */
async function lagSeconds(tiles: Tiles, size: number): Promise<number | null> {
  if (size >= tiles.size) return 0;
  const [first, last] = [await entryTime(tiles, size), await entryTime(tiles, tiles.size - 1)];
  return first === null || last === null ? null : Math.max(0, last - first) / 1e6;
}

async function entryTime(tiles: Tiles, index: number): Promise<number | null> {
  const entries = await tiles.entries(Math.floor(index / TILE_WIDTH));
  const entry = entries?.[index % TILE_WIDTH];
  return (entry && decodeEntry(entry)?.time) ?? null;
}

function describe({ anchor, name }: Requirement, { witnesses }: Policy): string {
  if (anchor === "witness") return `the quorum of witnesses "${witnesses.quorum}"`;
  return name === undefined ? `an anchor of kind ${anchor}` : `the anchor ${anchor} by ${name}`;
}
