/** What serve opens first: the log's files, its WAL, the index of chains and the sequencer over them, as the last process left them and recovered. */
import { join } from "node:path";
import type { Worker } from "node:worker_threads";
import type { Logger } from "pino";
import type { Settings } from "../config.ts";
import { provesImmutable } from "../doctor/bucket.ts";
import { type Chains, openChains } from "../intake/chains.ts";
import { RemotePublisher } from "../log/remote-publisher.ts";
import { Sequencer } from "../log/sequencer.ts";
import { Wal } from "../log/wal.ts";
import type { LogPlace } from "../place.ts";
import { recover } from "../recovery.ts";
import { type Begin, findBegin, restoreChains } from "../retention/begin.ts";
import { bucketShelf, fileShelf, type Shelf } from "../retention/shelf.ts";
import { Standing } from "../standing.ts";
import { keepLease } from "../take-over.ts";

/** What all parts of serve are given. */
export type Base = {
  readonly settings: Settings;
  /** The data directory, absolute. */
  readonly data: string;
  readonly logger: Logger;
};

export type OpenOptions = Base & {
  readonly place: LogPlace;
  /** Runs publisher-thread.ts. */
  readonly thread: Worker;
  /** Nothing can be written any more: must not return to what was to be done next. */
  readonly onFatal: (error: unknown) => void;
};

export type ServedLog = Base & {
  readonly place: LogPlace;
  readonly log: Sequencer;
  readonly publisher: RemotePublisher;
  readonly chains: Chains;
  readonly shelf: Shelf;
  /** Where the log began at this start. */
  readonly begin: Begin;
  readonly standing: Standing;
  /** What keeps the log from being immutable; empty if it is. Null where nothing was promised: a directory. */
  readonly notImmutable: readonly string[] | null;
  /** To be called when the start is over. */
  readonly started: () => void;
  /** Lets the next exporter in, where some share the log. */
  readonly endLease: (() => Promise<void>) | null;
};

/** Opens and recovers the log of `place`. Throws MeshsealError where it is damaged. */
export async function openLog(options: OpenOptions): Promise<ServedLog> {
  const { place, thread, onFatal, ...base } = options;
  const { settings, data, logger } = base;
  const { remote, lease, read } = place;
  const { signer, verifiers } = place.key;
  const publisher = new RemotePublisher(thread, onFatal, (key) =>
    logger.error({ key }, "other bytes were in this file's place, ours are above them: run verify"),
  );
  const wal = new Wal(join(data, "wal"));
  const { chains, started } = await openChains(join(data, "index"));
  const log: Sequencer = new Sequencer({
    wal,
    publisher,
    store: { get: read },
    beforePrune: () => chains.save(log.size, log.whenDurable()),
    onFatal,
    // With `ack: store` nothing is receipted that the publisher does not have.
    fromWal: remote !== null && settings.ack === "wal",
  });
  const endLease = lease && keepLease(lease, () => onFatal(new Error("the lease was lost")));
  const since = Date.now();
  const proving = remote && provesImmutable(remote.store, remote.store.home);
  const shelf =
    remote === null
      ? fileShelf(data)
      : bucketShelf(remote.bucket, remote.store.home, remote.store.lockMs);
  const begin = await findBegin({ shelf, read, verifiers });
  await restoreChains(shelf, begin, chains);
  await recover(log, chains, begin.minimum);
  logger.info(
    { origin: signer.name, entries: log.size, chains: chains.count, ms: Date.now() - since },
    "log recovered",
  );
  const notImmutable = await proving;
  const standing = new Standing({ settings, data, wal, publisher, lease, notImmutable });
  await standing.sample();
  return {
    ...base,
    place,
    log,
    publisher,
    chains,
    shelf,
    begin,
    standing,
    notImmutable,
    started,
    endLease,
  };
}
