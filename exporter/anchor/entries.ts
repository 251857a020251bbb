/** What a log writes about its anchors and peers, on its own chain, at most once a minute. */
import type { FieldValue } from "../../record/codec.ts";
import {
  F_ANCHOR,
  F_ANCHOR_PROOF,
  F_ANCHOR_SIZE,
  F_ANCHOR_TIME,
  F_OUTSIDE_FROM,
  F_OUTSIDE_SIZE,
  F_OUTSIDE_TIME,
  F_PEER_CHECKPOINT,
  F_PEER_KEY,
  F_PEER_ORIGIN,
  MAX_ANCHORS,
  MAX_PEER_CHECKPOINT,
  MAX_PEERS,
  MAX_STEPS,
} from "../../record/fields.ts";
import { sha256 } from "../log/merkle.ts";
import type { Verifier } from "../log/note.ts";
import type { Kept } from "./runner.ts";

/** Entries from `from` to below `size` that an outsider first saw at `time`, Unix milliseconds. */
export type Step = { readonly from: number; readonly size: number; readonly time: number };

/** What outsiders first saw since the last entry, in few steps. */
export class Steps {
  #steps: Step[] = [];

  /** Takes a step that begins where the one before ended. Of too many the last two become one: later is not better than it was. */
  add(step: Step): void {
    const last = this.#steps.length < MAX_STEPS ? undefined : this.#steps.pop();
    this.#steps.push({ ...step, from: last?.from ?? step.from });
  }

  take(): Step[] {
    return this.#steps.splice(0);
  }
}

/** Returns the fields of `anchors`: the newest proof of each anchor of these, and the steps; null if there are none. */
export function anchorsEntry(kept: readonly Kept[], steps: readonly Step[]): FieldValue[] | null {
  const newest = [...new Map(kept.map((proof) => [proof.name, proof])).values()].slice(
    0,
    MAX_ANCHORS,
  );
  if (newest.length + steps.length === 0) return null;
  return [
    ...newest.map(({ name }) => ({ number: F_ANCHOR, value: Buffer.from(name) })),
    ...newest.map(({ size }) => ({ number: F_ANCHOR_SIZE, value: size })),
    ...newest.map(({ at }) => ({ number: F_ANCHOR_TIME, value: at * 1000 })),
    ...newest.map(({ bytes }) => ({ number: F_ANCHOR_PROOF, value: sha256(bytes) })),
    ...steps.map(({ from }) => ({ number: F_OUTSIDE_FROM, value: from })),
    ...steps.map(({ size }) => ({ number: F_OUTSIDE_SIZE, value: size })),
    ...steps.map(({ time }) => ({ number: F_OUTSIDE_TIME, value: time * 1000 })),
  ];
}

/** Returns the fields of `peers`: each peer's origin, key and last checkpoint (empty if it never sent one); null if there are none. */
export function peersEntry(
  peers: readonly Verifier[],
  checkpoints: ReadonlyMap<string, Buffer>,
): FieldValue[] | null {
  const some = peers.slice(0, MAX_PEERS);
  if (some.length === 0) return null;
  return [
    ...some.map(({ name }) => ({ number: F_PEER_ORIGIN, value: Buffer.from(name) })),
    ...some.map(({ vkey }) => ({ number: F_PEER_KEY, value: Buffer.from(vkey) })),
    ...some.map(({ name }) => {
      const note = checkpoints.get(name) ?? Buffer.alloc(0);
      const value = note.length <= MAX_PEER_CHECKPOINT ? note : Buffer.alloc(0);
      return { number: F_PEER_CHECKPOINT, value };
    }),
  ];
}
