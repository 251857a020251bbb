/** A Publisher on another thread: the same operations as messages. What `add` is given is shared or moved, not copied. */
import type { Worker } from "node:worker_threads";
import type { Checkpoint } from "./checkpoint.ts";
import type { Publisher } from "./publisher.ts";

/** What the sequencer needs of a publisher, on whatever thread it runs. */
export type Publishing = Pick<
  Publisher,
  "restore" | "add" | "recovered" | "publish" | "cosign" | "sync" | "close"
>;

export type Call =
  | { readonly operation: "restore"; readonly from: number }
  | { readonly operation: "add"; readonly record: Uint8Array; readonly leaves: Uint8Array }
  | { readonly operation: "cosign"; readonly size: number; readonly lines: readonly string[] }
  | { readonly operation: "recovered" | "publish" | "sync" | "close" };

export type Reply =
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: unknown }
  | { readonly isDiskFull: boolean }
  /** Why the store is away, or null. */
  | { readonly away: string | null }
  /** Somebody else's bytes were at the place of this file. */
  | { readonly foreign: string };

type Waiting = { readonly resolve: (value: never) => void; readonly reject: (e: unknown) => void };

export class RemotePublisher implements Publishing {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, Waiting>();
  #lastId = 0;
  isDiskFull = false;
  away: string | null = null;
  /** Places of files where somebody else's bytes were, since the start. */
  foreign = 0;
  readonly #onForeign: (key: string) => void;

  /** `worker` runs publisher-thread.ts. `onFatal` gets what ended it unasked, `onForeign` where other bytes were in the way. */
  constructor(
    worker: Worker,
    onFatal: (error: unknown) => void,
    onForeign: (key: string) => void = () => {},
  ) {
    this.#worker = worker;
    this.#onForeign = onForeign;
    this.#worker.on("message", (reply: Reply) => this.#take(reply));
    this.#worker.on("error", (error) => {
      for (const { reject } of this.#waiting.values()) reject(error);
      onFatal(error);
    });
  }

  restore(from: number): Promise<Checkpoint> {
    return this.#call({ operation: "restore", from });
  }

  /** Shares both buffers until it resolves, or moves them where they own an ArrayBuffer each. */
  add(record: Buffer, leaves: Buffer): Promise<void> {
    const buffers: unknown[] = [record.buffer, leaves.buffer];
    const moved = buffers.filter((buffer) => buffer instanceof ArrayBuffer);
    return this.#call({ operation: "add", record, leaves }, moved);
  }

  recovered(): Promise<Checkpoint> {
    return this.#call({ operation: "recovered" });
  }

  publish(): Promise<Checkpoint> {
    return this.#call({ operation: "publish" });
  }

  cosign(size: number, lines: readonly string[]): Promise<void> {
    return this.#call({ operation: "cosign", size, lines });
  }

  sync(): Promise<number> {
    return this.#call({ operation: "sync" });
  }

  close(): Promise<void> {
    return this.#call({ operation: "close" });
  }

  #call<T>(call: Call, moved: ArrayBuffer[] = []): Promise<T> {
    const id = ++this.#lastId;
    return new Promise<T>((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ ...call, id }, moved);
    });
  }

  #take(reply: Reply): void {
    if ("away" in reply) {
      this.away = reply.away;
      return;
    }
    if ("foreign" in reply) {
      this.foreign++;
      this.#onForeign(reply.foreign);
      return;
    }
    if ("isDiskFull" in reply) {
      this.isDiskFull = reply.isDiskFull;
      return;
    }
    const waiting = this.#waiting.get(reply.id);
    this.#waiting.delete(reply.id);
    if ("error" in reply) waiting?.reject(reply.error);
    else waiting?.resolve(reply.result as never);
  }
}
