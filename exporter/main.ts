/** serve, from start to end: serve/ has the parts. The only file that knows the process it runs in. */

import { resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Worker } from "node:worker_threads";
import { pino } from "pino";
import type { Settings } from "./config.ts";
import { takeLock } from "./lock.ts";
import { type LogPlace, openPlace } from "./place.ts";
import { openCare } from "./serve/care.ts";
import { endServing, endUnserved } from "./serve/end.ts";
import { createFront } from "./serve/front.ts";
import { openIntake } from "./serve/intake.ts";
import { type Base, openLog } from "./serve/log.ts";
import { beatInRounds, publishInRounds } from "./serve/rounds.ts";
import { sayStart } from "./serve/start.ts";
import { makeDir } from "./store/file.ts";
import { tryImmutable } from "./store/flags.ts";
import { whereOf } from "./store/settings.ts";
import { startThread } from "./thread.ts";

/** EX_IOERR of sysexits(3). */
const CANNOT_WRITE = 74;
/** EX_TEMPFAIL: the next start goes on. */
const BUCKET_AWAY = 75;

/** Runs the exporter. Resolves when it was told to stop by SIGTERM or SIGINT, and has. */
export async function serve(settings: Settings): Promise<void> {
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
    await run({ settings, data, logger }, place, thread, files);
  } finally {
    await thread?.terminate();
    unlock();
  }
}

/** `files` says what protects the log's full files in a directory. */
async function run(
  base: Base,
  place: LogPlace,
  thread: Worker,
  files: string | undefined,
): Promise<void> {
  const { settings, data, logger } = base;
  // From the first on: a stop that comes during recovery ends cleanly after it.
  const stopped = signalled();
  let isStopping = false;
  const onFatal = (err: unknown): void => {
    logger.fatal({ err }, "the log cannot be written: stopping, what is receipted is safe");
    process.exit(CANNOT_WRITE);
  };

  const served = await openLog({ ...base, place, thread, onFatal });
  const taking = openIntake(served);
  const care = await openCare(served, taking.own, taking.metrics.registry);
  const front = createFront(served, taking, care, () => isStopping);

  await sayStart(served, taking.own);
  const addresses = await front.listen().catch(async (error: unknown) => {
    await endUnserved(served, taking);
    throw error;
  });
  const { name: origin, vkey } = place.key.signer;
  logger.info({ ...addresses, data, files, origin, vkey }, "listening");
  served.started();
  care.keeper.start();
  care.mirror?.start();
  if (served.notImmutable !== null && served.notImmutable.length > 0) {
    logger.error(
      { because: served.notImmutable },
      "this log is not immutable: run meshseal doctor",
    );
  }

  const endings = [front.watchCertificates(), publishInRounds(served)];
  await care.anchoring?.start();
  endings.push(beatInRounds(taking, care.anchoring));

  await stopped;
  isStopping = true;
  const { drainDelayMs } = settings;
  logger.info({ drainDelayMs }, "stopping");
  // No longer than until a second signal.
  if (drainDelayMs > 0)
    await Promise.race([sleep(drainDelayMs, undefined, { ref: false }), signalled()]);
  for (const end of endings) end();
  const giveUp = (): void => {
    logger.warn("stopped while the bucket is away: the newest entries are in the WAL");
    process.exit(BUCKET_AWAY);
  };
  await endServing({ served, taking, care, front, giveUp });
  logger.info({ treeSize: served.log.checkpoint.size }, "stopped");
}

const IMMUTABLE = "immutable (chattr +i) once synced";

/** What protects the log's full files in a directory, for the start-up line. */
async function filesOf({ immutableFiles }: Settings, data: string): Promise<string> {
  if (!immutableFiles) return "read-only";
  const problem = await tryImmutable(data);
  return problem === null ? IMMUTABLE : `read-only, not immutable: ${problem}`;
}

/** Resolves with the next signal to stop. */
function signalled(): Promise<void> {
  return new Promise((stop) => {
    process.once("SIGTERM", () => stop());
    process.once("SIGINT", () => stop());
  });
}
