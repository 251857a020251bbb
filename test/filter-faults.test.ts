/** The host fails: any call, at any time. The filter must never trap, never make a wrong link, and count what it could not write. */
import { createHash } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import { signReceipt } from "../exporter/log/receipt.ts";
import { parseBatchHeader } from "../record/batch.ts";
import { decodeEntry, type Entry, uintOf } from "../record/codec.ts";
import * as f from "../record/fields.ts";
import { signer, stream } from "./support/filter.ts";
import { type Call, Host } from "./support/host.ts";

/** What Envoy's calls return when they fail: NotFound, BadArgument, ..., CasMismatch, InternalFailure, Unimplemented. */
const STATUSES = [1, 2, 3, 4, 6, 7, 8, 10, 12];
const ENFORCE = { module: "build/enforce.wasm" };
const CONFIG = '{"bufferBytes":65536,"batchBytes":4096,"heartbeatMs":1000,"enforceMs":1000}';

type Op =
  | "request"
  | "flood"
  | "headers"
  | "tick"
  | "receipt"
  | "nonsense"
  | "refuse"
  | "update"
  | "end";

/** Drives one filter, and holds everything it sends to be one history of each chain. */
class Run {
  readonly host: Host;
  requests = 0;
  /** Requests in entries that were sent, gaps that were sent, by chain and seq. */
  readonly #seen = new Map<string, { digest: string; entry: Entry }>();
  #root = 1;
  #taken = 0;

  constructor(host: Host) {
    this.host = host;
  }

