/** Reads the spans of a log in order, on as many threads as there are cores where that is worth it. */
import { availableParallelism } from "node:os";
import { setImmediate as turn } from "node:timers/promises";
import type { Worker } from "node:worker_threads";
import { startThread } from "../thread.ts";
import type { Source } from "./source.ts";
import { type Span, SpanReader, spansOf } from "./span.ts";
import { SpanQueue } from "./span-queue.ts";
import type { Tiles } from "./tiles.ts";
import { Unreachable } from "./unreachable.ts";

/** A thread takes some hundredths of a second to start: fewer spans than this are read on this one. */
const MIN_SPANS = 4;

/** Spans for each thread that may be read before the one that is wanted: bounds the memory. */
const AHEAD = 4;

export type SpanTask = {
  readonly where: string;
  readonly size: number;
  readonly first: number;
  /** Of a SpanQueue. */
  readonly queue: Int32Array;
};
export type SpanAnswer =
  | { readonly index: number; readonly span: Span | null }
  | { readonly index: number; readonly unreachable: string };

/**
 * Yields the spans of the log in `source` from the first to the last. Throws Unreachable where it cannot be read. Uses as many
 * threads as there are cores, this one among them, or this one alone for a small log, unless `wanted` says how many.
 */
export async function* readSpans(
  source: Source,
  tiles: Tiles,
  wanted?: number,
): AsyncGenerator<Span | null> {
  const count = spansOf(tiles.size);
  const threads = wanted ?? (count < MIN_SPANS ? 1 : Math.min(availableParallelism(), count));
  const reader = new SpanReader(tiles);
  if (source.where === undefined || threads < 2) {
    for (let index = 0; index < count; index++) yield await reader.read(index);
    return;
  }
  const queue = new SpanQueue(count);
  const { size, first } = tiles;
  const pool = new Pool({ where: source.where, size, first, queue: queue.shared }, threads - 1);
  const ahead = threads * AHEAD;
  try {
    for (let index = 0; index < count; index++) {
      queue.allow(index + ahead);
      while (!pool.answers.has(index)) {
        const mine = queue.tryTake();
        if (mine < 0) await pool.next();
        else {
          pool.answers.set(mine, { index: mine, span: await reader.read(mine) });
          // Answers of the threads come in between.
          await turn();
        }
      }
      yield pool.take(index);
    }
  } finally {
    await pool.end();
  }
}

/** Threads that run span-thread.ts, and what they and this one have read. */
class Pool {
  readonly answers: Map<number, SpanAnswer> = new Map();
  readonly #threads: Worker[];
  #problem: unknown = null;
  #wake = (): void => {};

  constructor(task: SpanTask, threads: number) {
    this.#threads = Array.from({ length: threads }, () => {
      const thread = startThread(new URL("./span-thread", import.meta.url), task);
      thread.on("message", (answer: SpanAnswer) => {
        this.answers.set(answer.index, answer);
        this.#wake();
      });
      thread.on("error", (error) => {
        this.#problem = error;
        this.#wake();
      });
      return thread;
    });
  }

  /** Resolves when a thread has read another span. Rejects where one failed. */
  async next(): Promise<void> {
    if (this.#problem === null) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (this.#problem !== null) throw this.#problem;
  }

  /** Returns a span that was read, and lets it go. Throws Unreachable where it could not be. */
  take(index: number): Span | null {
    const answer = this.answers.get(index);
    this.answers.delete(index);
    if (answer === undefined) throw new RangeError(`span ${index} was not read`);
    if ("unreachable" in answer) throw new Unreachable(answer.unreachable);
    return answer.span;
  }

  async end(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.terminate()));
  }
}
