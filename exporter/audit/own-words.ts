/**
 * What a log says of itself about its outsiders (FORMAT.md 3.5): which proofs it got, when an outsider first saw how much of it, and what it last
 * saw of its peers. It proves nothing against the operator; what is not there although the log says so is missing all the same. Pure.
 */
import type { Entry, FieldValue } from "../../record/codec.ts";
import {
  F_ANCHOR,
  F_ANCHOR_PROOF,
  F_ANCHOR_SIZE,
  F_OUTSIDE_FROM,
  F_OUTSIDE_SIZE,
  F_OUTSIDE_TIME,
  F_PEER_CHECKPOINT,
  F_PEER_KEY,
  F_PEER_ORIGIN,
  KIND_ANCHORS,
  KIND_PEERS,
} from "../../record/fields.ts";
import type { Step } from "../anchor/entries.ts";

/** Proofs that are remembered at most, the first ones: one a minute by three outsiders for a year. */
const MAX_PROOFS = 1_600_000;
const MAX_PEERS = 1_000;
const MAX_STEPS = 1_000_000;

/** Another log as this one saw it last. */
export type PeerSeen = {
  readonly origin: string;
  readonly vkey: string;
  /** Its checkpoint; empty if it never showed one. */
  readonly note: Buffer;
};

export class OwnWords {
  /** SHA-256 of each proof's file in hex, by `proofKey`: a pending one and what became of it have the same. */
  readonly proofs: Map<string, Set<string>> = new Map();
  readonly steps: Step[] = [];
  readonly peers: Map<string, PeerSeen> = new Map();

  /** Takes an entry of any kind. */
  visit(entry: Entry): void {
    if (entry.kind === KIND_ANCHORS) this.#anchors(entry);
    if (entry.kind === KIND_PEERS) this.#peers(entry);
  }

  #anchors(entry: Entry): void {
    const names = valuesOf(entry, F_ANCHOR).map(text);
    const sizes = valuesOf(entry, F_ANCHOR_SIZE);
    const digests = valuesOf(entry, F_ANCHOR_PROOF).map(hex);
    for (const [i, name] of names.entries()) {
      const [size, digest] = [sizes[i], digests[i]];
      if (typeof size !== "number" || digest === undefined) continue;
      const key = proofKey(name, size);
      const held = this.proofs.get(key);
      if (held !== undefined) held.add(digest);
      else if (this.proofs.size < MAX_PROOFS) this.proofs.set(key, new Set([digest]));
    }
    const from = valuesOf(entry, F_OUTSIDE_FROM);
    const to = valuesOf(entry, F_OUTSIDE_SIZE);
    for (const [i, time] of valuesOf(entry, F_OUTSIDE_TIME).entries()) {
      const [first, size] = [from[i], to[i]];
      if (typeof first !== "number" || typeof size !== "number" || typeof time !== "number")
        continue;
      if (first < size && this.steps.length < MAX_STEPS)
        this.steps.push({ from: first, size, time: time / 1000 });
    }
  }

  #peers(entry: Entry): void {
    const keys = valuesOf(entry, F_PEER_KEY).map(text);
    const notes = valuesOf(entry, F_PEER_CHECKPOINT);
    for (const [i, name] of valuesOf(entry, F_PEER_ORIGIN).entries()) {
      const origin = text(name);
      const note = notes[i];
      if (typeof note !== "object" || (this.peers.size >= MAX_PEERS && !this.peers.has(origin)))
        continue;
      // An empty one says less than one from before a restart.
      if (note.length === 0 && this.peers.has(origin)) continue;
      this.peers.set(origin, { origin, vkey: keys[i] ?? "", note: Buffer.from(note) });
    }
  }
}

/** Returns what stands for the proof of a checkpoint of `size` by the anchor `name`. */
export function proofKey(name: string, size: number): string {
  return `${size} ${name}`;
}

function valuesOf({ fields }: Entry, number: number): FieldValue["value"][] {
  return fields.filter((field) => field.number === number).map(({ value }) => value);
}

function text(value: FieldValue["value"]): string {
  return typeof value === "number" ? "" : Buffer.from(value).toString();
}

function hex(value: FieldValue["value"]): string {
  return typeof value === "number" ? "" : Buffer.from(value).toString("hex");
}
