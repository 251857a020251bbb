/**
 * Copies of the proofs in the log's bucket: each final proof, and the checkpoint that it is of, is written there once, locked like the log's
 * own files, under the same path as beside the log. What was not copied before a stop is copied after the next start.
 */
import type { Bucket } from "../store/bucket.ts";
import { type ProofName, type Proofs, pathOf } from "./proofs.ts";

export type CopiesOptions = {
  /** One that does not give up (store/patience.ts): a bucket that is away holds up the copies, and nothing else. */
  readonly bucket: Pick<Bucket, "create" | "versions">;
  /** Key prefix of the log. */
  readonly home: string;
  /** Locked for this long, in milliseconds; 0 for not at all. */
  readonly lockMs: number;
  readonly onFailed: (path: string, error: unknown) => void;
};

/** Paths that are remembered as copied. */
const MAX_REMEMBERED = 10_000;

export class Copies {
  readonly #options: CopiesOptions;
  readonly #waiting = new Map<string, Buffer>();
  readonly #copied = new Set<string>();
  #copying: Promise<void> = Promise.resolve();
  #isCopying = false;

  constructor(options: CopiesOptions) {
    this.#options = options;
  }

  /** Takes a file of the proofs that does not change any more. */
  add(path: string, bytes: Buffer): void {
    if (this.#copied.has(path)) return;
    this.#waiting.set(path, bytes);
    if (!this.#isCopying) this.#copying = this.#copy();
  }

  /** Takes all of `known` that the bucket does not have. */
  async addMissing(known: readonly ProofName[], proofs: Proofs): Promise<void> {
    const prefix = `${this.#options.home}anchors/`;
    for await (const { key } of this.#options.bucket.versions(prefix))
      this.#copied.add(key.slice(prefix.length));
    for (const proof of known) {
      const checkpoint = `${proof.day}/${proof.size}.checkpoint`;
      if (proof.isPending || (this.#copied.has(pathOf(proof)) && this.#copied.has(checkpoint)))
        continue;
      this.add(checkpoint, await proofs.readCheckpoint(proof));
      this.add(pathOf(proof), await proofs.read(proof));
    }
  }

  /** Resolves when all is copied, or after `ms`. */
  async finish(ms: number): Promise<void> {
    const late = new Promise<void>((resolve) => setTimeout(resolve, ms).unref());
    await Promise.race([this.#copying, late]);
  }

  async #copy(): Promise<void> {
    this.#isCopying = true;
    const { bucket, home, lockMs, onFailed } = this.#options;
    for (const [path, bytes] of this.#waiting) {
      try {
        const until = lockMs === 0 ? null : new Date(Date.now() + lockMs);
        // Null: it is there already. What is there counts, and verify reads it.
        await bucket.create(`${home}anchors/${path}`, bytes, until);
        this.#copied.add(path);
        for (const oldest of this.#copied) {
          if (this.#copied.size <= MAX_REMEMBERED) break;
          this.#copied.delete(oldest);
        }
      } catch (error) {
        onFailed(path, error);
      }
      this.#waiting.delete(path);
    }
    this.#isCopying = false;
  }
}
