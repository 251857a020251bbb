import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { makeChain } from "../support/chains.ts";
import { type Call, callsIn, injection, partOf, TRACE_ALL } from "./calls.ts";
import { compare, runExporter, type Shown } from "./traced.ts";

// As Tessera does it (integration/fault/posix/fault_test.go): strace makes one system call fail, or kills the process there, for every
// call; then the exporter is started again, and the whole log is compared with all that was shown. Which calls there are, a run without
// a fault says first: MESHSEAL_STRIDE=1 takes each of them. The default takes one in 12, other ones each time; MESHSEAL_OFFSET says
// which, so that MESHSEAL_STRIDE=12 with MESHSEAL_OFFSET=0 to 11 is the whole in twelve parts.

const STRIDE = Number(process.env["MESHSEAL_STRIDE"] ?? 12);
const OFFSET = Number(process.env["MESHSEAL_OFFSET"] ?? Math.floor(Math.random() * STRIDE));

/** Calls depend a little on time: one may come later, or not at all, once in so many runs. */
const TRIES = 3;

const root = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "meshseal-crash-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const chains = [0, 1].map(() => makeChain({ batches: 3, perBatch: 90, entryBytes: 200 }));
const rounds = [0, 1, 2].map((i) => chains.map((batches) => batches[i] as Uint8Array));

type Begin = {
  readonly name: string;
  /** Makes the data directory, and returns what was shown of it. */
  readonly make: (dir: string) => Shown;
  /** What is sent to the exporter that meets the fault. */
  readonly sent: readonly (readonly Uint8Array[])[];
};

const nothing = (): Shown => ({ receipts: [], checkpoints: [] });

/** Killed between two files of its third checkpoint at the latest: drafts lie about, and the WAL has batches that no tile has. */
async function killedExporter(): Promise<Begin> {
  const killed = join(root, "killed");
  const shown = nothing();
  const call = { name: "link", place: "unfinished/*", nth: 6, faults: [] };
  const end = await runExporter(killed, rounds.slice(0, 2), shown, [
    "-o",
    "/dev/null",
    ...injection(call, "signal=KILL", killed),
  ]);
  if (end.signal !== "SIGKILL") throw new Error(`it was not killed: ${end.said}`);
  return {
    name: "a start after a kill, and a stop",
    sent: [],
    make: (dir) => {
      cpSync(killed, dir, { recursive: true, preserveTimestamps: true });
      return { receipts: [...shown.receipts], checkpoints: [...shown.checkpoints] };
    },
  };
}

/** Returns the calls of a run without a fault. */
async function callsOf(begin: Begin): Promise<Call[]> {
  const dir = join(root, "reference");
  const trace = `${dir}.trace`;
  const shown = begin.make(dir);
  const run = await runExporter(dir, begin.sent, shown, [...TRACE_ALL, "-o", trace]);
  if (!run.isWhole) throw new Error(`without a fault: ${run.said}`);
  await compare(dir, shown);
  const calls = callsIn(readFileSync(trace, "utf8"), dir);
  rmSync(dir, { recursive: true });
  return calls;
}

let count = 0;

/** One run with the fault at the call, one without, and the comparison. Returns whether the call came. */
async function oneFault(begin: Begin, call: Call, fault: string): Promise<boolean> {
  const dir = join(root, `${count++}`);
  const trace = `${dir}.trace`;
  const shown = begin.make(dir);
  const first = await runExporter(dir, begin.sent, shown, [
    "-o",
    trace,
    ...injection(call, fault, dir),
  ]);
  const injected = readFileSync(trace, "utf8")
    .split("\n")
    .findLast((line) => line.includes("(INJECTED)"));
  const second = await runExporter(dir, rounds, shown, null);
  if (!second.isWhole) {
    throw new Error(`after it the exporter did not do its work: ${second.said}\n${injected}`);
  }
  await compare(dir, shown).catch((cause: unknown) => {
    throw new Error(`${cause instanceof Error ? cause.message : cause}\n${injected}`, { cause });
  });
  rmSync(dir, { recursive: true, force: true });
  rmSync(trace);
  return injected !== undefined || first.signal === "SIGKILL" || first.code === 137;
}

const begins: readonly Begin[] = [
  { name: "a first start, work, and a stop", make: nothing, sent: rounds },
  await killedExporter(),
];
const reference = new Map<Begin, Call[]>();
for (const begin of begins) reference.set(begin, await callsOf(begin));

describe.each(begins)("$name", (begin) => {
  const all = (reference.get(begin) ?? []).flatMap((call) =>
    call.faults.map((fault) => ({ ...call, fault })),
  );
  const cases = all.filter(
    ({ name, place, nth, fault }) =>
      partOf(`${begin.name} ${name} ${place} ${nth} ${fault}`, STRIDE) === OFFSET,
  );
  const runs: Record<string, number> = {};
  const missed: string[] = [];

  test.concurrent.each(cases)(
    "$name of $place, time $nth, $fault",
    async ({ fault, ...call }) => {
      for (let tries = 0; tries < TRIES; tries++) {
        if (!(await oneFault(begin, call, fault))) continue;
        const key = `${call.name} ${fault}`;
        runs[key] = (runs[key] ?? 0) + 1;
        return;
      }
      missed.push(`${call.name} of ${call.place}, time ${call.nth}, ${fault}`);
    },
    600_000,
  );

  test("nearly all of these calls came", () => {
    const part = { offset: OFFSET, stride: STRIDE, cases: cases.length, of: all.length };
    console.log(JSON.stringify({ begin: begin.name, ...part, runs, missed }));
    expect(all.length).toBeGreaterThan(100);
    expect(missed.length).toBeLessThanOrEqual(cases.length / 10);
  });
});
