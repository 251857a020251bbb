/** How the exporter stands towards its store: what `/readyz` and the metrics say of it, and when no batch is taken. */
import { statfs } from "node:fs/promises";
import type { Settings } from "./config.ts";
import { Backlog } from "./log/backlog.ts";
import type { RemotePublisher } from "./log/remote-publisher.ts";
import type { Wal } from "./log/wal.ts";
import type { Lease } from "./store/lease.ts";

const MIB = 1024 ** 2;
/** Left free on the disk, in bytes: other files need some. */
const SPARE_BYTES = 256 * MIB;

export type StandingOptions = {
  readonly settings: Settings;
  readonly data: string;
  readonly wal: Wal;
  readonly publisher: RemotePublisher;
  readonly lease: Lease | null;
  /** What keeps the log from being immutable; empty if it is. Null where nothing was promised: a directory. */
  readonly notImmutable: readonly string[] | null;
};

export class Standing {
  readonly #options: StandingOptions;
  readonly #backlog: Backlog;

  constructor(options: StandingOptions) {
    this.#options = options;
    this.#backlog = new Backlog(options.settings.walLimitMib * MIB);
  }

  /** Looks at WAL and disk: to be called each second or so. */
  async sample(): Promise<void> {
    const { bavail, bsize } = await statfs(this.#options.data);
    const free = Math.max(0, bavail * bsize - SPARE_BYTES);
    this.#backlog.sample(this.#options.wal.bytes, free, Date.now());
  }

  /** Whether the store is behind for a reason that the WAL makes up for. */
  get isBridged(): boolean {
    return this.#options.publisher.away !== null && !this.#backlog.isFull;
  }

  get isImmutable(): boolean {
    return this.#options.notImmutable?.length === 0;
  }

  get foreign(): number {
    return this.#options.publisher.foreign;
  }

  get walSecondsLeft(): number {
    return this.#backlog.secondsLeft;
  }

  /** Whether this process has the log for itself. */
  readonly isHeld = (): boolean => this.#options.lease?.isHeld ?? true;

  /** Why no batch can be taken now, or null. */
  readonly refusing = (): string | null => {
    const { settings, publisher } = this.#options;
    if (settings.store === undefined) return null;
    if (!this.isHeld()) return "another exporter may have taken this log over";
    if (this.#backlog.isFull)
      return "the WAL has reached its limit: the bucket is away or too slow";
    if (settings.ack === "store" && publisher.away !== null) return "the bucket is away";
    return null;
  };

  /** What `/readyz` says. */
  details(): Record<string, number | string> {
    const { settings, publisher, notImmutable } = this.#options;
    if (settings.store === undefined) return {};
    return {
      store: publisher.away === null ? "reachable" : `away: ${publisher.away}`,
      foreignObjects: publisher.foreign,
      walBytes: this.#backlog.bytes,
      walSecondsLeft: this.#backlog.secondsLeft,
      immutable: this.isImmutable ? "yes" : `no: ${(notImmutable ?? []).join("; ")}`,
    };
  }
}
