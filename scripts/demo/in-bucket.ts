/**
 * The part of the demonstration that is about a bucket: how soon after the last request the log is verified, locked and anchored,
 * what can be tried against it, and that it goes on where somebody has put a locked object in its way.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { request } from "undici";
import type { VerifyReport } from "../../exporter/audit/report.ts";
import type { Exporter } from "../../test/support/exporter.ts";
import type { Tried } from "./attacks.ts";
import type { Outside } from "./outside.ts";

/** Seconds from the last request's end. */
export type Reached = {
  readonly verified: number;
  readonly witnessed: number;
  readonly timeStamped: number;
  readonly locked: number;
};

export type BucketSummary = {
  readonly server: string;
  readonly witness: string;
  readonly seconds: Reached;
  readonly immutable: string;
  readonly attempts: readonly Tried[];
  /** The log after all of them, when what they added was removed again. */
  readonly verifiedAfter: boolean;
  readonly planted: {
    readonly paths: readonly string[];
    readonly sent: number;
    readonly requestEntries: number;
    /** What verify says in the end: the planted files by name, and nothing else. */
    readonly named: readonly string[];
  };
  readonly verify: string;
};

/** The service level, and some more to say by how much it was missed. */
const WITHIN_MS = 120_000;
const LEVEL_SECONDS = 60;

/**
 * Waits until all that the exporter has now is verified and locked, as an auditor sees it who has only the bucket, and until
 * witness and authority have signed a checkpoint over it. That their proofs are in the bucket is for `attack` to see.
 */
export async function watch(
  outside: Outside,
  { url }: Exporter,
  lastRequest: number,
): Promise<{ seconds: Reached; immutable: string }> {
  const { treeSize, immutable } = await published(url);
  const late = Number.POSITIVE_INFINITY;
  const seconds = { verified: late, witnessed: late, timeStamped: late, locked: late };
  while (Object.values(seconds).includes(late) && Date.now() - lastRequest < WITHIN_MS) {
    const sizes = { ...inBucket(await outside.verify()), ...(await anchored(url)) };
    for (const key of Object.keys(seconds) as (keyof Reached)[]) {
      if (seconds[key] === late && sizes[key] >= treeSize)
        seconds[key] = (Date.now() - lastRequest) / 1000;
    }
    await sleep(250);
  }
  return { seconds, immutable };
}

type State = {
  readonly treeSize: number;
  readonly unpublished: number;
  readonly immutable: string;
  readonly anchors: readonly { name: string; size: number }[];
};

const readyz = async (url: string): Promise<State> =>
  (await (await request(`${url}/readyz`)).body.json()) as State;

async function published(url: string): Promise<State> {
  for (;;) {
    const state = await readyz(url);
    if (state.unpublished === 0) return state;
    await sleep(50);
  }
}

/** How many entries each outsider has signed. */
async function anchored(url: string): Promise<Pick<Reached, "witnessed" | "timeStamped">> {
  const { anchors } = await readyz(url);
  const of = (name: string): number => anchors.find((anchor) => anchor.name === name)?.size ?? 0;
  return { witnessed: of("witnesses"), timeStamped: of("tsa") };
}

function inBucket(report: VerifyReport): Pick<Reached, "verified" | "locked"> {
  const { findings, treeSize, anchors } = report;
  // A witness that has not signed the newest checkpoint yet makes the log incomplete by this policy.
  const isHonest = findings.every(({ severity }) => severity === "incomplete");
  const lock = anchors.find(({ kind, status }) => kind === "object-lock" && status === "verified");
  return { verified: isHonest ? treeSize : 0, locked: lock?.treeSize ?? 0 };
}

/** What the policy of an auditor would ask for. */
const REQUIRED = ["witness", "rfc3161", "object-lock"].map((anchor) => ({
  anchor,
  maxAgeSeconds: LEVEL_SECONDS,
}));

export type Attacked = {
  readonly report: VerifyReport;
  readonly attempts: readonly Tried[];
  readonly verifiedAfter: boolean;
  readonly planted: readonly string[];
};

/** Attacks the log of an exporter that has stopped. Plants, at the end, what the next start must go past. */
export async function attack(outside: Outside, onTried: (tried: Tried) => void): Promise<Attacked> {
  // With the SDK of S3: only where it is asked for.
  const { plant, tryEverything } = await import("./attacks.ts");
  const report = await outside.verify(REQUIRED);
  const attempts = await tryEverything(outside, onTried);
  const after = await outside.verify(REQUIRED);
  const planted = await plant(outside, report.treeSize);
  return { report, attempts, verifiedAfter: after.verdict === "verified", planted };
}

/** What verify names in a log, a line each. */
export function namedIn(report: VerifyReport): string[] {
  return report.findings.map(({ cause, file }) => `${cause} ${file ?? ""}`).sort();
}

/** Whether all is as it should be: the exit code of the demonstration. */
export function isSafe(summary: BucketSummary): boolean {
  const { seconds, attempts, verifiedAfter, planted, immutable } = summary;
  const { paths, sent, requestEntries, named } = planted;
  return (
    immutable === "yes" &&
    Object.values(seconds).every((one) => one <= LEVEL_SECONDS) &&
    attempts.every(({ outcome }) => outcome !== "NOT FOUND") &&
    verifiedAfter &&
    sent === requestEntries &&
    named.join() ===
      paths
        .map((path) => `extra-version ${path}`)
        .sort()
        .join()
  );
}

export function printBucket(summary: BucketSummary): void {
  const { server, witness, seconds, attempts, verifiedAfter, planted } = summary;
  const line = (what: string, after: number): string =>
    `    ${what.padEnd(26)} ${after.toFixed(1)} s`;
  console.log(`
  In a bucket of ${server}, with a time stamp authority (openssl ts) and a witness (${witness}).
  After the last request all of it was:
${line("verified from the bucket", seconds.verified)}
${line("witnessed", seconds.witnessed)}
${line("time-stamped", seconds.timeStamped)}
${line("below a locked checkpoint", seconds.locked)}

  Then the exporter's own credentials tried:`);
  for (const { attempt, outcome, how } of attempts)
    console.log(`    ${outcome.padEnd(9)} ${attempt}: ${how}`);
  console.log(`
  What they added was removed again: the log ${verifiedAfter ? "VERIFIES" : "DOES NOT VERIFY"}, nothing was lost.
  Then locked bytes were planted where its next files would be. The exporter went on: ${planted.sent} requests in all, ${planted.requestEntries} in the log.
  verify names them: ${planted.named.join(", ")}

  The servers are stopped and their bucket is gone. It was verified as with
    ${summary.verify}
`);
}
