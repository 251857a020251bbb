/**
 * A hundred real take-overs: exporters on one log in a bucket of a real S3 server, with `ack: store`. The one that serves is killed with
 * -9 under load, or every fourth time stopped and woken when the other serves; the other must take over, and in the end
 * every log must verify and hold all that was receipted:
 *
 *     npx tsx scripts/take-overs.ts [--rounds 20] [--lanes 5]
 *
 * Lanes are logs side by side: most of a take-over is waiting.
 */
import { createHash } from "node:crypto";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { GetObjectCommand, ListObjectVersionsCommand } from "@aws-sdk/client-s3";
import { openSource } from "../exporter/audit/source.ts";
import { verifyLog } from "../exporter/audit/verify.ts";
import { makeKey } from "../exporter/keys.ts";
import { parseVkey } from "../exporter/log/note.ts";
import { makeChain } from "../test/support/chains.ts";
import { type Exporter, startExporter } from "../test/support/exporter.ts";
import { type S3Server, startS3 } from "../test/support/s3-server.ts";
import { sendBatch, sendChain } from "../test/support/senders.ts";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "20" },
    lanes: { type: "string", default: "5" },
  },
});

const STEPS = ["the log is claimed", "log recovered", "listening"] as const;

type Lane = {
  /** Seconds from the end of the one before to the first receipt of the next. */
  readonly seconds: number[];
  /** Seconds of each to where the next one's log says that the log is claimed, recovered, and served. */
  readonly steps: Record<(typeof STEPS)[number], number>[];
  readonly entries: number;
  /** Stopped, overtaken and woken: none of their receipts may count, and they must end. */
  zombies: number;
  zombieReceipts: number;
  /** What verify found, what was receipted and is not held, and what exporters said of bytes that were not theirs. */
  readonly problems: string[];
};

async function run(server: S3Server, bucket: string, lane: number, rounds: number): Promise<Lane> {
  const origin = `takeover.example/${lane}`;
  const dirs = [0, 1].map(() => mkdtempSync(join(tmpdir(), "meshseal-take-over-")));
  makeKey(join(dirs[0] ?? "", "log"), origin);
  for (const name of ["log.key", "log.vkey"])
    copyFileSync(join(dirs[0] ?? "", name), join(dirs[1] ?? "", name));
  const where = ["--store", `s3://${bucket}/mesh`, "--s3-endpoint", server.endpoint];
  const more = ["--s3-path-style", "--lock-days", "1", "--ack", "store", "--origin", origin];
  const args = [...where, ...more, "--checkpoint-ms", "100"];
  /** An exporter that waits for its turn; `next` resolves when it serves. */
  const standBy = async (dir: string): Promise<{ next: Promise<Exporter> }> => {
    let next: Promise<Exporter> | undefined;
    await new Promise<void>((resolve, reject) => {
      next = startExporter({
        dir,
        args,
        onLogged: ({ msg }) => String(msg).endsWith(": waiting") && resolve(),
      });
      next.catch(reject);
    });
    if (next === undefined) throw new Error("not started");
    return { next };
  };

  let holder = await startExporter({ dir: dirs[0] ?? "", args });
  const { vkey } = holder;
  let standby = await standBy(dirs[1] ?? "");
  let url = holder.url;
  let isOver = false;
  const receipted = new Map<string, number>();
  const sender = async (): Promise<void> => {
    while (!isOver) {
      const batches = makeChain({ batches: 20, perBatch: 5, entryBytes: 200 });
      await sendChain(
        () => url,
        vkey,
        batches,
        receipted,
        () => isOver,
      );
    }
  };
  const sending = Promise.all([sender(), sender()]);
  const counts: Lane = {
    seconds: [],
    steps: [],
    entries: 0,
    zombies: 0,
    zombieReceipts: 0,
    problems: [],
  };
  for (let round = 0; round < rounds; round++) {
    await sleep(300 + Math.random() * 1500);
    const isFrozen = round % 4 === 3;
    const began = performance.now();
    const beganAt = Date.now();
    if (isFrozen) process.kill(holder.pid, "SIGSTOP");
    else await holder.kill();
    const next = await standby.next;
    url = next.url;
    const [batch = new Uint8Array()] = makeChain({ batches: 1, perBatch: 3, entryBytes: 200 });
    await sendChain(() => url, vkey, [batch], receipted);
    counts.seconds.push((performance.now() - began) / 1000);
    const secondsTo = (step: string): number =>
      (Number(next.logged.find(({ msg }) => msg === step)?.["time"]) - beganAt) / 1000;
    counts.steps.push(
      Object.fromEntries(STEPS.map((step) => [step, secondsTo(step)])) as Lane["steps"][0],
    );
    if (isFrozen) {
      const other = makeChain({ batches: 1, perBatch: 3, entryBytes: 200 })[0] ?? batch;
      const answer = sendBatch(holder.url, vkey, other);
      process.kill(holder.pid, "SIGCONT");
      if ((await answer) !== null) counts.zombieReceipts++;
      // It finds out by itself: the lease is another's.
      while (isAlive(holder.pid)) await sleep(50);
      counts.zombies++;
    }
    noteForeign(holder, counts.problems);
    standby = await standBy(holder.dir);
    holder = next;
  }
  isOver = true;
  await sending;
  await holder.stop();
  const last = await standby.next;
  await last.stop();
  for (const one of [holder, last]) noteForeign(one, counts.problems);
  const log = parseVkey(vkey);
  if (log === null) throw new Error("log.vkey is no key");
  const s3 = { s3Endpoint: server.endpoint, s3PathStyle: true };
  const home = origin.replace("/", "_");
  const report = await verifyLog(await openSource(`s3://${bucket}/mesh/${home}`, s3), { log });
  for (const { cause, file, message } of report.findings) {
    const versions =
      file === undefined ? [] : await digestsOf(server, `${bucket}/mesh/${home}/${file}`);
    counts.problems.push(`${origin}: ${cause}: ${message}; versions ${versions.join(" ")}`);
  }
  const held = new Map(report.chains.map(({ chain, last }) => [chain, last + 1]));
  let entries = 0;
  for (const [chain, nextSeq] of receipted) {
    entries += nextSeq;
    const found = held.get(chain) ?? 0;
    if (found < nextSeq) counts.problems.push(`${origin}: chain ${chain}: ${found} of ${nextSeq}`);
  }
  for (const dir of dirs) rmSync(dir, { recursive: true, force: true });
  return { ...counts, entries };
}

