/**
 * The statement of a log's keys: FORMAT.md section 5.7. A signed note whose text is
 *
 *     meshseal/v1/key
 *     <origin>
 *     <number of keys that sign from here on, decimal>
 *     <verifier key>            that many lines; the first signs receipts too
 *     <verifier key>            any number of lines: those that signed before and do no more
 *
 * signed by each of them. Pure. Whoever trusts one of the keys may learn of the others from it, as far as the entry that holds
 * it is trusted.
 */
import { parseDecimal } from "./checkpoint.ts";
import { openNote, parseNote, parseVkey, type Signer, signNote, type Verifier } from "./note.ts";

const LABEL = "meshseal/v1/key";

export type KeyStatement = {
  readonly origin: string;
  /** Those that sign from here on, and then those that signed before. */
  readonly keys: readonly Verifier[];
  /** How many of them sign from here on. */
  readonly current: number;
};

/** Returns the statement that `after` sign from here on, and `before` did, signed by all. */
export function signKeyStatement(after: readonly Signer[], before: readonly Signer[]): string {
  const current = new Set(after.map(({ vkey }) => vkey));
  const all = [...after, ...before.filter(({ vkey }) => !current.has(vkey))];
  const lines = [LABEL, all[0]?.name, after.length, ...all.map(({ vkey }) => vkey)];
  return signNote(`${lines.join("\n")}\n`, all);
}

/** Returns the statement in `bytes`, or null unless it is well formed and each key in it is the origin's and has signed. */
export function parseKeyStatement(bytes: Uint8Array): KeyStatement | null {
  const note = parseNote(bytes);
  const [label, origin, count, ...rest] = note?.text.split("\n") ?? [];
  if (label !== LABEL || origin === undefined || rest.pop() !== "") return null;
  const current = parseDecimal(count ?? "");
  if (current === null || current === 0 || current > rest.length) return null;
  const keys = rest.map(parseVkey).filter((key) => key !== null);
  if (keys.length !== rest.length || keys.some(({ name }) => name !== origin)) return null;
  return keys.every((key) => isSignedBy(bytes, key)) ? { origin, keys, current } : null;
}

/** Tells if `key` signed the note in `bytes`. */
export function isSignedBy(bytes: Uint8Array, key: Verifier): boolean {
  return openNote(bytes, [key]) !== null;
}
