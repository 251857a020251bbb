/**
 * Verifies a whole log against a key that comes from outside it: signature, every tile and bundle, every entry, every
 * link of every chain, receipts inside entries, and in a directory every file that is there.
 */
import { type Checkpoint, openCheckpoint, parseCheckpoint } from "../log/checkpoint.ts";
import { HASH_BYTES, leafHash } from "../log/merkle.ts";
import { MAX_NOTE_BYTES, parseNote, type Verifier } from "../log/note.ts";
import {
  hashesAtLevel,
  parseBundle,
  parseTilePath,
  TILE_WIDTH,
  type Tile,
  tilePath,
  tileRoot,
} from "../log/tile.ts";
import { AnchorCheck, listAnchored } from "./anchors.ts";
import { checkBucket } from "./bucket.ts";
import { ChainWalk } from "./chains.ts";
import { entriesAhead } from "./clocks.ts";
import { type Delays, measureDelays } from "./delays.ts";
import { logKeysAt, type Policy, policyOf } from "./policy.ts";
import type { ProofSource } from "./proofs.ts";
import { ProxyWalk } from "./proxies.ts";
import { type AnchorReport, Findings, type VerifyReport } from "./report.ts";
import { checkSeals, type SealKeys } from "./seals.ts";
import type { Source } from "./source.ts";
import { SPAN_ENTRIES, SPAN_TILES } from "./span.ts";
import { readSpans } from "./spans.ts";
import { MAX_BUNDLE_BYTES, MAX_TILE_BYTES, Tiles } from "./tiles.ts";

