import { execFile } from "node:child_process";
import {
  chmodSync,
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { request } from "undici";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parsePolicy } from "../exporter/audit/policy.ts";
import { inDirectory } from "../exporter/audit/proofs.ts";
import type { VerifyReport } from "../exporter/audit/report.ts";
import { openSource } from "../exporter/audit/source.ts";
import { verifyLogs } from "../exporter/audit/union.ts";
import { verifyLog } from "../exporter/audit/verify.ts";
import { makeKey } from "../exporter/keys.ts";
import { COSIGNATURE, parseCosignerVkey } from "../exporter/log/cosignature.ts";
import { openNote, parseSkey, parseVkey, signNote, type Verifier } from "../exporter/log/note.ts";
import { bytesOf } from "../record/codec.ts";
import { F_ANCHOR, F_PEER_CHECKPOINT, KIND_ANCHORS, KIND_PEERS } from "../record/fields.ts";
import { type Calendar, startCalendar } from "./support/calendar.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { checkLog, entriesOf } from "./support/log.ts";
import { memoryLog } from "./support/memory-log.ts";
import { type Shelf, startShelf } from "./support/shelf.ts";
import { startTsa, type Tsa } from "./support/tsa.ts";
import { startWitness, type TestWitness } from "./support/witness.ts";

type Side = { dir: string; port: number; log: string; peer: string };
let tsa: Tsa;
let calendar: Calendar;
let shelf: Shelf;

/** Every kind of outsider, as the configuration names them. */
function outsiders(): object {
  const policy = [`witness one ${witness.vkey} ${witness.url}`, "quorum one"];
  return {
    witnesses: { policy, everySeconds: 0.5 },
    timestamps: [{ name: "tsa", url: tsa.url, roots: tsa.root, everySeconds: 1 }],
    opentimestamps: { calendars: [calendar.url], everySeconds: 600 },
    put: [{ name: "shelf", url: `${shelf.url}/{size}`, everySeconds: 1 }],
  };
}

const MAIN = join(import.meta.dirname, "../exporter/cli/main.ts");

/** Runs the command. */
async function meshseal(...args: string[]): Promise<{ code: number; stdout: string }> {
  const run = promisify(execFile);
  try {
    const { stdout } = await run(process.execPath, ["--import", "tsx", MAIN, ...args]);
    return { code: 0, stdout };
  } catch (error) {
    const { code, stdout } = error as { code: number; stdout: string };
    return { code, stdout };
  }
}

type Details = { name: string; status: string; size: number; error: string };

let exporters: Exporter[] = [];
let witness: TestWitness;
let sides: Side[] = [];

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const address = server.address();
  await new Promise((done) => server.close(done));
  return typeof address === "object" && address !== null ? address.port : 0;
}

/** Two replicas that are each other's peers; the first one has a witness too, and asks for two where one is away. */
beforeAll(async () => {
  sides = await Promise.all(
    ["a", "b"].map(async (name) => {
      const dir = mkdtempSync(join(tmpdir(), "meshseal-anchors-"));
      const origin = `replica.example/${name}`;
      const log = makeKey(join(dir, "log"), origin);
      const peer = makeKey(join(dir, "peer"), `${origin}/peer`, COSIGNATURE);
      return { dir, port: await freePort(), log, peer };
    }),
  );
  const logs = sides.map(({ log }) => parseVkey(log) as Verifier);
  witness = await startWitness("wit.example/one", logs);
  [tsa, calendar, shelf] = await Promise.all([startTsa(), startCalendar(), startShelf()]);
  const peersOf = (own: Side): object[] =>
    sides
      .filter((side) => side !== own)
      .map(({ port, log, peer }) => ({ url: `http://127.0.0.1:${port}`, log, cosigner: peer }));
  exporters = await Promise.all(
    sides.map(async (side, i) => {
      const anchors = {
        ...(i === 0 ? { ...outsiders(), required: ["witnesses", "tsa"] } : {}),
        peers: peersOf(side),
      };
      const file = join(side.dir, "anchors.json");
      writeFileSync(file, JSON.stringify(anchors));
      return await startExporter({
        dir: side.dir,
        port: side.port,
        args: ["--anchors", file, "--checkpoint-ms", "100"],
      });
    }),
  );
});

