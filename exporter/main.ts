/** serve: wires intake, log and store together, and is the only file that knows the process it runs in. */

import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { Server as TlsServer } from "node:tls";
import type { Worker } from "node:worker_threads";
import { type Logger, pino } from "pino";
import { F_TAKEN_UP, KIND_PEERS, KIND_VERIFY_RESULT } from "../record/fields.ts";
import { readBatchKeys } from "./access/mac.ts";
import { readRules } from "./access/rules.ts";
import { readTls, type TlsFiles, watchTls } from "./access/tls.ts";
import { addressOf, splitAddress } from "./address.ts";
import { readAnchors } from "./anchor/config.ts";
import { proofRoutes } from "./anchor/proof-routes.ts";
import { createAnchoring } from "./anchor/service.ts";
import { bucketPlace, dirPlace } from "./audit/scrub-place.ts";
import { startSelfAudit } from "./audit/self-audit.ts";
import { openSource } from "./audit/source.ts";
import { needsIdentity, type Settings } from "./config.ts";
import { provesImmutable } from "./doctor/bucket.ts";
import { MeshsealError } from "./errors.ts";
import { createHealth } from "./health.ts";
import { Acks } from "./intake/acks.ts";
import { openChains } from "./intake/chains.ts";
import { createHttp } from "./intake/http.ts";
import { Intake } from "./intake/intake.ts";
import { readOrigins } from "./intake/origins.ts";
import { OWN_HEARTBEAT_MS, OwnChain } from "./intake/own-chain.ts";
import { openPolicies } from "./intake/policies.ts";
import { openQuarantine } from "./intake/quarantine.ts";
import { Refusals } from "./intake/refusals.ts";
import { Silence } from "./intake/silence.ts";
import { keyHistory, noteKeys, pendingStatement } from "./keys.ts";
import { takeLock } from "./lock.ts";
import { readLeafDigest } from "./log/leaf-digest.ts";
import { RemotePublisher } from "./log/remote-publisher.ts";
import { Sequencer } from "./log/sequencer.ts";
import { Wal } from "./log/wal.ts";
import { addMirrorGauges, addScrubGauges, createMetrics } from "./metrics.ts";
import { type LogPlace, openPlace } from "./place.ts";
import { createReadiness } from "./readiness.ts";
import { recover } from "./recovery.ts";
import { findBegin, restoreChains } from "./retention/begin.ts";
import { Keeper } from "./retention/keeper.ts";
import { retentionRoutes } from "./retention/routes.ts";
import { bucketShelf, fileShelf } from "./retention/shelf.ts";
import { Standing } from "./standing.ts";
import { makeDir } from "./store/file.ts";
import { tryImmutable } from "./store/flags.ts";
import { Mirror } from "./store/mirror.ts";
import { whereOf } from "./store/settings.ts";
import { keepLease } from "./take-over.ts";
import { startThread } from "./thread.ts";
import { VERSION } from "./version.ts";

/** A stop waits this long for a bucket that is away, in milliseconds. */
const GIVE_UP_MS = 10_000;

/** Runs the exporter until it is told to stop by SIGTERM or SIGINT. Resolves to the exit code. */
export async function serve(settings: Settings): Promise<number> {
  const logger = pino(
    { level: settings.logLevel, base: null },
    pino.destination({ dest: 2, sync: true }),
  );
  const data = resolve(settings.data);
  makeDir(data);
  const unlock = takeLock(data);
  let thread: Worker | null = null;
  try {
    const where = settings.store === undefined ? null : whereOf(settings.store, settings);
    thread = startThread(new URL("./publisher-thread", import.meta.url), { data, where });
    const place = await openPlace(settings, data, logger);
    const files = where !== null ? undefined : await filesOf(settings, data);
    const isImmutable = files === IMMUTABLE;
    thread.postMessage({ operation: "open", remote: place.remote?.store ?? null, isImmutable });
    return await run(settings, data, place, thread, files, logger);
  } finally {
    await thread?.terminate();
    unlock();
  }
}

