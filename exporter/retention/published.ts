/** The log as retention needs it: what a checkpoint covers, each byte held against the newest one. */
import { ProvenTiles } from "../audit/proven.ts";
import { Tiles } from "../audit/tiles.ts";
import { MeshsealError } from "../errors.ts";
import type { Checkpoint } from "../log/checkpoint.ts";

const LOOK_MS = 50;

export type PublishedOptions = {
  readonly log: {
    readonly size: number;
    readonly checkpoint: Pick<Checkpoint, "size" | "root">;
    readonly publish: () => Promise<void>;
  };
  /** Returns a published file of the log. */
  readonly read: (path: string) => Promise<Buffer | null>;
  /** Ends what waits. */
  readonly signal: AbortSignal;
};

export class Published {
  readonly #options: PublishedOptions;

  constructor(options: PublishedOptions) {
    this.#options = options;
  }

  /** Of the newest checkpoint. */
  get size(): number {
    return this.#options.log.checkpoint.size;
  }

  /** Resolves when a checkpoint covers all that is in the log now. Where another exporter has taken it over, this rejects. */
  async catchUp(): Promise<void> {
    const { log, signal } = this.#options;
    const { size } = log;
    while (this.size < size) {
      signal.throwIfAborted();
      await log.publish();
      if (this.size < size) await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
  }

  /** Throws MeshsealError where the newest tiles are missing or damaged. */
  async open(): Promise<ProvenTiles> {
    const { log, read } = this.#options;
    for (;;) {
      const { size, root } = log.checkpoint;
      const proven = await ProvenTiles.open(new Tiles({ read }, size), root);
      if (proven !== null) return proven;
      // The edge may have moved on meanwhile.
      if (log.checkpoint.size === size)
        throw new MeshsealError("the log's newest tiles are missing or damaged: run verify.");
    }
  }
}
