/** Counts what was refused, by cause, and writes it into the log as a summary: at most once a minute, an entry a cause. */
import { hash } from "node:crypto";
import {
  F_REFUSED_CAUSE,
  F_REFUSED_COUNT,
  F_REFUSED_DIGEST,
  KIND_REFUSED,
  MAX_REFUSED_DIGESTS,
} from "../../record/fields.ts";
import type { OwnChain } from "./own-chain.ts";

type Refused = { count: number; readonly digests: Buffer[] };

export class Refusals {
  readonly #byCause = new Map<string, Refused>();

  /** Counts one refusal. `cause` is a word of FORMAT.md section 5.3. */
  count(cause: string): void {
    this.#of(cause).count++;
  }

  /** Remembers the digest of a batch that was refused for good. */
  keep(cause: string, batch: Uint8Array): void {
    const { digests } = this.#of(cause);
    if (digests.length < MAX_REFUSED_DIGESTS) digests.push(hash("sha256", batch, "buffer"));
  }

  /** Writes an entry for each cause there is, and starts again from nothing. */
  async write(own: OwnChain): Promise<void> {
    const all = [...this.#byCause];
    this.#byCause.clear();
    for (const [cause, { count, digests }] of all) {
      await own.write(KIND_REFUSED, [
        { number: F_REFUSED_CAUSE, value: Buffer.from(cause) },
        { number: F_REFUSED_COUNT, value: count },
        ...digests.map((value) => ({ number: F_REFUSED_DIGEST, value })),
      ]);
    }
  }

  #of(cause: string): Refused {
    let refused = this.#byCause.get(cause);
    if (refused === undefined) {
      refused = { count: 0, digests: [] };
      this.#byCause.set(cause, refused);
    }
    return refused;
  }
}