  step(op: Op, path: string): void {
    const { host } = this;
    const call = host.calls.at(-1);
    if (op === "request") this.#request(path);
    else if (op === "flood") for (let i = 0; i < 80; i++) this.#request(path);
    else if (op === "headers") host.requestHeaders(stream(path));
    else if (op === "tick") host.tick(400, this.#root);
    else if (op === "receipt" && call) host.answer(call, receiptOf(call));
    else if (op === "nonsense" && call)
      host.answer(call, [
        [":status", "200"],
        ["meshseal-receipt", path],
      ]);
    else if (op === "refuse" && call)
      host.answer(call, [
        [":status", "409"],
        ["meshseal-refusal", "hole"],
        ["meshseal-want", "0"],
      ]);
    else if (op === "update" && host.configure(CONFIG, this.#root + 1)) {
      this.#root++;
      host.done(this.#root - 1);
    }
    this.#check();
  }

  #request(path: string): void {
    this.requests++;
    this.host.request(stream(path));
  }

  /** Every batch that was sent since the last time, against all before it. */
  #check(): void {
    for (; this.#taken < this.host.calls.length; this.#taken++)
      this.#take(this.host.calls[this.#taken] as Call);
  }

  #take(call: Call): void {
    const { chain, firstSeq, entries, digests } = read(call);
    let before = this.#seen.get(`${chain}:${firstSeq - 1}`)?.digest;
    entries.forEach((entry, i) => {
      const at = `${chain}:${firstSeq + i}`;
      const digest = digests[i] ?? "";
      if (entry.seq !== firstSeq + i) throw new Error(`${at} has seq ${entry.seq}`);
      if (before !== undefined && Buffer.from(entry.prev).toString("hex") !== before)
        throw new Error(`${at} does not follow the entry before it`);
      const known = this.#seen.get(at);
      if (known !== undefined && known.digest !== digest) throw new Error(`${at} is two entries`);
      this.#seen.set(at, { digest, entry });
      before = digest;
    });
  }

  /** The host is well again: everything comes, and adds up. */
  settle(): void {
    const { host } = this;
    host.fault = () => 0;
    let next = host.calls.length;
    const last = host.calls.at(-1);
    if (last) host.answer(last, receiptOf(last));
    let quiet = 0;
    for (let i = 0; i < 400 && quiet < 8; i++) {
      // Longer than any time limit of a call, and half of the longest wait after a failure.
      host.tick(7000, this.#root);
      this.#check();
      quiet = next === host.calls.length ? quiet + 1 : 0;
      for (; next < host.calls.length; next++) {
        const call = host.calls[next];
        if (call) host.answer(call, receiptOf(call));
      }
    }
    const entries = [...this.#seen.values()].map(({ entry }) => entry);
    const written = entries.filter(({ kind }) => kind === f.KIND_REQUEST).length;
    const gaps = entries.filter(({ kind }) => kind === f.KIND_GAP);
    const missed = gaps.reduce((sum, gap) => sum + (uintOf(gap, f.F_GAP_COUNT) ?? 0), 0);
    const lost = entries.reduce((sum, entry) => sum + (uintOf(entry, f.F_ABANDONED_COUNT) ?? 0), 0);
    // A chain that was given up may have held entries that are not requests, and such as were sent before.
    expect(written + missed).toBeLessThanOrEqual(this.requests);
    expect(written + missed + lost).toBeGreaterThanOrEqual(this.requests);
    if (lost === 0) expect(written + missed).toBe(this.requests);
  }
}

/** The entries of a batch, canonical or an Error is thrown: `expect` would take most of the time here. */
function read({ body }: Call): {
  chain: string;
  firstSeq: number;
  entries: Entry[];
  digests: string[];
} {
  const header = parseBatchHeader(body);
  if (header === null) throw new Error("no batch");
  const entries: Entry[] = [];
  const digests: string[] = [];
  for (let at = header.entriesAt; at < body.length; ) {
    const end = at + 3 + body.readUInt16BE(at);
    const entry = decodeEntry(body.subarray(at + 3, end));
    if (entry === null || entry.isNewer)
      throw new Error(`malformed: ${body.toString("hex", at, end)}`);
    entries.push(entry);
    digests.push(
      createHash("sha256")
        .update(body.subarray(at + 2, end))
        .digest("hex"),
    );
    at = end;
  }
  if (entries.length !== header.count) throw new Error("another count");
  return {
    chain: Buffer.from(header.chain).toString("hex"),
    firstSeq: header.firstSeq,
    entries,
    digests,
  };
}

function receiptOf(call: Call): [string, string][] {
  const { chain, firstSeq, digests } = read(call);
  const nextSeq = firstSeq + digests.length;
  const head = digests.at(-1) ?? "";
  const tree = { treeSize: 0, treeRoot: Buffer.alloc(32) };
  const note = signReceipt({ origin: signer.name, chain, nextSeq, head, ...tree }, signer);
  return [
    [":status", "200"],
    ["meshseal-receipt", Buffer.from(note).toString("base64")],
  ];
}

async function newRun(): Promise<Run> {
  const { host, isAccepted } = await Host.start(CONFIG, ENFORCE);
  expect(isAccepted).toBe(true);
  return new Run(host);
}

const SCENARIO: Op[] = [
  ...(["request", "tick", "receipt", "headers", "request", "tick", "update", "request"] as const),
  ...(["receipt", "tick", "tick", "tick", "request", "nonsense", "tick", "receipt"] as const),
  ...(["request", "tick", "refuse", "request", "tick", "receipt", "update", "tick"] as const),
];

test("one call fails, each in its turn: no trap, no wrong link, nothing uncounted", async () => {
  let calls = 1;
  for (let failing = 1; failing <= calls; failing++) {
    for (const status of [10]) {
      const run = await newRun();
      let count = 0;
      run.host.fault = () => (++count === failing ? status : 0);
      for (const [i, op] of SCENARIO.entries()) run.step(op, `/${i}`);
      calls = Math.min(count, 600);
      run.settle();
    }
  }
  expect(calls).toBeGreaterThan(100);
}, 300_000);

test("a kind of call fails for good, and comes back: no trap, no wrong link, nothing uncounted", async () => {
  const names = new Set<string>();
  const all = await newRun();
  all.host.fault = (name) => {
    names.add(name);
    return 0;
  };
  for (const [i, op] of SCENARIO.entries()) all.step(op, `/${i}`);
  expect(names.size).toBeGreaterThan(10);
  for (const failing of names) {
    const run = await newRun();
    run.host.fault = (name) => (name === failing ? 10 : 0);
    for (const [i, op] of SCENARIO.entries()) run.step(op, `/${i}`);
    run.settle();
  }
}, 120_000);

test("any calls fail in any order: no trap, no wrong link, nothing uncounted", async () => {
  const ops = fc.constantFrom<Op>(
    ...(["request", "request", "request", "flood", "headers", "tick", "tick"] as const),
    ...(["receipt", "receipt", "nonsense", "refuse", "update"] as const),
  );
  const step = fc.record({
    op: ops,
    path: fc.stringMatching(/^\/[a-z]{0,20}$/),
    faults: fc.array(fc.tuple(fc.nat(30), fc.constantFrom(...STATUSES)), { maxLength: 4 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const run = await newRun();
      for (const { op, path, faults } of steps) {
        let count = 0;
        run.host.fault = () => {
          const now = count++;
          return faults.find(([at]) => at === now)?.[1] ?? 0;
        };
        run.step(op, path);
      }
      run.settle();
    }),
    { numRuns: 60 },
  );
}, 300_000);
