/** The newest checkpoint with cosignatures, as they arrive: one that has the quorum gives way only to another that has it. */
import { addLines, openNote } from "../log/note.ts";
import { hasQuorum, type TlogPolicy } from "../log/tlog-policy.ts";
import type { Subject } from "./anchor.ts";

/** Sizes that cosignatures are gathered for at a time. */
const MAX_OPEN = 8;

export class Cosigned {
  readonly #policy: TlogPolicy;
  readonly #notes = new Map<number, string>();
  #size = -1;
  #hasQuorum = false;

  constructor(policy: TlogPolicy) {
    this.#policy = policy;
  }

  /** Takes verified lines. Returns the note to be kept in place of the last one, or null. */
  add({ size, note }: Subject, lines: readonly string[]): Buffer | null {
    const cosigned = addLines(this.#notes.get(size) ?? note.toString(), lines);
    this.#notes.set(size, cosigned);
    for (const held of this.#notes.keys())
      if (this.#notes.size > MAX_OPEN) this.#notes.delete(held);
    const isQuorum = this.#isQuorum(Buffer.from(cosigned));
    if (size < this.#size || (this.#hasQuorum && !isQuorum)) return null;
    this.#size = size;
    this.#hasQuorum = isQuorum;
    return Buffer.from(cosigned);
  }

  #isQuorum(note: Buffer): boolean {
    const cosigners = this.#policy.witnesses.filter(
      ({ verifier }) => openNote(note, [verifier]) !== null,
    );
    return hasQuorum(this.#policy, new Set(cosigners.map(({ name }) => name)));
  }
}

/** Returns the subject's checkpoint with no line but those of the log `origin`: what is shown to outsiders. */
export function onlyOwnLines(note: Buffer, origin: string): Buffer {
  const text = note.toString();
  const split = text.lastIndexOf("\n\n") + 2;
  const own = text
    .slice(split)
    .split(/(?<=\n)/)
    .filter((line) => line.startsWith(`— ${origin} `));
  return Buffer.from(text.slice(0, split) + own.join(""));
}
