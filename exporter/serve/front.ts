/** What is served, and where: intake, the log's files, administration, health and metrics; and the certificates that this is done with. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Server as TlsServer } from "node:tls";
import { readBatchKeys } from "../access/mac.ts";
import { readRules } from "../access/rules.ts";
import { readTls, type TlsFiles, watchTls } from "../access/tls.ts";
import { addressOf, splitAddress } from "../address.ts";
import { proofRoutes } from "../anchor/proof-routes.ts";
import { needsIdentity, type Settings } from "../config.ts";
import { MeshsealError } from "../errors.ts";
import { createHealth } from "../health.ts";
import { createHttp } from "../intake/http.ts";
import { openPolicies } from "../intake/policies.ts";
import { keyHistory } from "../keys.ts";
import { createReadiness } from "../readiness.ts";
import { retentionRoutes } from "../retention/routes.ts";
import type { Care } from "./care.ts";
import type { ServedIntake } from "./intake.ts";
import type { ServedLog } from "./log.ts";

export type Front = {
  /** Resolves to where it listens. Throws MeshsealError where that cannot be; then it is closed. */
  readonly listen: () => Promise<{
    readonly address: string;
    readonly healthAddress: string | undefined;
  }>;
  /** Takes certificates that have changed. Returns the function that ends that. */
  readonly watchCertificates: () => () => void;
  /** Resolves when all that was under way is answered. */
  readonly close: () => Promise<void>;
};

export function createFront(
  served: ServedLog,
  taking: ServedIntake,
  care: Care,
  isStopping: () => boolean,
): Front {
  const { settings, data, logger, log, publisher, standing, place } = served;
  const { intake, own, refusals, metrics } = taking;
  const readiness = createReadiness({
    ...care,
    log,
    publisher,
    standing,
    origin: place.key.signer.name,
    isStopping,
    isDraining: () => intake.isDraining,
  });
  const tls = tlsFiles(settings);
  const http = createHttp({
    intake,
    onRecovered: (chain, seq, count, proof) => own.recovered(chain, seq, count, proof),
    onRefused: (cause) => refusals.count(cause),
    keys: () => keyHistory(data),
    policies: openPolicies(data, (kind, fields) => own.write(kind, fields)),
    extend: (app) => {
      retentionRoutes(app, care.keeper, served.shelf);
      // Proofs that are there are served also where none are asked for any more.
      if (care.anchoring !== null) care.anchoring.routes(app);
      else if (existsSync(join(data, "anchors"))) proofRoutes(app, join(data, "anchors"));
    },
    logDir: join(data, "log"),
    readLog: place.remote === null ? undefined : place.read,
    tls: tls && readTls(tls),
    rules: settings.access === undefined ? {} : readRules(settings.access),
    batchKeys: settings.batchKeys === undefined ? undefined : readBatchKeys(settings.batchKeys),
    needsIdentity: needsIdentity(settings),
    trustXfcc: settings.trustXfcc,
    maxConnections: settings.maxConnections,
    metrics,
    logger,
    readiness,
  });
  const health = settings.healthListen === undefined ? null : createHealth(readiness, metrics);
  const close = async (): Promise<void> => {
    await http.close();
    await health?.close();
  };
  return {
    listen: async () => {
      try {
        await http.listen(splitAddress(settings.listen));
        if (health && settings.healthListen)
          await health.listen(splitAddress(settings.healthListen));
      } catch (error) {
        await close();
        throw new MeshsealError(`cannot listen: ${error instanceof Error ? error.message : error}`);
      }
      return {
        address: addressOf(http),
        healthAddress: health === null ? undefined : addressOf(health),
      };
    },
    watchCertificates: () => {
      if (tls === undefined || !(http.server instanceof TlsServer)) return () => undefined;
      return watchTls(
        tls,
        http.server,
        () => logger.info("certificates were read again"),
        (err) => logger.error({ err }, "the new certificates cannot be used: the old ones stay"),
      ).stop;
    },
    close,
  };
}

function tlsFiles({ tlsCert, tlsKey, tlsClientCa }: Settings): TlsFiles | undefined {
  if (tlsCert === undefined || tlsKey === undefined) return undefined;
  return { cert: tlsCert, key: tlsKey, clientCa: tlsClientCa };
}
