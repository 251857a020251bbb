/** The second thread: a Publisher on the log's store, driven by messages (log/remote-publisher.ts). */
import { join } from "node:path";
import { parentPort, workerData } from "node:worker_threads";
import { loadKey } from "./keys.ts";
import type { Verifier } from "./log/note.ts";
import { Publisher } from "./log/publisher.ts";
import type { Call, Reply } from "./log/remote-publisher.ts";
import { fileStore } from "./store/file.ts";
import type { ClaimedStore, Where } from "./store/settings.ts";
import type { Store } from "./store/store.ts";

/** What the thread is started with; which log of that bucket it is told once that is known (`open`). */
export type PublisherData = { readonly data: string; readonly where: Where | null };

/** The first message: the log in a bucket, or null for the one in the data directory. */
export type Open = {
  readonly operation: "open";
  readonly remote: ClaimedStore | null;
  /** Full files in a directory get the immutable flag. */
  readonly isImmutable: boolean;
};

const { data, where } = workerData as PublisherData;
// Loading takes most of a second: a standby has done it before it takes a log over.
if (where !== null) {
  const { openService } = await import("./store/settings.ts");
  await Promise.all([import("./store/object.ts"), openService(where).catch(() => undefined)]);
}

let opened: (publisher: Publisher) => void = () => {};
const ready = new Promise<Publisher>((resolve) => {
  opened = resolve;
});

async function open({ remote, isImmutable }: Open): Promise<void> {
  const keys = loadKey(data, undefined);
  const store =
    remote === null ? localStore(isImmutable) : await bucketStore(remote, keys.verifiers);
  opened(new Publisher({ store, ...keys, onDiskFull: (isDiskFull) => reply({ isDiskFull }) }));
}

function localStore(isImmutable: boolean): Store {
  return fileStore(join(data, "log"), join(data, "unfinished"), isImmutable);
}

async function bucketStore(claimed: ClaimedStore, verifiers: readonly Verifier[]): Promise<Store> {
  const { openBucket } = await import("./store/settings.ts");
  const { openObjectStore } = await import("./store/object.ts");
  const { signedSize: sizeBy } = await import("./take-over.ts");
  const signedSize = (note: Buffer): number | null => sizeBy(note, verifiers);
  const onForeign = (foreign: string): void => reply({ foreign });
  const bucket = await openBucket(claimed, { onAway: (away) => reply({ away }) });
  return await openObjectStore({ ...claimed, bucket, now: Date.now, signedSize, onForeign });
}

function reply(message: Reply): void {
  parentPort?.postMessage(message);
}

async function run(call: Call): Promise<unknown> {
  const publisher = await ready;
  switch (call.operation) {
    case "restore":
      return await publisher.restore(call.from);
    case "add":
      return await publisher.add(asBuffer(call.record), asBuffer(call.leaves));
    case "recovered":
      return await publisher.recovered();
    case "publish":
      return await publisher.publish();
    case "cosign":
      return await publisher.cosign(call.size, call.lines);
    case "sync":
      return await publisher.sync();
    case "close":
      return await publisher.close();
  }
}

/** A message carries no Buffers: they arrive as plain arrays. */
function asBuffer({ buffer, byteOffset, byteLength }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}

parentPort?.on("message", (call: Open | (Call & { readonly id: number })) => {
  if (call.operation === "open") {
    // Where it fails, the thread ends with it.
    void open(call);
    return;
  }
  run(call).then(
    (result) => reply({ id: call.id, result }),
    (error: unknown) => reply({ id: call.id, error }),
  );
});
