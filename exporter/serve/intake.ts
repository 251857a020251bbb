/** What brings entries into the log: the batches of proxies, and the exporter's own chain; and what is counted of both. */
import { join } from "node:path";
import { F_TAKEN_UP, KIND_PEERS } from "../../record/fields.ts";
import { Acks } from "../intake/acks.ts";
import { Intake } from "../intake/intake.ts";
import { readOrigins } from "../intake/origins.ts";
import { OwnChain } from "../intake/own-chain.ts";
import { openQuarantine } from "../intake/quarantine.ts";
import { Refusals } from "../intake/refusals.ts";
import { Silence } from "../intake/silence.ts";
import { readLeafDigest } from "../log/leaf-digest.ts";
import { createMetrics, type Metrics } from "../metrics.ts";
import type { ServedLog } from "./log.ts";

export type ServedIntake = {
  readonly intake: Intake;
  readonly own: OwnChain;
  readonly refusals: Refusals;
  readonly metrics: Metrics;
};

/** Nothing is taken yet: that begins with the first call of `intake`. */
export function openIntake(served: ServedLog): ServedIntake {
  const { settings, data, logger, place, log, chains, standing } = served;
  const quarantine = openQuarantine(join(data, "quarantine"));
  const refusals = new Refusals();
  const { isHeld, refusing } = standing;
  const own = new OwnChain(log, chains);
  const silence = new Silence(settings.silentAfterSeconds * 1000, Date.now);
  const intake = new Intake({
    log: new Acks({ log, ack: settings.ack, isHeld, refusing }),
    chains,
    signer: place.key.signer,
    verifiers: place.key.verifiers,
    digestAt: async (index) => {
      if (index >= log.checkpoint.size) await log.publish();
      return readLeafDigest({ get: place.read }, () => log.checkpoint.size, index);
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
  return { intake, own, refusals, metrics };
}
