/**
 * Where a log that was pruned begins, as a start finds it. What stands beside the log anyone may have put there who can write files: only
 * a `retention` entry below a checkpoint of this log's key counts, and only the text that it has the digest of.
 */
import { createHash } from "node:crypto";
import { bytesOf, decodeEntry, uintOf } from "../../record/codec.ts";
import {
  DIGEST_BYTES,
  F_RETENTION_DIGEST,
  F_RETENTION_INDEX,
  KIND_RETENTION,
} from "../../record/fields.ts";
import { ProvenTiles } from "../audit/proven.ts";
import { retentionName } from "../audit/retention-texts.ts";
import { Tiles } from "../audit/tiles.ts";
import { MeshsealError } from "../errors.ts";
import type { Chains } from "../intake/chains.ts";
import { openCheckpoint } from "../log/checkpoint.ts";
import type { Verifier } from "../log/note.ts";
import { PRUNE_STEP, parseRetention, type RetentionState } from "../log/retention.ts";
import { parseBundle, TILE_WIDTH } from "../log/tile.ts";
import type { Shelf } from "./shelf.ts";

/** What the newest `retention` entry says. */
export type Begin = {
  /** Entries below it may be gone. */
  readonly minimum: number;
  /** Of the text that stands for them. */
  readonly digest: Uint8Array;
};

/** A log that was never pruned. */
export const FROM_THE_FIRST: Begin = { minimum: 0, digest: new Uint8Array(DIGEST_BYTES) };

/** Says where the newest retention entry is: a hint, which is checked. */
export const NEWEST_FILE = "newest";

export type BeginOptions = {
  readonly shelf: Shelf;
  /** Returns a published file of the log. */
  readonly read: (path: string) => Promise<Buffer | null>;
  readonly verifiers: readonly Verifier[];
};

export async function findBegin({ shelf, read, verifiers }: BeginOptions): Promise<Begin> {
  const hint = await shelf.get(NEWEST_FILE);
  if (hint === null && (await shelf.texts()).length === 0) return FROM_THE_FIRST;
  const note = await read("checkpoint");
  const checkpoint = note === null ? null : openCheckpoint(note, ...verifiers);
  if (checkpoint === null) return FROM_THE_FIRST;
  const proven = await ProvenTiles.open(new Tiles({ read }, checkpoint.size), checkpoint.root);
  if (proven === null) return FROM_THE_FIRST;
  const said = /^(0|[1-9][0-9]{0,14})\n$/.exec(hint?.toString("latin1") ?? "")?.[1];
  const index = said === undefined ? checkpoint.size : Number(said);
  const begin =
    index >= checkpoint.size ? null : saidIn(await bundleOf(proven, index), index % TILE_WIDTH);
  return begin ?? (await lastIn(shelf, proven));
}

async function bundleOf(proven: ProvenTiles, index: number): Promise<Uint8Array[]> {
  const tile = Math.floor(index / TILE_WIDTH);
  const bundle = await proven.bundle(tile);
  const { width } = proven.tiles.tileAt("entries", tile);
  return (bundle && parseBundle(bundle, width)) ?? [];
}

/** Returns what an entry says, if it is a retention entry. */
function saidIn(entries: readonly Uint8Array[], at: number): Begin | null {
  const entry = decodeEntry(entries[at] ?? new Uint8Array());
  if (entry?.kind !== KIND_RETENTION) return null;
  const minimum = uintOf(entry, F_RETENTION_INDEX) ?? -1;
  const digest = bytesOf(entry, F_RETENTION_DIGEST);
  const isOne = minimum > 0 && minimum % PRUNE_STEP === 0;
  return isOne && digest !== undefined ? { minimum, digest } : null;
}

/** Where the hint is gone or wrong: looks at every entry that is there. */
async function lastIn(shelf: Shelf, proven: ProvenTiles): Promise<Begin> {
  let found = FROM_THE_FIRST;
  const { size } = proven.tiles;
  const look = async (index: number): Promise<void> => {
    const entries = await bundleOf(proven, index);
    for (const at of entries.keys()) found = saidIn(entries, at) ?? found;
  };
  for await (const { index } of shelf.bundles(size)) await look(index * TILE_WIDTH);
  if (size % TILE_WIDTH > 0) await look(size);
  return found;
}

/** Returns the text that `begin` is of. Throws MeshsealError where it is not there, or is another. */
export async function readState(shelf: Shelf, { minimum, digest }: Begin): Promise<RetentionState> {
  const name = retentionName(minimum);
  const text = await shelf.get(name);
  const isIt = text !== null && createHash("sha256").update(text).digest().equals(digest);
  const state = isIt ? parseRetention(text) : null;
  if (state === null)
    throw new MeshsealError(
      `retention/${name} is missing, or is not the text that the log names: restore it from a copy.`,
    );
  return state;
}

/** Gives the index of chains what it needs of pruned entries, where it was made anew. Throws MeshsealError where that is lost. */
export async function restoreChains(shelf: Shelf, begin: Begin, chains: Chains): Promise<void> {
  if (chains.size >= begin.minimum) return;
  const state = await readState(shelf, begin);
  for (const [id, { next, head, sender }] of state.chains)
    chains.restore(id, next, head, sender.toString());
}
