/** A thread of verify: reads spans, one after the other, until there are no more (spans.ts). */
import { parentPort, workerData } from "node:worker_threads";
import { openSource } from "./source.ts";
import { SpanReader, spansOf } from "./span.ts";
import { SpanQueue } from "./span-queue.ts";
import type { SpanAnswer, SpanTask } from "./spans.ts";
import { Tiles } from "./tiles.ts";
import { Unreachable } from "./unreachable.ts";

const { where, size, first, queue: shared } = workerData as SpanTask;
const queue = new SpanQueue(spansOf(size), shared);

async function read(reader: SpanReader, index: number): Promise<SpanAnswer> {
  try {
    return { index, span: await reader.read(index) };
  } catch (error) {
    if (error instanceof Unreachable) return { index, unreachable: error.message };
    throw error;
  }
}

const reader = new SpanReader(new Tiles(await openSource(where), size, first));
for (let index = queue.take(); index >= 0; index = queue.take()) {
  parentPort?.postMessage(await read(reader, index));
}