async function run(
  settings: Settings,
  data: string,
  place: LogPlace,
  thread: Worker,
  files: string | undefined,
  logger: Logger,
): Promise<number> {
  const { key } = place;
  const { signer, verifiers } = key;
  let stop: (code: number) => void = () => {};
  const stopped = new Promise<number>((done) => {
    stop = done;
  });
  // From the first on: a stop that comes during recovery ends cleanly after it.
  process.once("SIGTERM", () => stop(0));
  process.once("SIGINT", () => stop(0));
  const onFatal = (err: unknown): void => {
    logger.fatal({ err }, "the log cannot be written: stopping, what is receipted is safe");
    process.exit(74);
  };
  const store = { get: place.read };
  const publisher = new RemotePublisher(thread, onFatal, (key) =>
    logger.error({ key }, "other bytes were in this file's place, ours are above them: run verify"),
  );
  const wal = new Wal(join(data, "wal"));
  const { chains, started: isStarted } = await openChains(join(data, "index"));
  const log: Sequencer = new Sequencer({
    wal,
    publisher,
    store,
    beforePrune: () => chains.save(log.size, log.whenDurable()),
    onFatal,
    // With `ack: store` nothing is receipted that the publisher does not have.
    fromWal: place.remote !== null && settings.ack === "wal",
  });
  const { lease } = place;
  const endLease = lease && keepLease(lease, () => onFatal(new Error("the lease was lost")));
  const started = Date.now();
  let isStopping = false;
  const proving = place.remote && provesImmutable(place.remote.store, place.remote.store.home);
  const shelf =
    place.remote === null
      ? fileShelf(data)
      : bucketShelf(place.remote.bucket, place.remote.store.home, place.remote.store.lockMs);
  const begin = await findBegin({ shelf, read: place.read, verifiers });
  await restoreChains(shelf, begin, chains);
  await recover(log, chains, begin.minimum);
  logger.info(
    { origin: signer.name, entries: log.size, chains: chains.count, ms: Date.now() - started },
    "log recovered",
  );

  const quarantine = openQuarantine(join(data, "quarantine"));
  const refusals = new Refusals();
  const notImmutable = await proving;
  const standing = new Standing({ settings, data, wal, publisher, lease, notImmutable });
  await standing.sample();
  const { isHeld, refusing } = standing;
  const acks = new Acks({ log, ack: settings.ack, isHeld, refusing });
  const own = new OwnChain(log, chains);
  const silence = new Silence(settings.silentAfterSeconds * 1000, Date.now);
  const intake = new Intake({
    log: acks,
    chains,
    signer,
    verifiers,
    digestAt: async (index) => {
      if (index >= log.checkpoint.size) await log.publish();
      return readLeafDigest(store, () => log.checkpoint.size, index);
    },
    onBound: (chain, sender) => void own.sender(chain, sender).catch(() => undefined),
    silence,
    origins: settings.origins === undefined ? new Map() : readOrigins(settings.origins),
    onTakenUp: (receipt) => {
      const facts = [{ number: F_TAKEN_UP, value: Uint8Array.from(receipt) }];
      void own.write(KIND_PEERS, facts).catch(() => undefined);
    },
    quarantine: (cause, batch) => {
      refusals.keep(cause, batch);
      logger.error({ cause, file: quarantine(cause, batch) }, "batch refused for good");
    },
  });
  const metrics = createMetrics({
    treeSize: () => log.checkpoint.size,
    unpublished: () => log.unpublished,
    chains: () => chains.count,
    silentChains: () => silence.count(),
    checkpointAgeSeconds: () => (Date.now() - log.signedAt) / 1000,
    standing: place.remote && standing,
  });
  const anchoring =
    settings.anchors === undefined
      ? null
      : createAnchoring({
          config: readAnchors(settings.anchors),
          data,
          logs: [key.verifier, ...verifiers],
          read: store.get,
          treeSize: () => log.checkpoint.size,
          cosign: (size, lines) => publisher.cosign(size, lines),
          copyTo: place.remote && { ...place.remote.store, bucket: place.remote.bucket },
          registry: metrics.registry,
          logger,
        });
  const keeper = new Keeper({
    origin: signer.name,
    shelf,
    begin,
    signer,
    verifiers,
    log,
    read: store.get,
    write: (kind, fields) => own.write(kind, fields),
    logger,
  });
  const logDir = join(data, "log");
  const audit = startSelfAudit({
    place:
      place.remote === null
        ? dirPlace(logDir, await openSource(logDir))
        : bucketPlace(place.remote.bucket, place.remote.store.home),
    verifiers,
    checkpoint: () => log.checkpoint,
    minimum: () => keeper.minimum,
    logger,
    write: (facts) => own.write(KIND_VERIFY_RESULT, facts),
  });
  addScrubGauges(metrics.registry, audit.status);
  const mirror =
    settings.mirror === undefined
      ? null
      : new Mirror({
          data,
          dir: resolve(settings.mirror),
          verifiers,
          minimum: () => keeper.minimum,
          size: () => log.checkpoint.size,
          logger,
        });
  if (mirror !== null) addMirrorGauges(metrics.registry, () => mirror.status());
  const readiness = createReadiness({
    mirror,
    log,
    publisher,
    standing,
    audit,
    anchoring,
    origin: signer.name,
    isStopping: () => isStopping,
    isDraining: () => intake.isDraining,
  });
  const tls = tlsFiles(settings);
  const http = createHttp({
    intake,
    tls: tls && readTls(tls),
    rules: settings.access === undefined ? {} : readRules(settings.access),
    batchKeys: settings.batchKeys === undefined ? undefined : readBatchKeys(settings.batchKeys),
    onRecovered: (chain, seq, count, proof) => own.recovered(chain, seq, count, proof),
    needsIdentity: needsIdentity(settings),
    trustXfcc: settings.trustXfcc,
    maxConnections: settings.maxConnections,
    keys: () => keyHistory(data),
    policies: openPolicies(data, (kind, fields) => own.write(kind, fields)),
    onRefused: (cause) => refusals.count(cause),
    extend: (app) => {
      retentionRoutes(app, keeper, shelf);
      // Proofs that are there are served also where none are asked for any more.
      if (anchoring !== null) anchoring.routes(app);
      else if (existsSync(join(data, "anchors"))) proofRoutes(app, join(data, "anchors"));
    },
    logDir: join(data, "log"),
    readLog: place.remote === null ? undefined : place.read,
    metrics,
    logger,
    readiness,
  });
  const health = settings.healthListen === undefined ? null : createHealth(readiness, metrics);

  await own.open(`meshseal-exporter/${VERSION}`);
  const statement = pendingStatement(data, key);
  if (statement !== null) {
    const vkeys = key.signers.map(({ vkey }) => vkey);
    await own.keys(vkeys, statement);
    logger.info({ vkeys }, "these keys sign from here on");
  }
  noteKeys(data, key, log.size, new Date());
  await log.publish();
  try {
    await http.listen(splitAddress(settings.listen));
    if (health && settings.healthListen) await health.listen(splitAddress(settings.healthListen));
  } catch (error) {
    await health?.close();
    await http.close();
    await own.close();
    await log.close();
    await chains.close();
    throw new MeshsealError(`cannot listen: ${error instanceof Error ? error.message : error}`);
  }
  const address = addressOf(http);
  const healthAddress = health === null ? undefined : addressOf(health);
  const listening = { address, healthAddress, data, files, origin: signer.name, vkey: signer.vkey };
  logger.info(listening, "listening");
  isStarted();
  keeper.start();
  mirror?.start();
  if (notImmutable !== null && notImmutable.length > 0) {
    logger.error({ because: notImmutable }, "this log is not immutable: run meshseal doctor");
  }

  const watch =
    tls &&
    http.server instanceof TlsServer &&
    watchTls(
      tls,
      http.server,
      () => logger.info("certificates were read again"),
      (err) => logger.error({ err }, "the new certificates cannot be used: the old ones stay"),
    );
  let isPublishing = false;
  const publishing = setInterval(() => {
    void standing.sample().catch(() => undefined);
    // While the store is away, one waits and is enough.
    if (isPublishing) return;
    isPublishing = true;
    const done = (): void => {
      isPublishing = false;
    };
    void log.publish().then(done, done);
  }, settings.checkpointMs);
  await anchoring?.start();
  const beat = async (): Promise<void> => {
    await refusals.write(own);
    await anchoring?.beat(own);
    await own.heartbeat();
  };
  const beating = setInterval(() => void beat().catch(() => undefined), OWN_HEARTBEAT_MS);
  const code = await stopped;
  isStopping = true;
  logger.info({ drainDelayMs: settings.drainDelayMs }, "stopping");
  if (settings.drainDelayMs > 0) await delayOrSignal(settings.drainDelayMs);
  intake.isDraining = true;
  clearInterval(publishing);
  clearInterval(beating);
  if (watch) watch.stop();
  const giveUp = setInterval(() => {
    if (publisher.away === null) return;
    logger.warn("stopped while the bucket is away: the newest entries are in the WAL");
    process.exit(75);
  }, GIVE_UP_MS);
  giveUp.unref();
  const keeping = keeper.stop();
  await http.close();
  await health?.close();
  await anchoring?.stop();
  await audit.stop();
  await keeping;
  await refusals.write(own);
  await anchoring?.beat(own);
  await own.close();
  await log.close();
  await anchoring?.finish();
  await mirror?.stop(GIVE_UP_MS);
  await chains.close();
  clearInterval(giveUp);
  await endLease?.();
  logger.info({ treeSize: log.checkpoint.size }, "stopped");
  return code;
}

const IMMUTABLE = "immutable (chattr +i) once synced";

/** What protects the log's full files in a directory, for the start-up line. */
async function filesOf({ immutableFiles }: Settings, data: string): Promise<string> {
  if (!immutableFiles) return "read-only";
  const problem = await tryImmutable(data);
  return problem === null ? IMMUTABLE : `read-only, not immutable: ${problem}`;
}

function tlsFiles({ tlsCert, tlsKey, tlsClientCa }: Settings): TlsFiles | undefined {
  if (tlsCert === undefined || tlsKey === undefined) return undefined;
  return { cert: tlsCert, key: tlsKey, clientCa: tlsClientCa };
}

/** Waits, but no longer than until a second signal. */
function delayOrSignal(ms: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    const end = (): void => {
      clearTimeout(timer);
      resolve();
    };
    process.once("SIGTERM", end);
    process.once("SIGINT", end);
  });
}
