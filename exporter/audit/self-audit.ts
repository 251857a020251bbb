/** The self-audit as the exporter runs it: alarms in its log, its metrics and its health, and an entry in the log itself. */
import type { Logger } from "pino";
import type { FieldValue } from "../../record/codec.ts";
import {
  F_VERIFY_FINDING,
  F_VERIFY_FOUND,
  F_VERIFY_OLDEST,
  F_VERIFY_PASSES,
  F_VERIFY_SIZE,
  MAX_NAME,
  MAX_VERIFY_FINDINGS,
} from "../../record/fields.ts";
import type { Checkpoint } from "../log/checkpoint.ts";
import type { Verifier } from "../log/note.ts";
import { Scrub, type ScrubStatus } from "./scrub.ts";
import type { ScrubPlace } from "./scrub-place.ts";

/** An entry is written this often where nothing has changed, in milliseconds. */
const ENTRY_MS = 3_600_000;
/** And at most this often. */
const MIN_ENTRY_MS = 60_000;

export type SelfAudit = {
  readonly status: () => ScrubStatus;
  /** For `/readyz`. */
  readonly details: () => Readonly<Record<string, number>>;
  /** What speaks against readiness, if anything. */
  readonly reasons: () => string[];
  readonly stop: () => Promise<void>;
};

export type SelfAuditOptions = {
  readonly place: ScrubPlace;
  readonly verifiers: readonly Verifier[];
  readonly checkpoint: () => Checkpoint;
  /** Entries below it may have been pruned. */
  readonly minimum: () => number;
  readonly logger: Pick<Logger, "error" | "warn">;
  /** Writes an entry of kind verify_result with these fields. */
  readonly write: (facts: readonly FieldValue[]) => Promise<void>;
};

/** Starts it. */
export function startSelfAudit(options: SelfAuditOptions): SelfAudit {
  const { place, verifiers, checkpoint, minimum, logger } = options;
  const began = Date.now();
  let wroteAt = 0;
  let isChanged = false;
  const write = (): void => {
    const status = scrub.status();
    const isDue = status.passes > 0 && Date.now() - Math.max(wroteAt, began) > ENTRY_MS;
    if (!(isChanged || isDue) || Date.now() - wroteAt < MIN_ENTRY_MS) return;
    isChanged = false;
    wroteAt = Date.now();
    void options.write(factsOf(status)).catch(() => undefined);
  };
  const scrub = new Scrub({
    place,
    verifiers,
    checkpoint,
    minimum,
    onFinding: ({ file, cause }) => {
      isChanged = true;
      logger.error({ file, cause }, "a file of the log is missing or wrong: run verify");
    },
    onGone: (file) => {
      isChanged = true;
      logger.warn({ file }, "a file of the log that was wrong is right again");
    },
  });
  scrub.start();
  const writing = setInterval(write, 1000);
  return {
    status: () => scrub.status(),
    details: () => {
      const { position, passes, oldestUnverifiedSeconds, findings } = scrub.status();
      return {
        ...(findings.length === 0 ? {} : { wrongFiles: findings.length }),
        scrubPosition: position,
        scrubPasses: passes,
        oldestUnverifiedSeconds,
      };
    },
    reasons: () => {
      const { length } = scrub.status().findings;
      // Whoever can write to a bucket could otherwise keep every exporter on it from being ready.
      if (place.mayWait) return [];
      return length === 0 ? [] : [`${length} files of the log are missing or wrong: run verify`];
    },
    stop: async () => {
      clearInterval(writing);
      await scrub.stop();
    },
  };
}

function factsOf(status: ScrubStatus): FieldValue[] {
  const { findings, passes, size, oldestUnverifiedSeconds } = status;
  return [
    { number: F_VERIFY_SIZE, value: size },
    { number: F_VERIFY_PASSES, value: passes },
    { number: F_VERIFY_OLDEST, value: Math.ceil(oldestUnverifiedSeconds) },
    { number: F_VERIFY_FOUND, value: findings.length },
    ...findings.slice(0, MAX_VERIFY_FINDINGS).map(({ file, cause }) => ({
      number: F_VERIFY_FINDING,
      value: Buffer.from(`${file} ${cause}`).subarray(0, MAX_NAME),
    })),
  ];
}
