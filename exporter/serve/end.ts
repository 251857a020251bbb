/**
 * How serving ends: what is under way is answered, the exporter's chain is closed, a last checkpoint covers all of it, outsiders and the
 * mirror are given some time for that one, and the next exporter is let in.
 */
import type { Care } from "./care.ts";
import type { Front } from "./front.ts";
import type { ServedIntake } from "./intake.ts";
import type { ServedLog } from "./log.ts";
import { writeSummaries } from "./rounds.ts";

/** A stop waits this long for a bucket that is away, and for a mirror, in milliseconds. */
const GIVE_UP_MS = 10_000;

export type EndOptions = {
  readonly served: ServedLog;
  readonly taking: ServedIntake;
  readonly care: Care;
  readonly front: Front;
  /** The bucket is away: must not return. */
  readonly giveUp: () => void;
};

export async function endServing(options: EndOptions): Promise<void> {
  const { served, taking, care, front } = options;
  const { log, publisher, chains } = served;
  const { anchoring, audit, keeper, mirror } = care;
  taking.intake.isDraining = true;
  const waiting = setInterval(() => {
    if (publisher.away !== null) options.giveUp();
  }, GIVE_UP_MS);
  waiting.unref();
  const keeping = keeper.stop();
  await front.close();
  await anchoring?.stop();
  await audit.stop();
  await keeping;
  await writeSummaries(taking, anchoring);
  await taking.own.close();
  await log.close();
  await anchoring?.finish();
  await mirror?.stop(GIVE_UP_MS);
  await chains.close();
  clearInterval(waiting);
  await served.endLease?.();
}

/** Ends what never came to be served. */
export async function endUnserved({ log, chains }: ServedLog, taking: ServedIntake): Promise<void> {
  await taking.own.close();
  await log.close();
  await chains.close();
}
