/** What `/readyz` says: whether batches are taken, why not, and the ages of what should be young. docs/health.md says it for operators. */

import type { Anchoring } from "./anchor/service.ts";
import type { SelfAudit } from "./audit/self-audit.ts";
import type { Readiness } from "./health.ts";
import type { RemotePublisher } from "./log/remote-publisher.ts";
import type { Sequencer } from "./log/sequencer.ts";
import type { Standing } from "./standing.ts";
import type { Mirror } from "./store/mirror.ts";
import { VERSION } from "./version.ts";

/** A checkpoint that is this late makes the exporter not ready, in milliseconds. */
const LATE_MS = 10_000;

export type ReadinessOptions = {
  readonly log: Sequencer;
  readonly publisher: RemotePublisher;
  readonly standing: Standing;
  readonly audit: SelfAudit;
  readonly anchoring: Anchoring | null;
  /** One that is late is said, and stops nothing. */
  readonly mirror: Mirror | null;
  readonly origin: string;
  readonly isStopping: () => boolean;
  readonly isDraining: () => boolean;
};

export function createReadiness(options: ReadinessOptions): () => Readiness {
  const { log, publisher, standing, audit, anchoring, mirror, origin } = options;
  const started = Date.now();
  return () => {
    const now = Date.now();
    const checkpointAgeMs = now - log.signedAt;
    const reasons: string[] = [];
    if (options.isStopping()) reasons.push("shutting down");
    if (log.isDiskFull || publisher.isDiskFull) reasons.push("the disk is full");
    const isLate = log.unpublished > 0 && checkpointAgeMs > LATE_MS && !standing.isBridged;
    if (isLate) reasons.push("checkpoints are late");
    const refused = standing.refusing();
    if (refused !== null) reasons.push(refused);
    reasons.push(...audit.reasons());
    return {
      reasons,
      details: {
        version: VERSION,
        origin,
        uptimeMs: now - started,
        timeMs: now,
        takesBatches: !options.isDraining(),
        treeSize: log.checkpoint.size,
        unpublished: log.unpublished,
        checkpointAgeMs,
        ...standing.details(),
        ...(mirror === null ? {} : { mirror: mirror.status() }),
        ...(anchoring === null ? {} : { anchors: anchoring.details() }),
        ...audit.details(),
      },
    };
  };
}
