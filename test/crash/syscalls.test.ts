import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { makeChain } from "../support/chains.ts";
import { compare, runExporter, type Shown } from "./traced.ts";

// As Tessera does it (integration/fault/posix/fault_test.go): strace makes the n-th call of one name fail, or kills the
// process there, for every n; then the exporter is started again, and the whole log is compared with all that was shown.
// With MESHSEAL_STRIDE=1 every call has its run. The default takes some, other ones each time.

const STRIDE = Number(process.env["MESHSEAL_STRIDE"] ?? 12);

/** Names of calls that touch data. Of those that are made for other files as well, only calls on the data's paths count. */
const CALLS: readonly { readonly name: string; readonly ours: boolean }[] = [
  { name: "openat", ours: true },
  { name: "read", ours: true },
  { name: "write", ours: true },
  { name: "close", ours: true },
  { name: "pread64", ours: true },
  { name: "pwrite64", ours: false },
  { name: "fsync", ours: false },
  { name: "fdatasync", ours: false },
  { name: "link", ours: false },
  { name: "rename", ours: false },
  { name: "unlink", ours: false },
  { name: "rmdir", ours: false },
  { name: "mkdir", ours: false },
  { name: "ftruncate", ours: false },
];

let root = "";
let rounds: Uint8Array[][] = [];

beforeAll(() => {
  root = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "meshseal-crash-"));
  const chains = [0, 1].map(() => makeChain({ batches: 3, perBatch: 90, entryBytes: 200 }));
  rounds = [0, 1, 2].map((i) => chains.map((batches) => batches[i] as Uint8Array));
}, 120_000);

afterAll(() => rmSync(root, { recursive: true, force: true }));

/** The paths that an exporter touches in `dir`, as far as their names are known before: enough for strace's -P. */
function pathsIn(dir: string): string[] {
  const drafts = Array.from({ length: 120 }, (_, i) => `unfinished/${i}`);
  const index = ["index/data.mdb", "index/lock.mdb"];
  const others = ["lock", "log.key", "log.vkey", "log", "log/checkpoint", "wal", "unfinished"];
  const wal = ["wal/0000000000000000.wal"];
  return [...drafts, ...index, ...others, ...wal].map((name) => join(dir, name));
}

type Outcome = { readonly isHit: boolean; readonly at: string };

/** One run with the fault at the `n`-th call, one without, and the comparison. */
async function oneFault(call: (typeof CALLS)[number], fault: string, n: number): Promise<Outcome> {
  const dir = join(root, `${call.name}-${fault.replaceAll(/\W/g, "-")}-${n}`);
  const trace = `${dir}.trace`;
  const shown: Shown = { receipts: [], checkpoints: [] };
  const args = ["-y", "-o", trace, "-e", `trace=${call.name}`];
  args.push("-e", `inject=${call.name}:${fault}:when=${n}`);
  if (call.ours) args.push(...pathsIn(dir).flatMap((path) => ["-P", path]));
  // A filter in the kernel is faster, but with it strace 6.1 does not send every signal that it was told to.
  if (!fault.startsWith("signal")) args.unshift("--seccomp-bpf");
  const first = await runExporter(dir, rounds, shown, args);
  const lines = readFileSync(trace, "utf8").split("\n");
  const injected = lines.findLast((line) => line.includes("(INJECTED)"));
  const killed = first.signal === "SIGKILL" || first.code === 137;
  const what = `${call.name} ${fault} ${n}`;
  const second = await runExporter(dir, rounds, shown, null);
  if (!second.isAllReceipted) {
    throw new Error(`${what}: after it the exporter did not do its work: ${second.said}`);
  }
  await compare(dir, shown).catch((error: unknown) => {
    throw new Error(`${what}: ${error instanceof Error ? error.message : error}\n${injected}`);
  });
  rmSync(dir, { recursive: true, force: true });
  rmSync(trace);
  return { isHit: injected !== undefined || killed, at: injected ?? "" };
}

const AT_ONCE = 3;

const cases = CALLS.flatMap((call) =>
  ["error=EIO", "error=ENOSPC", "signal=KILL"].map((fault) => ({ ...call, fault })),
);

test.each(cases)(
  "$name, $fault, and a start after it",
  async ({ fault, ...call }) => {
    let next = 1 + Math.floor(Math.random() * STRIDE);
    let hits = 0;
    let isEnd = false;
    const worker = async (): Promise<void> => {
      while (!isEnd) {
        const n = next;
        next += STRIDE;
        if ((await oneFault(call, fault, n)).isHit) hits++;
        else isEnd = true;
      }
    };
    await Promise.all(Array.from({ length: STRIDE === 1 ? AT_ONCE : 1 }, worker));
    console.log(`${call.name}, ${fault}: ${hits} runs`);
    if (STRIDE === 1) expect(hits).toBeGreaterThan(0);
  },
  1_800_000,
);
