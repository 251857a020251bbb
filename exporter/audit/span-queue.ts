/** Which span is read next, for all threads: each takes the next one when it is done with its last, so none waits for another. */

const NEXT = 0;
const LIMIT = 1;
const WORDS = 2;

export class SpanQueue {
  readonly #count: number;
  /** Shared by all threads. */
  readonly shared: Int32Array;

  /** A queue of `count` spans, or another thread's. */
  constructor(
    count: number,
    shared: Int32Array = new Int32Array(
      new SharedArrayBuffer(WORDS * Int32Array.BYTES_PER_ELEMENT),
    ),
  ) {
    this.#count = count;
    this.shared = shared;
  }

  /** Lets spans below `limit` be taken: bounds what is read and not yet looked at. */
  allow(limit: number): void {
    Atomics.store(this.shared, LIMIT, limit);
    Atomics.notify(this.shared, LIMIT);
  }

  /** Returns the next span, -1 where none is allowed now. */
  tryTake(): number {
    for (;;) {
      const next = Atomics.load(this.shared, NEXT);
      if (next >= Math.min(this.#count, Atomics.load(this.shared, LIMIT))) return -1;
      if (Atomics.compareExchange(this.shared, NEXT, next, next + 1) === next) return next;
    }
  }

  /** Returns the next span once it is allowed, -1 after the last. Blocks its thread. */
  take(): number {
    for (;;) {
      const limit = Atomics.load(this.shared, LIMIT);
      const next = this.tryTake();
      if (next >= 0 || Atomics.load(this.shared, NEXT) >= this.#count) return next;
      Atomics.wait(this.shared, LIMIT, limit);
    }
  }
}
