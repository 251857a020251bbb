/** Anchoring as a whole: builds what the configuration names, and gives serve its routes, its details and its minute's entries. */
import { join } from "node:path";
import type { FastifyInstance } from "fastify";
import type { Logger } from "pino";
import type { Registry } from "prom-client";
import { KIND_ANCHORS, KIND_PEERS } from "../../record/fields.ts";
import type { OwnChain } from "../intake/own-chain.ts";
import { loadCosigner, loadRekorKey } from "../keys.ts";
import { openCheckpoint } from "../log/checkpoint.ts";
import type { Verifier } from "../log/note.ts";
import { proveConsistency } from "../log/prover.ts";
import { NO_WITNESSES, type TlogPolicy } from "../log/tlog-policy.ts";
import { type Anchor, PEERS, type Subject } from "./anchor.ts";
import type { AnchorsConfig } from "./config.ts";
import { Copies, type CopiesOptions } from "./copies.ts";
import { Cosigned, onlyOwnLines } from "./cosigned.ts";
import { anchorsEntry, peersEntry, Steps } from "./entries.ts";
import { gitRemote } from "./git.ts";
import { bundlesAt, entryAges } from "./latency.ts";
import { anchorMetrics } from "./metrics.ts";
import { openTimestamps } from "./opentimestamps.ts";
import { proofRoutes } from "./proof-routes.ts";
import { Proofs } from "./proofs.ts";
import { httpPut } from "./put.ts";
import { rekor } from "./rekor.ts";
import { timestamps } from "./rfc3161.ts";
import { type AnchorState, Runner, START_DAYS } from "./runner.ts";
import { witnesses } from "./witness.ts";
import { WitnessServer, witnessRoutes } from "./witness-server.ts";

/** Cosignatures come every few seconds; one a minute is kept for good. */
const KEEP_EVERY_MS = 60_000;
/** For the last checkpoint of a clean stop. */
const FINISH_MS = 5_000;
/** Clocks that are further apart are told of. */
const MAX_CLOCK_MS = 5_000;
const PEER_EVERY_MS = 10_000;
const PEER_TIMEOUT_MS = 10_000;

export type AnchoringOptions = {
  readonly config: AnchorsConfig;
  readonly data: string;
  /** The log's keys, the one that names it first. */
  readonly logs: readonly [Verifier, ...Verifier[]];
  /** Reads the log's published files. */
  readonly read: (path: string) => Promise<Buffer | null>;
  readonly treeSize: () => number;
  /** Adds cosignature lines to the served checkpoint of `size`. */
  readonly cosign: (size: number, lines: readonly string[]) => Promise<void>;
  /** The log's bucket: proofs are copied there. Null for a log in a directory. */
  readonly copyTo: Omit<CopiesOptions, "onFailed"> | null;
  readonly registry: Registry;
  readonly logger: Logger;
};

export type Anchoring = {
  readonly routes: (app: FastifyInstance) => void;
  readonly start: () => Promise<void>;
  /** For `/readyz`: never a reason not to take batches. */
  readonly details: () => unknown;
  /** Writes the minute's entries. */
  readonly beat: (own: OwnChain) => Promise<void>;
  readonly stop: () => Promise<void>;
  /** Once the log is closed: shows its last checkpoint to everyone, and waits some seconds for it. */
  readonly finish: () => Promise<void>;
};