function noteForeign({ logged }: Exporter, problems: string[]): void {
  for (const { msg, key } of logged) {
    if (String(msg).startsWith("other bytes")) problems.push(`${String(msg)}: ${String(key)}`);
  }
}

/** The SHA-256 and the time of each version of `bucket/key`. */
async function digestsOf({ client }: S3Server, path: string): Promise<string[]> {
  const [Bucket = "", ...rest] = path.split("/");
  const Key = rest.join("/");
  const { Versions = [] } = await client.send(
    new ListObjectVersionsCommand({ Bucket, Prefix: Key }),
  );
  const said: string[] = [];
  for (const { Key: key, VersionId, LastModified } of Versions) {
    if (key !== Key) continue;
    const answer = await client.send(new GetObjectCommand({ Bucket, Key, VersionId }));
    const bytes = (await answer.Body?.transformToByteArray()) ?? new Uint8Array();
    const digest = createHash("sha256").update(bytes).digest("hex").slice(0, 16);
    said.push(`${digest}@${LastModified?.toISOString()}`);
  }
  return said;
}

function median(values: readonly number[]): number | undefined {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

const server = await startS3("versitygw");
const bucket = await server.newBucket();
const lanes = Array.from({ length: Number(values.lanes) }, (_, lane) =>
  run(server, bucket, lane, Number(values.rounds)),
);
const done = await Promise.all(lanes).finally(() => server.close());
const seconds = done.flatMap((lane) => lane.seconds).sort((a, b) => a - b);
const sum = (of: (lane: Lane) => number): number => done.reduce((all, lane) => all + of(lane), 0);
console.log(
  JSON.stringify({
    takeOvers: seconds.length,
    medianSeconds: median(seconds),
    medianSecondsTo: Object.fromEntries(
      STEPS.map((step) => [step, median(done.flatMap(({ steps }) => steps.map((to) => to[step])))]),
    ),
    longestSeconds: seconds.at(-1),
    receipted: sum(({ entries }) => entries),
    zombies: sum(({ zombies }) => zombies),
    zombieReceipts: sum(({ zombieReceipts }) => zombieReceipts),
    problems: done.flatMap(({ problems }) => problems),
  }),
);
if (done.some(({ problems, zombieReceipts }) => problems.length + zombieReceipts > 0))
  process.exitCode = 1;
