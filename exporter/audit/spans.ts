/** Reads the spans of a log in order, on as many threads as there are cores where that is worth it. */
import { availableParallelism } from "node:os";
import type { Worker } from "node:worker_threads";
import { startThread } from "../thread.ts";
import type { Source } from "./source.ts";
import { readSpan, type Span, spansOf } from "./span.ts";
import type { Tiles } from "./tiles.ts";
import { Unreachable } from "./unreachable.ts";

/** A thread costs some tenths of a second to start: fewer spans than this are read on this one. */
const MIN_SPANS = 4;

/** Spans that a thread may be ahead of the one that is wanted: bounds the memory. */
const AHEAD = 2;

export type SpanTask = { readonly where: string; readonly size: number; readonly first: number };
export type SpanAnswer =
  | { readonly index: number; readonly span: Span | null }
  | { readonly index: number; readonly unreachable: string };

/**
 * Yields the spans of the log in `source` from the first to the last. Throws Unreachable where it cannot be read. Uses as many
 * threads as there are cores, or one for a small log, unless `wanted` says how many.
 */
export async function* readSpans(
  source: Source,
  tiles: Tiles,
  wanted?: number,
): AsyncGenerator<Span | null> {
  const count = spansOf(tiles.size);
  const threads = wanted ?? (count < MIN_SPANS ? 1 : Math.min(availableParallelism(), count));
  if (source.where === undefined || threads < 2) {
    for (let index = 0; index < count; index++) yield await readSpan(tiles, index);
    return;
  }
  const pool = new Pool({ where: source.where, size: tiles.size, first: tiles.first }, threads);
  try {
    const asked: Promise<SpanAnswer>[] = [];
    for (let index = 0; index < count; index++) {
      while (asked.length < Math.min(count, index + threads * AHEAD)) {
        asked.push(pool.read(asked.length));
      }
      const answer = await (asked[index] as Promise<SpanAnswer>);
      // What was looked at is let go.
      delete asked[index];
      if ("unreachable" in answer) throw new Unreachable(answer.unreachable);
      yield answer.span;
    }
  } finally {
    await pool.end();
  }
}

type Waiting = {
  readonly resolve: (answer: SpanAnswer) => void;
  readonly reject: (error: unknown) => void;
};

/** Threads that run span-thread.ts. Which one reads a span is settled when it is asked for. */
class Pool {
  readonly #threads: Worker[];
  readonly #waiting = new Map<number, Waiting>();
  #problem: unknown = null;

  constructor(task: SpanTask, threads: number) {
    this.#threads = Array.from({ length: threads }, () => {
      const thread = startThread(new URL("./span-thread", import.meta.url), task);
      thread.on("message", (answer: SpanAnswer) => {
        this.#waiting.get(answer.index)?.resolve(answer);
        this.#waiting.delete(answer.index);
      });
      thread.on("error", (error) => {
        this.#problem = error;
        for (const { reject } of this.#waiting.values()) reject(error);
      });
      return thread;
    });
  }

  read(index: number): Promise<SpanAnswer> {
    const answer = new Promise<SpanAnswer>((resolve, reject) => {
      if (this.#problem !== null) reject(this.#problem);
      this.#waiting.set(index, { resolve, reject });
      this.#threads[index % this.#threads.length]?.postMessage(index);
    });
    answer.catch(() => undefined);
    return answer;
  }

  async end(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.terminate()));
  }
}
