/** What can be tried against the objects of a service, and what it answered. */
import { type ServiceBucket, statusOf } from "../store/service.ts";
import type { Check, Outcome } from "./check.ts";

/** The object that everything is tried on. */
export type Probe = { readonly key: string; version: string; until: Date };

/** Something that whoever has the credentials can try against a locked object. */
export type Attempt = {
  /** What should come of it, in a few words. */
  readonly name: string;
  /** Rejects with what `statusOf` has the status of. */
  readonly run: (probe: Probe) => Promise<unknown>;
};

/** A bucket of a service, and what doctor knows of that service: all with one client. */
export type Trial = {
  readonly bucket: ServiceBucket;
  readonly attempts: readonly Attempt[];
  /** Checks of the bucket as a whole: they would do harm where an attempt succeeds, and undo it. */
  readonly whole: readonly Check[];
};

/** Returns what a service answered to an attempt. Rejects where there was no answer: then nothing was tried. */
export async function answerOf(attempt: () => Promise<unknown>): Promise<string> {
  try {
    await attempt();
    return "answered yes";
  } catch (error) {
    const status = statusOf(error);
    if (status === 0 || status >= 500) throw error;
    return `refused (${status} ${(error as Error).name})`;
  }
}

/** What it means where a bucket locks objects beyond what the log asks for, by what `found` names. */
export function lockedByItself(found: readonly string[]): Outcome {
  return found.length === 0
    ? { status: "good", message: "nothing is locked but what the log locks" }
    : {
        status: "warning",
        message: `${found.join(" and ")}: every version of the checkpoint and every partial tile stays`,
      };
}

/** What it means where removed objects are kept for some `days`. */
export function softDelete(days: number): Outcome {
  return days === 0
    ? { status: "good", message: "there is no soft delete" }
    : {
        status: "warning",
        message: `soft delete keeps, and costs, every partial tile and every older version of the checkpoint for ${days} days more`,
      };
}