export function createAnchoring(options: AnchoringOptions): Anchoring {
  const { config, data, logger } = options;
  const [log] = options.logs;
  const onFailed = (path: string, err: unknown): void =>
    logger.error({ path, err }, "the proof could not be copied to the bucket");
  const copies = options.copyTo && new Copies({ ...options.copyTo, onFailed });
  const proofs = new Proofs(join(data, "anchors"), (path, bytes) => copies?.add(path, bytes));
  const witness =
    config.witness && server(options, "witness", config.witness.name, config.witness.logs);
  const peerLogs = config.peers.map((peer) => peer.log);
  const peers = peerLogs.length === 0 ? null : server(options, "peer", undefined, peerLogs);

  /** Entries that some outsider has seen, so that each is measured once. */
  let outside = 0;
  /** Entries from before are not measured: nobody was to anchor them. */
  let since = Date.now();
  /** What was in the log when the first anchor began: nobody was to see it before. */
  let firstSize = options.treeSize();
  const steps = new Steps();
  const onProved = (anchor: Anchor, subject: Subject): void => {
    metrics.attempts.inc({ anchor: anchor.name, outcome: "proved" });
    if (!isOutsider(anchor.kind) || subject.size <= outside) return;
    const from = outside;
    outside = subject.size;
    const time = Date.now();
    if (outside > firstSize) steps.add({ from: Math.max(from, firstSize), size: outside, time });
    void entryAges(bundlesAt(options.read), from, subject.size, time, since).then(
      (ages) => {
        for (const age of ages) metrics.seconds.observe(age);
      },
      (err: unknown) => logger.warn({ err }, "the anchor's delay could not be measured"),
    );
  };
  const runner = new Runner({
    anchors: buildAnchors(),
    proofs,
    subject: () => readSubject(options),
    treeSize: options.treeSize,
    onProved,
    onFailed: (anchor, err, isAlarm) => {
      metrics.attempts.inc({ anchor: anchor.name, outcome: "failed" });
      const fields = { anchor: anchor.name, error: err instanceof Error ? err.message : err };
      if (isAlarm) logger.error(fields, "an outsider contradicts this log");
      else logger.warn(fields, "not anchored, trying again");
    },
  });
  const metrics = anchorMetrics(options.registry, () => runner.states.map(aged));

  function aged(state: AnchorState): { state: AnchorState; ageSeconds: number; isLate: boolean } {
    const age = state.openSince === 0 ? 0 : Date.now() - state.openSince;
    return { state, ageSeconds: age / 1000, isLate: age > config.maxAgeMs };
  }

  function buildAnchors(): Anchor[] {
    const anchors: Anchor[] = [];
    const group = (
      kind: "witness" | "peer",
      policy: TlogPolicy,
      timing: { name: string; everyMs: number; timeoutMs: number },
      cosigned: Cosigned | null,
    ): Anchor =>
      witnesses({
        ...timing,
        kind,
        keepEveryMs: KEEP_EVERY_MS,
        policy,
        onCosigned: (subject, lines) => {
          metrics.witnesses.inc({ witness: timing.name, outcome: "cosigned" });
          const note = cosigned?.add(subject, lines) ?? null;
          if (note !== null) proofs.keepCosigned(note);
          void options.cosign(subject.size, lines).catch((err: unknown) => {
            logger.error({ err }, "the cosignature could not be added to the checkpoint");
          });
        },
        onFailed: () => metrics.witnesses.inc({ witness: timing.name, outcome: "failed" }),
      });
    if (config.witnesses !== null) {
      const { policy } = config.witnesses;
      anchors.push(group("witness", policy, config.witnesses, new Cosigned(policy)));
    }
    for (const target of config.timestamps) {
      const trust = { roots: target.roots, policies: [] };
      const onClock = (aheadMs: number): void => {
        metrics.clock.set({ anchor: target.name }, aheadMs / 1000);
        if (Math.abs(aheadMs) > MAX_CLOCK_MS)
          logger.warn({ anchor: target.name, aheadMs }, "this clock and the authority's differ");
      };
      anchors.push(timestamps(target, trust, onClock));
    }
    if (config.opentimestamps !== null) anchors.push(openTimestamps(config.opentimestamps));
    if (config.rekor.length > 0) {
      const signer = loadRekorKey(data);
      anchors.push(...config.rekor.map((target) => rekor(target, signer)));
    }
    anchors.push(...config.git.map((target) => gitRemote(target, join(data, "git"), log.name)));
    anchors.push(...config.puts.map(httpPut));
    if (config.peers.length > 0) {
      const cosigners = config.peers.map(({ url, cosigner }, i) => ({
        name: `peer-${i}`,
        verifier: cosigner,
        url: `${url.replace(/\/+$/, "")}/peer`,
      }));
      const timing = { name: PEERS, everyMs: PEER_EVERY_MS, timeoutMs: PEER_TIMEOUT_MS };
      anchors.push(group("peer", { ...NO_WITNESSES, witnesses: cosigners }, timing, null));
    }
    return anchors;
  }

  return {
    routes: (app) => {
      proofRoutes(app, proofs.dir);
      if (witness !== null) witnessRoutes(app, "", witness);
      if (peers !== null) witnessRoutes(app, "/peer", peers);
    },
    start: async () => {
      await runner.start();
      // Not waited for: the bucket may be away.
      void proofs
        .list(START_DAYS)
        .then((known) => copies?.addMissing(known, proofs))
        .catch((err: unknown) => onFailed("", err));
      const sizes = runner.states.filter(({ kind }) => isOutsider(kind)).map(({ size }) => size);
      outside = Math.max(0, ...sizes);
      if (outside > 0) since = firstSize = 0;
    },
    details: () =>
      runner.states.map((state) => {
        const { ageSeconds, isLate } = aged(state);
        const status = state.isAlarm ? "alarm" : isLate ? "late" : "healthy";
        const { name, kind, size, error, pending } = state;
        const isRequired = config.required.includes(name);
        return {
          name,
          kind,
          status,
          size,
          ageSeconds: Math.round(ageSeconds),
          isRequired,
          pending,
          error,
        };
      }),
    beat: async (own) => {
      const anchors = anchorsEntry(runner.takeKept(), steps.take());
      if (anchors !== null) await own.write(KIND_ANCHORS, anchors);
      const seen = peersEntry(peerLogs, peers?.all() ?? new Map());
      if (seen !== null) await own.write(KIND_PEERS, seen);
    },
    stop: () => runner.stop(),
    finish: async () => {
      await runner.finish(FINISH_MS);
      await copies?.finish(FINISH_MS);
    },
  };

  function server(
    _: AnchoringOptions,
    role: "witness" | "peer",
    name: string | undefined,
    logs: readonly Verifier[],
  ): WitnessServer {
    const signer = loadCosigner(data, role, name ?? `${log.name}/${role}`);
    logger.info({ role, vkey: signer.vkey, logs: logs.map((known) => known.name) }, "cosigning");
    return new WitnessServer({
      dir: join(data, role),
      signer,
      logs,
      onEvidence: (kind, origin, file) =>
        logger.error({ kind, origin, file }, "a log has contradicted itself: evidence kept"),
    });
  }
}

/** Peers are the same operator's, and what was put somewhere proves nothing by itself: neither counts for the service level. */
function isOutsider(kind: string): boolean {
  return kind !== "peer" && kind !== "put";
}

async function readSubject({ read, logs }: AnchoringOptions): Promise<Subject> {
  const note = await read("checkpoint");
  const checkpoint = note && openCheckpoint(note, ...logs);
  if (note === null || !checkpoint) throw new Error("the log's checkpoint cannot be read");
  const { size, root } = checkpoint;
  const prove = (oldSize: number): Promise<Uint8Array[]> => proveConsistency(read, oldSize, size);
  return { size, root, note: onlyOwnLines(note, logs[0].name), prove };
}