afterAll(async () => {
  await Promise.all(exporters.map(({ stop }) => stop()));
  await Promise.all([witness.stop(), tsa.stop(), calendar.stop(), shelf.stop()]);
});

async function details(exporter: Exporter | undefined): Promise<Details[]> {
  const answer = await request(`${exporter?.url}/readyz`);
  return ((await answer.body.json()) as { anchors: Details[] }).anchors;
}

async function until<T>(read: () => Promise<T>, isDone: (value: T) => boolean): Promise<T> {
  for (;;) {
    const value = await read();
    if (isDone(value)) return value;
    await new Promise((done) => setTimeout(done, 50));
  }
}

test("the served checkpoint carries the witness's and the peer's cosignatures", async () => {
  const [first] = exporters;
  const cosigners = [witness.vkey, sides[1]?.peer ?? ""].map(
    (vkey) => parseCosignerVkey(vkey) as Verifier,
  );
  const note = await until(
    async () => await (await request(`${first?.url}/log/checkpoint`)).body.text(),
    (text) => cosigners.every((key) => openNote(Buffer.from(text), [key]) !== null),
  );
  expect(note).toContain("— replica.example/b/peer ");
  const found = await details(first);
  expect(found).toMatchObject([
    { name: "witnesses", kind: "witness", status: "healthy", isRequired: true },
    { name: "tsa", kind: "rfc3161", status: "healthy", isRequired: true },
    { name: "bitcoin", kind: "opentimestamps", status: "healthy" },
    { name: "shelf", kind: "put", status: "healthy" },
    { name: "peers", kind: "peer", status: "healthy", isRequired: false },
  ]);
});

test("the delay from entry to proof is measured, and what failed is counted", async () => {
  const [first, second] = exporters;
  const metrics = await until(
    async () => await (await request(`${first?.url}/metrics`)).body.text(),
    (text) => /meshseal_anchor_seconds_count [1-9]/.test(text),
  );
  expect(metrics).toMatch(
    /meshseal_anchor_attempts_total\{anchor="witnesses",outcome="proved"\} [1-9]/,
  );
  expect(metrics).toContain('meshseal_anchor_clock_seconds{anchor="tsa"} 0\n');
  expect(metrics).toMatch(/meshseal_anchor_late\{anchor="witnesses"\} 0/);
  // Peers are no outsiders: they do not count for the service level.
  const other = await (await request(`${second?.url}/metrics`)).body.text();
  expect(other).toMatch(/meshseal_anchor_seconds_count 0/);
});

test("a clean stop anchors the last checkpoint, and the log tells of its anchors and peers", async () => {
  // The other replica has shown its checkpoint.
  await until(
    () => details(exporters[1]),
    (found) => (found[0]?.size ?? 0) > 0,
  );
  const [first] = exporters;
  const [side] = sides;
  if (first === undefined || side === undefined) throw new Error("no exporter");
  expect(await first.stop()).toBe(0);
  const report = await checkLog(side.dir);
  const entries = await entriesOf(side.dir);
  const names = entries
    .filter(({ kind }) => kind === KIND_ANCHORS)
    .flatMap(({ fields }) => fields.filter(({ number }) => number === F_ANCHOR))
    .map(({ value }) => Buffer.from(value as Uint8Array).toString());
  expect(names.join(" ")).toMatch(/witnesses|peers/);
  const peers = entries.find(({ kind }) => kind === KIND_PEERS);
  const seen = Buffer.from((peers && bytesOf(peers, F_PEER_CHECKPOINT)) ?? []);
  expect(openNote(seen, [parseVkey(sides[1]?.log ?? "") as Verifier])).not.toBeNull();
  const held = readFileSync(join(side.dir, "anchors/checkpoint"));
  const text = openNote(held, [parseCosignerVkey(witness.vkey) as Verifier])?.text;
  expect(text).toContain(`\n${report.treeSize}\n`);
  const [day = ""] = readdirSync(join(side.dir, "anchors")).filter((name) => name.startsWith("2"));
  expect(readdirSync(join(side.dir, "anchors", day))).toContain(
    `${report.treeSize}.witnesses.cosignature`,
  );
});

