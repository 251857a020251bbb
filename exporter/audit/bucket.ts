/**
 * Checks what a bucket keeps besides the log's newest bytes: files that are written once have one version, no delete marker,
 * and the lock that they were written with; every version of the checkpoint, and every one that is kept under its size,
 * agrees with the log.
 */
import { each } from "../each.ts";
import type { Checkpoint } from "../log/checkpoint.ts";
import { MAX_NOTE_BYTES } from "../log/note.ts";
import { hashesAtLevel, parseTilePath, TILE_WIDTH, tilePath } from "../log/tile.ts";
import type { BucketView } from "./bucket-source.ts";
import type { Findings } from "./report.ts";
import type { Tiles } from "./tiles.ts";

/** Versions of the checkpoint that are compared, the newest first: a lifecycle rule should leave fewer. */
const MAX_CHECKPOINTS = 20_000;
/** Requests at the same time. */
const READS_AT_ONCE = 16;
/** Missing files that are looked for among those that can be restored. */
const MAX_MISSING = 16;

export type Opener = (note: Buffer) => Checkpoint | null;

export async function checkBucket(
  view: BucketView,
  tiles: Tiles,
  open: Opener,
  findings: Findings,
  notes: string[],
): Promise<number> {
  checkVersions(view, findings);
  const kept = await checkCheckpoints(view, tiles, open, findings, notes);
  checkLocks(view, findings, notes);
  await noteRemoved(view, tiles, notes);
  return lockedSize(view, tiles, kept);
}

/** Returns the size of the largest checkpoint that is locked now, as all full bundles below it are; 0 if there is none. */
function lockedSize(
  { locks }: BucketView,
  tiles: Tiles,
  kept: ReadonlyMap<string, number>,
): number {
  const now = Date.now();
  const isLocked = (path: string): boolean => (locks.get(path)?.now?.getTime() ?? 0) > now;
  let bundles = tiles.first / TILE_WIDTH;
  const full = Math.floor(tiles.size / TILE_WIDTH);
  while (bundles < full && isLocked(`log/${tilePath(tiles.tileAt("entries", bundles))}`)) bundles++;
  const limit = bundles === full ? tiles.size : bundles * TILE_WIDTH;
  const sizes = [...kept].filter(([path, size]) => size <= limit && isLocked(path));
  return Math.max(0, ...sizes.map(([, size]) => size));
}

/** Whether a path below a log's home is written once and never removed. */
function isWrittenOnce(path: string): boolean {
  if (path.startsWith("checkpoints/") || path.startsWith("anchors/")) return true;
  if (/^retention\/[0-9]{20}$/.test(path)) return true;
  return path.startsWith("log/") && parseTilePath(path.slice(4))?.width === TILE_WIDTH;
}

function checkVersions({ versions }: BucketView, findings: Findings): void {
  for (const [path, held] of versions) {
    const markers = held.filter(({ isDeleteMarker }) => isDeleteMarker);
    const real = held.length - markers.length;
    const isPartial = path.startsWith("log/tile/") && !isWrittenOnce(path);
    if (!isWrittenOnce(path) && !isPartial && path !== "log/checkpoint") continue;
    if (markers.length > 0 && !isPartial) {
      const message = `${path} has a delete marker of ${markers[0]?.modified.toISOString()}: somebody tried to delete it`;
      findings.add({ severity: "tampered", cause: "delete-marker", file: path, message });
    }
    if (real > 1 && path !== "log/checkpoint") {
      const message = `${path} has ${real} versions: somebody wrote over it`;
      findings.add({ severity: "tampered", cause: "extra-version", file: path, message });
    }
  }
}

