/**
 * Retention and holds in a running exporter: one thing after the other, of what is asked for and of what needs time. What a store
 * still keeps locked stays, and is tried again each hour.
 */
import type { Logger } from "pino";
import type { FieldValue } from "../../record/codec.ts";
import type { Signer, Verifier } from "../log/note.ts";
import type { Begin } from "./begin.ts";
import { HoldBook } from "./hold-book.ts";
import type { Hold } from "./holds.ts";
import { Pruner, type Retained, type Wish } from "./pruner.ts";
import { Published, type PublishedOptions } from "./published.ts";
import type { Shelf } from "./shelf.ts";

const HOUR_MS = 3_600_000;
/** Each look for new bundles of a hold lists those that are there. */
const LEGAL_MS = 600_000;

export type KeeperOptions = Omit<PublishedOptions, "signal"> & {
  readonly origin: string;
  readonly shelf: Shelf;
  readonly signer: Signer;
  readonly verifiers: readonly Verifier[];
  /** What was found at the start. */
  readonly begin: Begin;
  /** Writes an entry of the log's own chain. */
  readonly write: (kind: number, fields: readonly FieldValue[]) => Promise<void>;
  readonly logger: Pick<Logger, "info" | "warn" | "error">;
};

export type RetentionStatus = {
  readonly minimumIndex: number;
  /** Bundles below it that are still there, and why. */
  readonly left: number;
  readonly because: string | null;
  readonly holds: readonly (Hold & { readonly name: string })[];
  /** Why the legal holds of a bucket are not as they should be, or null. */
  readonly legalHolds: string | null;
};

export class Keeper {
  readonly #options: KeeperOptions;
  readonly #stopping = new AbortController();
  readonly #pruner: Pruner;
  readonly #book: HoldBook;
  readonly #timers: NodeJS.Timeout[] = [];
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: KeeperOptions) {
    const { signal } = this.#stopping;
    const published = new Published({ ...options, signal });
    this.#options = options;
    this.#pruner = new Pruner({ ...options, published, signal, held: () => this.#book.held() });
    this.#book = new HoldBook({ ...options, published, signal, begin: () => this.#pruner.begin });
  }

  /** Entries below it may be gone. */
  get minimum(): number {
    return this.#pruner.begin.minimum;
  }

  /** Takes up what a start before left undone, and goes on with what needs time. */
  start(): void {
    const quietly = (work: () => Promise<void>): void => {
      this.#inTurn(work).catch((err: unknown) =>
        this.#options.logger.warn({ err }, "retention has to wait"),
      );
    };
    quietly(async () => {
      await this.#pruner.prune();
      await this.#book.applyLegal();
    });
    this.#timers.push(setInterval(() => quietly(() => this.#pruner.prune()), HOUR_MS));
    if (this.#options.shelf.legalHold !== undefined)
      this.#timers.push(setInterval(() => quietly(() => this.#book.applyLegal()), LEGAL_MS));
  }

  async stop(): Promise<void> {
    this.#stopping.abort(new Error("stopping"));
    for (const timer of this.#timers) clearInterval(timer);
    await this.#last;
  }

  status(): Promise<RetentionStatus> {
    return this.#inTurn(async () => ({
      minimumIndex: this.minimum,
      left: this.#pruner.left,
      because: this.#pruner.because,
      holds: [...(await this.#book.held())].map(([name, hold]) => ({ name, ...hold })),
      legalHolds: this.#book.legal,
    }));
  }

  /** As Pruner.retain. */
  retain(wish: Wish, isTrial: boolean): Promise<Retained> {
    return this.#inTurn(() => this.#pruner.retain(wish, isTrial));
  }

  /** As HoldBook.place. */
  place(name: string, from: number, to: number | null, reason: string): Promise<Hold> {
    return this.#inTurn(() => this.#book.place(name, from, to, reason));
  }

  /** As HoldBook.lift. */
  lift(name: string, reason: string): Promise<void> {
    return this.#inTurn(() => this.#book.lift(name, reason));
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#last.then(work);
    this.#last = run.catch(() => undefined);
    return run;
  }
}