describe("verify, by a policy from outside", () => {
  let policy: Record<string, unknown>;
  let headers = "";

  /** The report on the first replica's log, or on a changed copy of its proofs. */
  async function verified(given: object, proofs = join(dir(), "anchors")): Promise<VerifyReport> {
    const parsed = parsePolicy(JSON.stringify({ ...policy, ...given }), (name) =>
      name === "headers" ? Buffer.from(headers) : readFileSync(name),
    );
    const source = await openSource(dir());
    return await verifyLog(source, { policy: parsed, proofs: inDirectory(proofs) });
  }
  const dir = (): string => sides[0]?.dir ?? "";
  const kinds = (report: VerifyReport): string[] =>
    report.anchors.map(({ kind, status }) => `${kind} ${status}`).sort();
  const require_ = [{ anchor: "witness" }, { anchor: "rfc3161", name: "tsa" }];

  beforeAll(() => {
    policy = {
      logs: [{ key: sides[0]?.log }],
      witnesses: [`witness one ${witness.vkey}`, "quorum one"],
      timestampAuthorities: [{ name: "tsa", roots: tsa.root }],
      require: require_,
    };
    const block = calendar.mine(1_767_139_200);
    headers = `${block.height} ${block.header}\n`;
  });

  test("every proof is checked, and says in a sentence what it proves", async () => {
    const report = await verified({});
    expect(report.findings).toEqual([]);
    expect(kinds(report)).toEqual([
      "opentimestamps pending",
      "put not-checked",
      "quorum verified",
      "rfc3161 verified",
      "witness verified",
    ]);
    const says = report.anchors.map((anchor) => anchor.says).join("\n");
    expect(says).toMatch(/existed before 2\d{3}-.*by the time stamp authority tsa/);
    expect(says).toContain(`${report.treeSize} entries were witnessed by 1 of 1`);
    expect(report.notes.join()).toContain("replica.example/b/peer was not checked: no key given");
    const [put] = [...shelf.held.values()];
    expect(
      openNote(put ?? Buffer.alloc(0), [parseVkey(sides[0]?.log ?? "") as Verifier]),
    ).not.toBeNull();
  });

  test("what is required and not there is incomplete; what no key was given for cannot be said", async () => {
    const ots = await verified({ require: [...require_, { anchor: "opentimestamps" }] });
    expect(ots.verdict).toBe("incomplete");
    expect(ots.findings[0]?.cause).toBe("anchor-missing");
    const blind = await verified({ timestampAuthorities: [] });
    expect(blind.verdict).toBe("cannot-say");
    expect(kinds(blind)).toContain("rfc3161 not-checked");
    const other = await verified({ timestampAuthorities: [{ name: "other", roots: tsa.root }] });
    expect(other.verdict).toBe("incomplete");
  });

  test("the delay to the first outsider is measured from entries; a proof that the log got and that is gone is named", async () => {
    const { delays, anchors } = await verified({});
    expect(delays?.entries).toBeGreaterThan(0);
    // Both exporters had a minute at most; a negative delay is none.
    expect(delays?.medianSeconds).toBeGreaterThanOrEqual(0);
    expect(delays?.worstSeconds).toBeGreaterThanOrEqual(delays?.medianSeconds ?? 0);
    const copy = mkdtempSync(join(tmpdir(), "meshseal-anchors-"));
    cpSync(join(dir(), "anchors"), copy, { recursive: true });
    for (const name of readdirSync(copy, { recursive: true, encoding: "utf8" }))
      if (name.endsWith(".tsr")) rmSync(join(copy, name), { force: true });
    const lost = await verified({ require: [] }, copy);
    expect(lost.verdict).toBe("incomplete");
    const named = lost.findings.filter(({ cause }) => cause === "anchor-lost");
    expect(named).toHaveLength(1);
    expect(named[0]?.message).toMatch(/got \d+ proofs by tsa that are not here/);
    expect(anchors.some(({ kind }) => kind === "rfc3161")).toBe(true);
  });

  test("a changed proof, and a log that was put back below an anchored size, are found", async () => {
    const copy = mkdtempSync(join(tmpdir(), "meshseal-anchors-"));
    cpSync(join(dir(), "anchors"), copy, { recursive: true });
    const [day = ""] = readdirSync(copy).filter((name) => name.startsWith("2"));
    const token = readdirSync(join(copy, day)).find((name) => name.endsWith(".tsr")) ?? "";
    const bytes = readFileSync(join(copy, day, token));
    // In the middle of the signature at its end.
    bytes[bytes.length - 10] = (bytes[bytes.length - 10] ?? 0) ^ 1;
    chmodSync(join(copy, day, token), 0o644);
    writeFileSync(join(copy, day, token), bytes);
    const broken = await verified({}, copy);
    expect(broken.findings).toMatchObject([{ severity: "tampered", cause: "anchor-broken" }]);
    const rolled = await memoryLog("replica.example/a", "another history");
    await rolled.grow(2, 1_767_139_200);
    // The operator has the key: what is served is signed well, and contradicts what outsiders have seen.
    const key = parseSkey(readFileSync(join(dir(), "log.key"), "utf8").trim());
    const note = await rolled.store.get("checkpoint");
    const text = note?.toString().slice(0, note.indexOf("\n\n") + 1) ?? "";
    const signed = Buffer.from(signNote(text, key === null ? [] : [key]));
    const { read } = rolled.source;
    const parsed = parsePolicy(JSON.stringify(policy), (name) => readFileSync(name));
    const report = await verifyLog(
      { read: async (path, limit) => (path === "checkpoint" ? signed : read(path, limit)) },
      { policy: parsed, proofs: inDirectory(join(dir(), "anchors")) },
    );
    expect(report.verdict).toBe("tampered");
    expect(report.findings.map(({ cause }) => cause)).toContain("anchor-contradicted");
  });

  test("the command checks all of it over HTTP, and two replicas together", async () => {
    const [side, other] = sides as [Side, Side];
    const file = join(dir(), "policy.json");
    const logs = [{ key: side.log }, { key: other.log }];
    writeFileSync(
      file,
      JSON.stringify({ ...policy, logs, timestampAuthorities: [{ name: "tsa", roots: tsa.root }] }),
    );
    // No anchors are asked for now: what is there is served all the same.
    const again = await startExporter({ dir: dir() });
    const served = await meshseal("verify", `${again.url}/log`, "--policy", file);
    expect(served).toMatchObject({ code: 0 });
    expect(served.stdout).toMatch(/^VERIFIED/);
    expect(served.stdout).toContain("by the time stamp authority tsa");
    expect(served.stdout).toContain("entries were witnessed by 1 of 1");
    expect(served.stdout).toMatch(/outsiders {3}saw an entry after [\d.]+ s \(median\)/);
    expect(await again.stop()).toBe(0);

    writeFileSync(file, JSON.stringify({ logs }));
    const anchors = ["--anchors", join(dir(), "anchors"), join(other.dir, "anchors")];
    const both = await meshseal("verify", dir(), other.dir, "--policy", file, ...anchors);
    expect(both.stdout).toMatch(
      /replica\.example\/a has seen replica\.example\/b with \d+ entries, which it has/,
    );
    expect(both.stdout).toContain("rfc3161 not-checked");
    expect(both.code).toBe(0);
    // The other one with its key, and another history.
    const rolled = await memoryLog("replica.example/b", "rolled back");
    await rolled.grow(1, 1_767_139_200);
    const key = parseSkey(readFileSync(join(other.dir, "log.key"), "utf8").trim());
    const note = await rolled.store.get("checkpoint");
    const text = note?.toString().slice(0, note.indexOf("\n\n") + 1) ?? "";
    const signed = Buffer.from(signNote(text, key === null ? [] : [key]));
    const { read } = rolled.source;
    const source = {
      read: async (path: string, limit: number) =>
        path === "checkpoint" ? signed : read(path, limit),
    };
    const parsed = parsePolicy(JSON.stringify({ logs }), (name) => readFileSync(name));
    const report = await verifyLogs([await openSource(dir()), source], { policy: parsed });
    expect(report.findings).toMatchObject([{ severity: "tampered", cause: "peer-contradicted" }]);
    const alone = await verifyLogs([await openSource(dir())], { policy: parsed });
    expect(alone.findings).toMatchObject([{ severity: "incomplete", cause: "peer-missing" }]);
  });

  test("a Bitcoin block that came later is asked for after a restart, and proves the time with its header", async () => {
    const again = await startExporter({
      dir: dir(),
      args: ["--anchors", join(dir(), "anchors.json"), "--checkpoint-ms", "100"],
    });
    const find = (ending: string): string[] =>
      readdirSync(join(dir(), "anchors"), { recursive: true, encoding: "utf8" }).filter((name) =>
        name.endsWith(ending),
      );
    await until(
      async () => find(".ots").length,
      (count) => count > 0,
    );
    expect(await again.stop()).toBe(0);
    const report = await verified({
      bitcoinHeaders: "headers",
      require: [...require_, { anchor: "opentimestamps", maxAgeSeconds: 86_400 }],
    });
    expect(report.findings).toEqual([]);
    expect(report.anchors.map(({ says }) => says).join("\n")).toMatch(
      /existed before Bitcoin block 800001, which is of 2025-12-31T00:00:00Z/,
    );
    // As an auditor types it: the block's header from a node, another block's, none, and something else.
    const file = join(dir(), "policy.json");
    const trusting = {
      ...policy,
      bitcoinHeaders: "headers.txt",
      require: [{ anchor: "opentimestamps", maxAgeSeconds: 86_400 }],
    };
    writeFileSync(
      file,
      JSON.stringify({ ...trusting, witnesses: [], timestampAuthorities: [] }).replace(
        '"witnesses":[],',
        "",
      ),
    );
    const [height = "", header = ""] = headers.trim().split(" ");
    const other = `${header.slice(0, 72)}${"00".repeat(32)}${header.slice(136)}`;
    for (const [text, code, said] of [
      [
        `# from bitcoin-cli getblockheader\n${height} ${header}\n`,
        0,
        "opentimestamps verified: The first",
      ],
      [`${height} ${other}\n`, 1, "block 800001 has another Merkle root"],
      [`${Number(height) + 1} ${header}\n`, 3, "its header was not given"],
      ["# none\n", 3, `The headers of Bitcoin blocks ${height} were not given.`],
      [`${height} ${header.slice(2)}\n`, 64, ""],
    ] as const) {
      writeFileSync(join(dir(), "headers.txt"), text);
      const answer = await meshseal("verify", dir(), "--policy", file);
      expect(answer).toMatchObject({ code });
      expect(answer.stdout).toContain(said);
    }
  });
});

