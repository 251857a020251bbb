/**
 * Chains that have gone silent: no close came, nobody says that they were given up, and no batch for longer than is allowed. Their proxy
 * died, is cut off, or is held back. In memory: after a start it knows the chains that have spoken since. `meshseal chains` reads all from the log.
 */
import { bytesOf, decodeEntry } from "../../record/codec.ts";
import { F_ABANDONED_CHAIN, KIND_CLOSE, KIND_OPEN, KIND_SIGNATURE } from "../../record/fields.ts";

/** Chains that are remembered, the ones that spoke last. */
const MAX_CHAINS = 200_000;
/** A silent chain is told of for so long: then whoever looks has seen it, and the pod is long gone. */
const FORGET_MS = 24 * 3_600_000;

export class Silence {
  readonly #afterMs: number;
  readonly #now: () => number;
  /** When each chain spoke last, Unix milliseconds; who spoke last comes last. */
  readonly #heard = new Map<string, number>();

  constructor(afterMs: number, now: () => number) {
    this.#afterMs = afterMs;
    this.#now = now;
  }

  /** Takes the first entry of a batch, where it may be the chain's first, and the kinds of its last two. */
  heard(chain: string, first: Uint8Array | null, kinds: readonly [number, number]): void {
    this.#heard.delete(chain);
    const [before, last] = kinds;
    // A close can be signed: by the entry behind it.
    const isClosed = last === KIND_CLOSE || (last === KIND_SIGNATURE && before === KIND_CLOSE);
    if (!isClosed) this.#heard.set(chain, this.#now());
    const open = first === null ? null : decodeEntry(first);
    const old = open?.kind === KIND_OPEN ? bytesOf(open, F_ABANDONED_CHAIN) : undefined;
    if (old !== undefined) this.#heard.delete(Buffer.from(old).toString("hex"));
    // Asked first: to find the oldest is to pass over all that spoke since.
    if (this.#heard.size <= MAX_CHAINS) return;
    for (const oldest of this.#heard.keys()) {
      this.#heard.delete(oldest);
      if (this.#heard.size <= MAX_CHAINS) return;
    }
  }

  /** Chains that are silent now. */
  count(): number {
    const now = this.#now();
    let silent = 0;
    for (const [chain, at] of this.#heard) {
      if (now - at <= this.#afterMs) break;
      if (now - at > FORGET_MS) this.#heard.delete(chain);
      else silent++;
    }
    return silent;
  }
}
