/** What is done again and again while serving: a checkpoint each second or so, and each minute what the exporter says on its own chain. */
import type { Anchoring } from "../anchor/service.ts";
import { OWN_HEARTBEAT_MS } from "../intake/own-chain.ts";
import type { ServedIntake } from "./intake.ts";
import type { ServedLog } from "./log.ts";

/** Publishes. Returns the function that ends that. */
export function publishInRounds({ settings, log, standing }: ServedLog): () => void {
  let isPublishing = false;
  const timer = setInterval(() => {
    void standing.sample().catch(() => undefined);
    // While the store is away, one waits and is enough.
    if (isPublishing) return;
    isPublishing = true;
    const done = (): void => {
      isPublishing = false;
    };
    void log.publish().then(done, done);
  }, settings.checkpointMs);
  return () => clearInterval(timer);
}

/** Writes the minute's summaries and a heartbeat. Returns the function that ends that. */
export function beatInRounds(taking: ServedIntake, anchoring: Anchoring | null): () => void {
  const beat = async (): Promise<void> => {
    await writeSummaries(taking, anchoring);
    await taking.own.heartbeat();
  };
  const timer = setInterval(() => void beat().catch(() => undefined), OWN_HEARTBEAT_MS);
  return () => clearInterval(timer);
}

/** Writes what there is to say of refusals and anchors since the last time. */
export async function writeSummaries(
  { own, refusals }: ServedIntake,
  anchoring: Anchoring | null,
): Promise<void> {
  await refusals.write(own);
  await anchoring?.beat(own);
}