export type VerifyOptions = ({ readonly log: Verifier } | { readonly policy: Policy }) & {
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
  /** Threads to read with; if absent, as many as there are cores, and one for a small log. */
  readonly threads?: number;
  /** Gets the number of entries that were checked so far. */
  readonly onProgress?: (done: number, total: number) => void;
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
  const walk = new ChainWalk(findings, origin, policy.logs, proxies);
  const checkpoint = note === null ? null : openTrusted(note, policy);
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
    const tiles = new Tiles(source, checkpoint.size);
    const wrong = await checkSpans(source, tiles, walk, findings, options);
    walk.finish();
    await checkLevels(tiles, wrong, findings);
    await checkRoot(tiles, checkpoint, findings);
    await checkClaims(tiles, walk, findings);
    await checkLastSeen(tiles, policy, origin, options.lastSeen, findings, notes);
    if (source.list !== undefined) await checkFiles(source, source.list(), tiles, findings, notes);
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

/**
 * Every entry against its leaf hash in level 0, and every chain through them. Returns the indexes of tiles of level 1 that
 * may not have the roots of those below them.
 */
async function checkSpans(
  source: Source,
  tiles: Tiles,
  walk: ChainWalk,
  findings: Findings,
  options: VerifyOptions,
): Promise<Set<number>> {
  const wrong = new Set<number>();
  let index = 0;
  for await (const span of readSpans(source, tiles, options.threads)) {
    if (span === null || !walk.join(span)) {
      await checkEntries(tiles, index * SPAN_TILES, walk, findings, options);
    } else {
      for (const [i, time] of span.newest.entries()) walk.newest[index * SPAN_TILES + i] = time;
    }
    if (!span?.isLevelRight) wrong.add(index);
    index++;
    options.onProgress?.(Math.min(index * SPAN_ENTRIES, tiles.size), tiles.size);
  }
  return wrong;
}

/** The entries of a span, from `firstTile` on, one by one. */
async function checkEntries(
  tiles: Tiles,
  firstTile: number,
  walk: ChainWalk,
  findings: Findings,
  options: VerifyOptions,
): Promise<void> {
  const end = Math.min(firstTile + SPAN_TILES, Math.ceil(tiles.size / TILE_WIDTH));
  for (let tile = firstTile; tile < end; tile++) {
    const first = tile * TILE_WIDTH;
    const { width } = tiles.tileAt("entries", tile);
    const [hashes, bundle] = await Promise.all([tiles.hashes(0, tile), tiles.bundle(tile)]);
    if (hashes === null) {
      const file = tilePath(tiles.tileAt(0, tile));
      findings.add({
        severity: "tampered",
        cause: "tile-missing",
        index: first,
        file,
        message: `${file} is missing or of a wrong length`,
      });
    }
    const file = tilePath(tiles.tileAt("entries", tile));
    if (bundle === null) {
      findings.add({
        severity: "tampered",
        cause: "bundle-missing",
        index: first,
        file,
        message: `${file} is missing or too long`,
      });
      continue;
    }
    let at = 0;
    for (let i = 0; i < width; i++) {
      const index = first + i;
      const length = at + 2 <= bundle.length ? bundle.readUInt16BE(at) : -1;
      if (length < 0 || at + 2 + length > bundle.length) {
        findings.add({
          severity: "tampered",
          cause: "entry",
          index,
          file,
          message: `entry ${index} is cut off in ${file}`,
        });
        at = bundle.length;
        break;
      }
      const entry = bundle.subarray(at + 2, at + 2 + length);
      at += 2 + length;
      const digest = leafHash(entry);
      if (
        hashes !== null &&
        hashes.compare(digest, 0, HASH_BYTES, i * HASH_BYTES, (i + 1) * HASH_BYTES) !== 0
      ) {
        const message = `entry ${index} is not the one in the tree: its hash and its leaf differ`;
        findings.add({ severity: "tampered", cause: "entry", index, file, message });
        continue;
      }
      walk.visit(entry, digest, index);
    }
    if (at !== bundle.length) {
      findings.add({
        severity: "tampered",
        cause: "surplus",
        index: first + width - 1,
        file,
        message: `${file} has bytes behind its last entry`,
      });
    }
    options.onProgress?.(first + width, tiles.size);
  }
}

/** Every hash of level n + 1 against the full tile of level n below it; of level 1 only those in `wrong`. */
async function checkLevels(
  tiles: Tiles,
  wrong: ReadonlySet<number>,
  findings: Findings,
): Promise<void> {
  for (let level = 1; hashesAtLevel(tiles.size, level) > 0; level++) {
    for (let index = 0; index * TILE_WIDTH < hashesAtLevel(tiles.size, level); index++) {
      if (level === 1 && !wrong.has(index)) continue;
      const tile = tiles.tileAt(level, index);
      const file = tilePath(tile);
      const hashes = await tiles.hashes(level, index);
      if (hashes === null) {
        findings.add({
          severity: "tampered",
          cause: "tile-missing",
          file,
          message: `${file} is missing or of a wrong length`,
        });
        continue;
      }
      for (let i = 0; i < tile.width; i++) {
        const below = await tiles.hashes(level - 1, index * TILE_WIDTH + i);
        if (below === null) continue;
        if (
          hashes.compare(tileRoot(below), 0, HASH_BYTES, i * HASH_BYTES, (i + 1) * HASH_BYTES) !== 0
        ) {
          const under = tilePath({
            level: level - 1,
            index: index * TILE_WIDTH + i,
            width: TILE_WIDTH,
          });
          findings.add({
            severity: "tampered",
            cause: "tile",
            file,
            message: `${file} and ${under} contradict each other`,
          });
        }
      }
    }
  }
}

async function checkRoot(
  tiles: Tiles,
  { size, root }: Checkpoint,
  findings: Findings,
): Promise<void> {
  const found = await tiles.root(size);
  if (found !== null && !Buffer.from(found).equals(root)) {
    const message = "the tiles do not give the root that the checkpoint signs";
    findings.add({ severity: "tampered", cause: "root", file: "checkpoint", message });
  }
}

/** The trees that receipts inside entries speak of: each proxy is a small witness. */
async function checkClaims(tiles: Tiles, walk: ChainWalk, findings: Findings): Promise<void> {
  for (const { index, treeSize, root } of walk.claims.values()) {
    const found = treeSize > tiles.size ? null : await tiles.root(treeSize);
    if (treeSize > tiles.size || (found !== null && !Buffer.from(found).equals(root))) {
      const message = `entry ${index} holds a receipt for a tree of ${treeSize} leaves that this log contradicts`;
      findings.add({ severity: "tampered", cause: "receipt-contradicted", index, message });
    }
  }
}

async function checkLastSeen(
  tiles: Tiles,
  policy: Policy,
  origin: string,
  given: Uint8Array | undefined,
  findings: Findings,
  notes: string[],
): Promise<void> {
  let compared = 0;
  for (const bytes of given === undefined ? policy.lastSeen : [given, ...policy.lastSeen]) {
    const seen = openTrusted(bytes, policy);
    if (seen === null) {
      const message = "the last-seen checkpoint is not signed by a given key";
      findings.add({ severity: "cannot-say", cause: "last-seen", message });
      compared++;
      continue;
    }
    if (seen.origin !== origin) continue;
    compared++;
    const found = seen.size > tiles.size ? null : await tiles.root(seen.size);
    if (found === null || !Buffer.from(found).equals(seen.root)) {
      const message = `the log had ${seen.size} entries with another history: it was rolled back or forked`;
      findings.add({ severity: "tampered", cause: "rolled-back", message });
    } else notes.push(`The log extends the last-seen checkpoint of size ${seen.size}.`);
  }
  if (compared > 0) return;
  notes.push(
    "A roll-back of the whole log cannot be told without an earlier checkpoint (--last-seen), a witness or an anchor.",
  );
}

/** Opens a checkpoint that a trusted key of its origin signed, and may sign at its size. */
export function openTrusted(bytes: Uint8Array, policy: Policy): Checkpoint | null {
  const claimed = parseCheckpoint(parseNote(bytes)?.text ?? "");
  if (claimed === null) return null;
  const keys = logKeysAt(policy.logs, claimed.origin, claimed.size);
  return openCheckpoint(bytes, ...keys);
}

/** Which of the policy's logs this is: the one that the checkpoint names, or the only one, or the first. */
function originOf(note: Uint8Array | null, { logs }: Policy): string {
  const claimed = parseCheckpoint((note && parseNote(note)?.text) ?? "")?.origin;
  const known = logs.find(({ verifier }) => verifier.name === claimed) ?? logs[0];
  return known?.verifier.name ?? "";
}

/** Every file: those of this tree were read; others must be superseded partial tiles, or beyond the checkpoint. */
async function checkFiles(
  source: Source,
  files: AsyncGenerator<{ path: string; isFile: boolean }>,
  tiles: Tiles,
  findings: Findings,
  notes: string[],
): Promise<void> {
  let beyond = 0;
  for await (const { path, isFile } of files) {
    if (isFile && path === "checkpoint") continue;
    const tile = isFile ? parseTilePath(path) : null;
    const now = tile === null ? null : tiles.tileAt(tile.level, tile.index);
    if (tile === null || now === null) {
      findings.add({
        severity: "tampered",
        cause: "foreign-file",
        file: path,
        message: `${path} does not belong to a log`,
      });
    } else if (tile.width > now.width) {
      if (await isBeyond(source, tile, now)) beyond++;
      else {
        findings.add({
          severity: "tampered",
          cause: "foreign-file",
          file: path,
          message: `${path} does not belong to this tree`,
        });
      }
    } else if (tile.width < now.width && !(await isPrefix(source, tile, now))) {
      findings.add({
        severity: "tampered",
        cause: "superseded",
        file: path,
        message: `${path} is not the beginning of ${tilePath(now)}`,
      });
    }
  }
  if (beyond > 0)
    notes.push(
      `${beyond} files reach beyond the checkpoint: a crash leaves such, a clean stop does not.`,
    );
}

/** Tiles that a crash can leave beyond the checkpoint at most: what one publication writes ahead of it. */
const MAX_BEYOND = 4096;

/** A crash may leave tiles that the next checkpoint would have covered: whole ones, that go on where this tree ends. */
async function isBeyond(source: Source, tile: Tile, now: Tile): Promise<boolean> {
  if (now.width > 0) return isPrefix(source, now, tile);
  if (-now.width > MAX_BEYOND * TILE_WIDTH) return false;
  const isBundle = tile.level === "entries";
  const bytes = await source.read(tilePath(tile), isBundle ? MAX_BUNDLE_BYTES : MAX_TILE_BYTES);
  if (bytes === null) return false;
  if (!isBundle) return bytes.length === tile.width * HASH_BYTES;
  return parseBundle(bytes, tile.width) !== null;
}

async function isPrefix(source: Source, small: Tile, large: Tile): Promise<boolean> {
  const limit = small.level === "entries" ? MAX_BUNDLE_BYTES : MAX_TILE_BYTES;
  const [part, whole] = await Promise.all([
    source.read(tilePath(small), limit),
    source.read(tilePath(large), limit),
  ]);
  if (part === null || whole === null) return false;
  const length =
    small.level === "entries" ? bundleLength(whole, small.width) : small.width * HASH_BYTES;
  return part.length === length && whole.subarray(0, length).equals(part);
}

/** Returns the bytes of the first `count` entries of a bundle, or -1. */
function bundleLength(bundle: Buffer, count: number): number {
  let at = 0;
  for (let i = 0; i < count; i++) {
    if (at + 2 > bundle.length) return -1;
    at += 2 + bundle.readUInt16BE(at);
  }
  return at;
}
