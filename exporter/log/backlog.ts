/** How long the WAL can take entries while the store is away: its limit, its size, and how fast it grows. Pure. */

/** The rate is a mean in which a sample of this age counts for 1/e, in seconds. */
const MEMORY_SECONDS = 60;

export class Backlog {
  readonly #limitBytes: number;
  #bytes = 0;
  #room = Number.POSITIVE_INFINITY;
  #at: number | null = null;
  /** Bytes a second. */
  #rate = 0;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  /** Takes the size of the WAL, what is free on its disk, both in bytes, and the time in milliseconds. */
  sample(bytes: number, freeBytes: number, nowMs: number): void {
    if (this.#at !== null && nowMs > this.#at) {
      const seconds = (nowMs - this.#at) / 1000;
      const grown = Math.max(0, bytes - this.#bytes) / seconds;
      this.#rate += (grown - this.#rate) * (1 - Math.exp(-seconds / MEMORY_SECONDS));
    }
    this.#at = nowMs;
    this.#bytes = bytes;
    this.#room = freeBytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Bytes that still fit. */
  get leftBytes(): number {
    return Math.max(0, Math.min(this.#limitBytes - this.#bytes, this.#room));
  }

  get isFull(): boolean {
    return this.leftBytes === 0;
  }

  /** Seconds until it is full at the present rate; at most a year, which also stands for "it does not grow". */
  get secondsLeft(): number {
    const year = 365 * 86_400;
    return this.#rate <= 0 ? year : Math.min(year, Math.floor(this.leftBytes / this.#rate));
  }
}
