/** How many batches each sender may send a second: counted in windows of a second, each sender's from its own first on. */

const WINDOW_MS = 1000;
/** Senders that are remembered at a time. */
const MAX_SENDERS = 20_000;

export class Rates {
  readonly #max: number;
  readonly #now: () => number;
  /** When each window began and how many came in it; the newest come last. */
  readonly #windows = new Map<string, { began: number; count: number }>();

  constructor(max: number, now: () => number) {
    this.#max = max;
    this.#now = now;
  }

  /** Counts one batch of a sender. Returns false where that is more than it may send. */
  take(sender: string): boolean {
    const now = this.#now();
    const window = this.#windows.get(sender);
    if (window !== undefined && now - window.began < WINDOW_MS) return ++window.count <= this.#max;
    this.#windows.delete(sender);
    this.#windows.set(sender, { began: now, count: 1 });
    for (const oldest of this.#windows.keys()) {
      if (this.#windows.size <= MAX_SENDERS) break;
      this.#windows.delete(oldest);
    }
    return true;
  }
}
