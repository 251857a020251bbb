/**
 * Keys that a log says it had before or beside the ones the verifier trusts: FORMAT.md section 5.7. They judge receipts inside
 * entries, and nothing else: a checkpoint is for the keys from outside alone. Pure.
 */
import { type KeyStatement, parseKeyStatement } from "../log/key-statement.ts";
import type { Verifier } from "../log/note.ts";

/** Statements kept at most: a log rotates its keys a few times in its life. */
const MAX_STATEMENTS = 100;

export class LearnedKeys {
  readonly #statements: KeyStatement[] = [];

  /** Takes the statement of an entry below a trusted checkpoint; what is none is left out. */
  add(statement: Uint8Array): void {
    if (this.#statements.length >= MAX_STATEMENTS) return;
    const parsed = parseKeyStatement(statement);
    if (parsed !== null) this.#statements.push(parsed);
  }

  /** Returns the keys of `origin` that follow from `trusted` in any number of statements, without `trusted` themselves. */
  from(trusted: readonly Verifier[], origin: string): Verifier[] {
    const known = new Map(trusted.map((key) => [key.vkey, key]));
    const learned: Verifier[] = [];
    const statements = this.#statements.filter((statement) => statement.origin === origin);
    for (let before = -1; before !== known.size; ) {
      before = known.size;
      for (const { keys } of statements) {
        if (!keys.some(({ vkey }) => known.has(vkey))) continue;
        for (const key of keys) {
          if (known.has(key.vkey)) continue;
          known.set(key.vkey, key);
          learned.push(key);
        }
      }
    }
    return learned;
  }
}
