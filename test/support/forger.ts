/**
 * Logs made in memory, honest and forged: chains of entries, the tiles over them, and checkpoints. A forger can do all that an
 * operator can who has the signing key, and rebuilds everything.
 */

import type { Source } from "../../exporter/audit/source.ts";
import { signCheckpoint } from "../../exporter/log/checkpoint.ts";
import { leafHash } from "../../exporter/log/merkle.ts";
import { newSigner, parseVkey, type Signer, type Verifier } from "../../exporter/log/note.ts";
import { signReceipt } from "../../exporter/log/receipt.ts";
import { TILE_WIDTH, tilePath } from "../../exporter/log/tile.ts";
import { type TileBytes, Tree } from "../../exporter/log/tree.ts";
import { encodeEntry, type FieldValue } from "../../record/codec.ts";
import * as f from "../../record/fields.ts";

/** One entry with what it is made of, so that it can be made otherwise. */
export type Made = {
  readonly kind: number;
  readonly chain: Buffer;
  readonly seq: number;
  readonly prev: Uint8Array;
  readonly facts: readonly FieldValue[];
  readonly bytes: Buffer;
  readonly digest: Buffer;
};

export const signer: Signer = newSigner("forger.test/log", Buffer.alloc(32, 7));
export const log: Verifier = parseVkey(signer.vkey) as Verifier;
/** A key of the same name, as a thief of the name would make it. */
export const stranger: Signer = newSigner("forger.test/log", Buffer.alloc(32, 8));

export function make(
  kind: number,
  chain: Buffer,
  seq: number,
  prev: Uint8Array,
  facts: readonly FieldValue[],
): Made {
  const bytes = Buffer.from(
    encodeEntry([
      { number: f.F_KIND, value: kind },
      { number: f.F_CHAIN, value: chain },
      { number: f.F_SEQ, value: seq },
      { number: f.F_PREV, value: prev },
      { number: f.F_TIME, value: 1_795_000_000_000_000 + seq },
      { number: f.F_SALT, value: Buffer.alloc(16, seq) },
      ...facts,
    ]),
  );
  return { kind, chain, seq, prev, facts, bytes, digest: Buffer.from(leafHash(bytes)) };
}

/** The same entry with another path: what someone would want to change. */
export function altered(entry: Made): Made {
  const facts =
    entry.kind === f.KIND_REQUEST
      ? [{ number: f.F_STATUS, value: 404 }, ...entry.facts.slice(1)]
      : [...entry.facts, { number: f.F_CUT, value: f.F_PATH }];
  return make(entry.kind, entry.chain, entry.seq, entry.prev, facts);
}

/** An honest log: chains that take turns at random, with a heartbeat that carries a receipt now and then, some closed. */
export function honestLog(random: () => number, size: number, chainCount: number): Made[] {
  const heads = Array.from({ length: chainCount }, () => ({
    id: Buffer.from(Array.from({ length: 16 }, () => Math.floor(random() * 256))),
    seq: 0,
    prev: Buffer.alloc(32) as Buffer,
  }));
  const entries: Made[] = [];
  while (entries.length < size) {
    const chain = heads[Math.floor(random() * heads.length)];
    if (chain === undefined) break;
    let made: Made;
    if (chain.seq === 0) {
      made = make(f.KIND_OPEN, chain.id, 0, chain.prev, [{ number: f.F_FORMAT, value: 1 }]);
    } else if (random() < 0.08) {
      const receipt = receiptOf(entries, chain.id, chain.seq, chain.prev);
      made = make(f.KIND_HEARTBEAT, chain.id, chain.seq, chain.prev, [
        { number: f.F_RECEIPT, value: receipt },
      ]);
    } else {
      made = make(f.KIND_REQUEST, chain.id, chain.seq, chain.prev, [
        { number: f.F_STATUS, value: 200 },
        { number: f.F_METHOD, value: Buffer.from("GET") },
        { number: f.F_PATH, value: Buffer.from(`/cart/${entries.length}`) },
      ]);
    }
    entries.push(made);
    chain.seq++;
    chain.prev = made.digest;
  }
  return entries;
}

/** A receipt that the log could have given when it had these entries. */
export function receiptOf(
  entries: readonly Made[],
  chain: Buffer,
  nextSeq: number,
  head: Uint8Array,
): Buffer {
  const claim = {
    origin: signer.name,
    chain: chain.toString("hex"),
    nextSeq,
    head: Buffer.from(head).toString("hex"),
    treeSize: entries.length,
    treeRoot: build(entries).root,
  };
  return Buffer.from(signReceipt(claim, signer));
}

/** Tiles and root over entries. */
export function build(entries: readonly Made[]): { files: Map<string, Buffer>; root: Uint8Array } {
  const made: TileBytes[] = [];
  const tree = new Tree();
  for (const { bytes, digest } of entries) {
    const prefix = Buffer.of(bytes.length >> 8, bytes.length & 0xff, 0);
    for (const { tile, bytes: full } of tree.append(Buffer.concat([prefix, bytes]), digest)) {
      made.push({ tile, bytes: Buffer.from(full) });
    }
  }
  const files = new Map<string, Buffer>();
  for (const { tile, bytes } of [...made, ...tree.partials()]) files.set(tilePath(tile), bytes);
  return { files, root: tree.root() };
}

/** All files of a log of these entries, with a checkpoint by `key`. */
export function signed(entries: readonly Made[], key: Signer = signer): Map<string, Buffer> {
  const { files, root } = build(entries);
  const note = signCheckpoint({ origin: key.name, size: entries.length, root }, [key]);
  return files.set("checkpoint", Buffer.from(note));
}

export function sourceOf(files: ReadonlyMap<string, Buffer>): Source {
  return {
    read: async (path, limit) => {
      const bytes = files.get(path);
      return bytes === undefined || bytes.length > limit ? null : bytes;
    },
    list: async function* () {
      for (const path of files.keys()) yield { path, isFile: true };
    },
  };
}

/** Index of the first entry that does not go on where its chain was, or -1: what a reader with a pencil would find. */
export function firstBroken(entries: readonly Made[]): number {
  const heads = new Map<string, { next: number; head: Buffer }>();
  for (const [index, { chain, seq, prev, digest }] of entries.entries()) {
    const id = chain.toString("hex");
    const { next, head } = heads.get(id) ?? { next: 0, head: Buffer.alloc(32) };
    if (seq !== next || !head.equals(prev)) return index;
    heads.set(id, { next: seq + 1, head: digest });
  }
  return -1;
}

/** Path of the bundle that holds an entry in a log of `size`. */
export function bundleOf(index: number, size: number): string {
  const tile = Math.floor(index / TILE_WIDTH);
  const width = Math.min(TILE_WIDTH, size - tile * TILE_WIDTH);
  return tilePath({ level: "entries", index: tile, width });
}