test("a witness that is away makes an anchor late, and nothing else", async () => {
  await witness.stop();
  const [side] = sides;
  const policy = [`witness one ${witness.vkey} ${witness.url}`, "quorum one"];
  const file = join(side?.dir ?? "", "anchors.json");
  writeFileSync(
    file,
    JSON.stringify({ witnesses: { policy, everySeconds: 0.5 }, maxAgeSeconds: 1 }),
  );
  const again = await startExporter({
    dir: side?.dir ?? "",
    args: ["--anchors", file, "--checkpoint-ms", "100"],
  });
  const [state] = await until(
    () => details(again),
    (found) => found[0]?.status === "late" && found[0].error !== "",
  );
  expect(state?.error).toContain("ECONNREFUSED");
  expect((await request(`${again.url}/readyz`)).statusCode).toBe(200);
  // It comes back, on the same port: the next attempt succeeds by itself.
  const port = Number(new URL(witness.url).port);
  const logs = sides.map(({ log }) => parseVkey(log) as Verifier);
  witness = await startWitness(witness.name, logs, { dir: witness.dir, port });
  await until(
    () => details(again),
    (found) => found[0]?.status === "healthy" && found[0].error === "",
  );
  expect(await again.stop()).toBe(0);
  await checkLog(side?.dir ?? "");
});
