/** A thread of verify: reads the spans that it is told to, one after the other (spans.ts). */
import { parentPort, workerData } from "node:worker_threads";
import { openSource } from "./source.ts";
import { readSpan } from "./span.ts";
import type { SpanAnswer, SpanTask } from "./spans.ts";
import { Tiles } from "./tiles.ts";
import { Unreachable } from "./unreachable.ts";

const { where, size, first } = workerData as SpanTask;
const tiles = new Tiles(await openSource(where), size, first);

async function read(index: number): Promise<SpanAnswer> {
  try {
    return { index, span: await readSpan(tiles, index) };
  } catch (error) {
    if (error instanceof Unreachable) return { index, unreachable: error.message };
    throw error;
  }
}

let last: Promise<unknown> = Promise.resolve();
parentPort?.on("message", (index: number) => {
  last = last.then(async () => parentPort?.postMessage(await read(index)));
});
