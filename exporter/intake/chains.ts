/**
 * What the log holds of each chain: next seq, head, and where its entries lie. Pure but for the lookup of old digests.
 *
 * A chain's place in the log is kept as runs of neighbours, 16 bytes a batch, so that the digest of any seq can be found
 * again exactly: a replay is told from a fork at any depth.
 */

/** One chain. `head` is the digest of entry nextSeq - 1. */
export type Chain = {
  nextSeq: number;
  head: Uint8Array;
  /** First seq and first leaf index of each run, one after the other. */
  readonly runs: number[];
};

/** The chains of one log, by id in hex. */
export class Chains {
  readonly #chains = new Map<string, Chain>();

  get count(): number {
    return this.#chains.size;
  }

  get(id: string): Chain | undefined {
    return this.#chains.get(id);
  }

  /** Notes `count` entries of a chain from `seq` on at leaves from `index` on; `head` is the last one's digest. */
  extend(id: string, seq: number, index: number, count: number, head: Uint8Array): void {
    const chain = this.#chains.get(id);
    if (chain === undefined) {
      this.#chains.set(id, { nextSeq: seq + count, head, runs: [seq, index] });
      return;
    }
    const [runSeq = 0, runIndex = 0] = chain.runs.slice(-2);
    // Neighbours in chain and log alike go on in the same run.
    if (index - runIndex !== seq - runSeq) chain.runs.push(seq, index);
    chain.nextSeq = seq + count;
    chain.head = head;
  }
}

/** Returns the leaf index of `seq`, which the chain must hold. */
export function indexOf(chain: Chain, seq: number): number {
  let low = 0;
  let high = chain.runs.length / 2 - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((chain.runs[2 * middle] ?? 0) <= seq) low = middle;
    else high = middle - 1;
  }
  return (chain.runs[2 * low + 1] ?? 0) + seq - (chain.runs[2 * low] ?? 0);
}