async function checkCheckpoints(
  { versions, readVersion }: BucketView,
  tiles: Tiles,
  open: Opener,
  findings: Findings,
  notes: string[],
): Promise<Map<string, number>> {
  const all: { path: string; version: string; at: Date }[] = [];
  for (const [path, held] of versions) {
    if (path !== "log/checkpoint" && !path.startsWith("checkpoints/")) continue;
    for (const { version, isDeleteMarker, modified } of held) {
      if (!isDeleteMarker) all.push({ path, version, at: modified });
    }
  }
  all.sort((a, b) => b.at.getTime() - a.at.getTime());
  const kept = new Map<string, number>();
  const roots = new Map<number, Uint8Array | null>();
  await each(all.slice(0, MAX_CHECKPOINTS), READS_AT_ONCE, async ({ path, version, at }) => {
    const note = await readVersion(path, version, MAX_NOTE_BYTES);
    const checkpoint = note === null ? null : open(note);
    const file = path;
    if (checkpoint === null) {
      const message = `the version of ${path} of ${at.toISOString()} is not signed by a given key`;
      findings.add({ severity: "tampered", cause: "checkpoint", file, message });
      return;
    }
    const { size, root } = checkpoint;
    if (size > tiles.size) {
      const message = `${path} of ${at.toISOString()} covers ${size} entries, the log only ${tiles.size}: it was rolled back`;
      findings.add({ severity: "tampered", cause: "rolled-back", file, message });
      return;
    }
    if (!roots.has(size)) roots.set(size, size === 0 ? null : await tiles.root(size));
    const found = roots.get(size) ?? null;
    if (found === null || Buffer.from(found).equals(root)) {
      if (path !== "log/checkpoint") kept.set(path, size);
    } else {
      const message = `${path} of ${at.toISOString()} has another history of its ${size} entries`;
      findings.add({ severity: "tampered", cause: "two-histories", file, message });
    }
  });
  const left = all.length - MAX_CHECKPOINTS;
  if (left > 0) notes.push(`${left} older versions of the checkpoint were not compared.`);
  notes.push(
    `${Math.min(all.length, MAX_CHECKPOINTS)} versions of the checkpoint in the bucket agree or are named; the newest one kept under its size covers ${Math.max(0, ...kept.values())} of ${tiles.size} entries.`,
  );
  return kept;
}

/** Says which of the missing files the service could give back. */
async function noteRemoved(view: BucketView, tiles: Tiles, notes: string[]): Promise<void> {
  let looked = 0;
  for (const path of missing(view, tiles)) {
    if (looked++ === MAX_MISSING) return;
    const until = await view.findRemoved(path);
    if (until === undefined) continue;
    const time = until === null ? "" : ` until ${until.toISOString()}`;
    notes.push(`${path} was removed. The service still has it (soft delete)${time}: restore it.`);
  }
}

/** Full bundles and tiles that the log should have and of which there is no version. */
function* missing({ versions }: BucketView, tiles: Tiles): Generator<string> {
  for (const level of ["entries", 0, 1, 2, 3, 4, 5] as const) {
    const hashes = hashesAtLevel(tiles.size, level === "entries" ? 0 : level);
    const first = level === "entries" ? tiles.first / TILE_WIDTH : 0;
    for (let index = first; (index + 1) * TILE_WIDTH <= hashes; index++) {
      const path = `log/${tilePath({ level, index, width: TILE_WIDTH })}`;
      if (!versions.get(path)?.some(({ isDeleteMarker }) => !isDeleteMarker)) yield path;
    }
  }
}

function checkLocks({ locks }: BucketView, findings: Findings, notes: string[]): void {
  let locked = 0;
  let unlocked = 0;
  let unknown = 0;
  let first: Date | null = null;
  for (const [path, { promised, now }] of locks) {
    if (!isWrittenOnce(path)) continue;
    if (promised !== null && promised.getTime() < Date.now()) unlocked++;
    else if (promised !== null && now === undefined) unknown++;
    else if (promised !== null && (now === null || now === undefined || now < promised)) {
      const message = `${path} was locked until ${promised.toISOString()} and is now ${now ? `until ${now.toISOString()}` : "not locked"}: the bucket does not keep what it promised`;
      findings.add({ severity: "tampered", cause: "lock-shortened", file: path, message });
    } else if (now !== null && now !== undefined) {
      locked++;
      if (first === null || now < first) first = now;
    } else unlocked++;
  }
  if (locked > 0) {
    notes.push(
      `${locked} files are locked, as the bucket says, the first until ${first?.toISOString()}.`,
    );
  }
  if (unlocked > 0)
    notes.push(`${unlocked} files that are written once are not locked any more, or never were.`);
  if (unknown > 0)
    notes.push(`The locks of ${unknown} files could not be seen with these credentials.`);
}
