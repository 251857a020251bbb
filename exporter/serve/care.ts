/** What looks after a log that is served: outsiders that remember it, retention, the self-audit, a second copy. */
import { join, resolve } from "node:path";
import type { Registry } from "prom-client";
import { KIND_VERIFY_RESULT } from "../../record/fields.ts";
import { readAnchors } from "../anchor/config.ts";
import { type Anchoring, createAnchoring } from "../anchor/service.ts";
import { bucketPlace, dirPlace, type ScrubPlace } from "../audit/scrub-place.ts";
import { type SelfAudit, startSelfAudit } from "../audit/self-audit.ts";
import { openSource } from "../audit/source.ts";
import type { OwnChain } from "../intake/own-chain.ts";
import { addMirrorGauges, addScrubGauges } from "../metrics.ts";
import { Keeper } from "../retention/keeper.ts";
import { Mirror } from "../store/mirror.ts";
import type { ServedLog } from "./log.ts";

export type Care = {
  /** Null where nobody was named. */
  readonly anchoring: Anchoring | null;
  readonly keeper: Keeper;
  readonly audit: SelfAudit;
  /** Null where none was asked for. */
  readonly mirror: Mirror | null;
};

/** Starts the audit; the others are started by whoever serves. They say what they do on `own`, and count in `registry`. */
export async function openCare(
  served: ServedLog,
  own: OwnChain,
  registry: Registry,
): Promise<Care> {
  const { data, logger, log, shelf, begin } = served;
  const { signer, verifiers } = served.place.key;
  const anchoring = openAnchoring(served, registry);
  const keeper = new Keeper({
    origin: signer.name,
    shelf,
    begin,
    signer,
    verifiers,
    log,
    read: served.place.read,
    write: (kind, fields) => own.write(kind, fields),
    logger,
  });
  const minimum = (): number => keeper.minimum;
  const audit = startSelfAudit({
    place: await scrubPlace(served),
    verifiers,
    checkpoint: () => log.checkpoint,
    minimum,
    logger,
    write: (facts) => own.write(KIND_VERIFY_RESULT, facts),
  });
  addScrubGauges(registry, audit.status);
  const dir = served.settings.mirror;
  const size = (): number => log.checkpoint.size;
  const mirror =
    dir === undefined
      ? null
      : new Mirror({ data, dir: resolve(dir), verifiers, minimum, size, logger });
  if (mirror !== null) addMirrorGauges(registry, () => mirror.status());
  return { anchoring, keeper, audit, mirror };
}

function openAnchoring(served: ServedLog, registry: Registry): Anchoring | null {
  const { settings, data, logger, place, log, publisher } = served;
  if (settings.anchors === undefined) return null;
  return createAnchoring({
    config: readAnchors(settings.anchors),
    data,
    logs: [place.key.verifier, ...place.key.verifiers],
    read: place.read,
    treeSize: () => log.checkpoint.size,
    cosign: (size, lines) => publisher.cosign(size, lines),
    copyTo: place.remote && { ...place.remote.store, bucket: place.remote.bucket },
    registry,
    logger,
  });
}

async function scrubPlace({ data, place: { remote } }: ServedLog): Promise<ScrubPlace> {
  if (remote !== null) return bucketPlace(remote.bucket, remote.store.home);
  const dir = join(data, "log");
  return dirPlace(dir, await openSource(dir));
}
