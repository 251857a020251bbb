/**
 * What a receipt waits for, and when none is given: on the WAL's fsync, or with `ack: store` until a checkpoint over the
 * entries is in the store; never where another exporter may have taken the log over; and not at all while the store is
 * away for longer than the WAL has room for.
 */
import type { Sequencer } from "../log/sequencer.ts";
import type { Log } from "./intake.ts";

export type AcksOptions = {
  readonly log: Sequencer;
  readonly ack: "wal" | "store";
  /** Whether this process still has the log for itself. */
  readonly isHeld: () => boolean;
  /** Why no batch can be taken now, or null. */
  readonly refusing: () => string | null;
};

export class Acks implements Log {
  readonly #options: AcksOptions;
  #publishing: Promise<void> | null = null;

  constructor(options: AcksOptions) {
    this.#options = options;
  }

  get checkpoint(): Log["checkpoint"] {
    return this.#options.log.checkpoint;
  }

  get isDiskFull(): boolean {
    return this.#options.log.isDiskFull;
  }

  get waitingBytes(): number {
    return this.#options.log.waitingBytes;
  }

  get refusing(): string | null {
    return this.#options.refusing();
  }

  append(entries: Buffer, leaves: Buffer): { firstIndex: number; durable: Promise<void> } {
    return this.#options.log.append(entries, leaves);
  }

  async whenDurable(): Promise<void> {
    const { log, ack, isHeld } = this.#options;
    const { size } = log;
    await log.whenDurable();
    while (ack === "store" && log.checkpoint.size < size) {
      // One at a time: what arrives while it is written goes with the next.
      this.#publishing ??= log.publish().finally(() => {
        this.#publishing = null;
      });
      await this.#publishing;
    }
    // After the fsync and not before: who takes over reads the WAL only when this would say no.
    if (!isHeld()) throw new Error("another exporter may have taken this log over");
  }
}
