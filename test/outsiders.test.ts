import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { request } from "undici";
import { afterAll, beforeAll, expect, test } from "vitest";
import { makeKey } from "../exporter/keys.ts";
import { parseVkey, type Verifier } from "../exporter/log/note.ts";
import { type Envoy, startEnvoy } from "../scripts/demo/envoy.ts";
import { startUpstream } from "../scripts/demo/upstream.ts";
import { type Calendar, startCalendar } from "./support/calendar.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { type Gate, startGate } from "./support/gate.ts";
import { startGitServer } from "./support/git-server.ts";
import { checkLog } from "./support/log.ts";
import { meshseal } from "./support/mesh.ts";
import { type Shelf, startShelf } from "./support/shelf.ts";
import { startTsa, type Tsa } from "./support/tsa.ts";
import { startWitness, type TestWitness } from "./support/witness.ts";

// One exporter with five outsiders, each behind a gate, under traffic from a real Envoy.

const ORIGIN = "outsiders.example/log";
const NAMES = ["witnesses", "tsa", "bitcoin", "shelf", "archive"] as const;
type Name = (typeof NAMES)[number];

let home = "";
let log = "";
let anchors = "";
let witnesses: TestWitness[] = [];
let tsa: Tsa;
let calendar: Calendar;
let shelf: Shelf;
let exporter: Exporter;
let envoy: Envoy;
/** Behind which gates each outsider is. */
let gates: Record<Name, readonly Gate[]>;
const stops: (() => Promise<unknown>)[] = [];

/** What is stopped after the test, last come first. */
function later<T extends { stop: () => Promise<unknown> }>(started: T): T {
  stops.unshift(() => started.stop());
  return started;
}

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), "meshseal-outsiders-"));
  const data = join(home, "data");
  mkdirSync(data);
  log = makeKey(join(data, "log"), ORIGIN);
  const repository = join(home, "remotes/archive.git");
  mkdirSync(repository, { recursive: true });
  execFileSync("git", ["init", "--quiet", "--bare", "--initial-branch=main", repository]);
  const git = later(await startGitServer(join(home, "remotes")));
  const known = [parseVkey(log) as Verifier];
  witnesses = await Promise.all(
    ["one", "two", "three"].map((name) => startWitness(`wit.example/${name}`, known)),
  );
  [tsa, calendar, shelf] = await Promise.all([startTsa(), startCalendar(), startShelf()]);
  for (const started of [...witnesses, tsa, calendar, shelf]) later(started);
  const gate = async (url: string): Promise<Gate> => later(await startGate(url));
  const witnessGates = await Promise.all(witnesses.map(({ url }) => gate(url)));
  const [tsaGate, calendarGate, shelfGate, gitGate] = [
    await gate(tsa.url),
    await gate(calendar.url),
    await gate(shelf.url),
    await gate(`http://127.0.0.1:${git.port}/archive.git`),
  ];
  // A quorum of two: it is lost where two are away, and not where one is.
  gates = {
    witnesses: witnessGates.slice(0, 2),
    tsa: [tsaGate],
    bitcoin: [calendarGate],
    shelf: [shelfGate],
    archive: [gitGate],
  };
  const times = { everySeconds: 0.3, timeoutSeconds: 10 };
  anchors = join(home, "anchors.json");
  writeFileSync(
    anchors,
    JSON.stringify({
      witnesses: { policy: quorum(witnessGates.map(({ url }) => url)), ...times },
      timestamps: [{ name: "tsa", url: tsaGate.url, roots: tsa.root, ...times }],
      opentimestamps: { calendars: [calendarGate.url], upgradeFrom: [calendar.url], ...times },
      put: [{ name: "shelf", url: `${shelfGate.url}/{size}`, ...times }],
      git: [{ name: "archive", remote: gitGate.url, ...times }],
      required: NAMES,
      maxAgeSeconds: 1,
    }),
  );
  const upstream = later(await startUpstream());
  exporter = await startExporter({ dir: data, args: args() });
  stops.unshift(() => exporter.stop());
  envoy = await startEnvoy({
    dir: join(home, "envoy"),
    upstreamPort: upstream.port,
    exporterPort: Number(new URL(exporter.url).port),
  });
  stops.unshift(() => envoy.stop());
});

afterAll(async () => {
  for (const stop of stops) await stop();
  rmSync(home, { recursive: true, force: true });
});

const args = (): string[] => ["--anchors", anchors, "--checkpoint-ms", "100"];

function quorum(urls: readonly string[]): string[] {
  const lines = witnesses.map(({ vkey }, i) => `witness w${i} ${vkey} ${urls[i] ?? ""}`.trim());
  return [...lines, "group two-of-three 2 w0 w1 w2", "quorum two-of-three"];
}

type Details = { name: Name; status: string; size: number; pending: number; error: string };

async function details(): Promise<Map<Name, Details>> {
  const answer = await request(`${exporter.url}/readyz`);
  expect(answer.statusCode).toBe(200);
  const { anchors: found } = (await answer.body.json()) as { anchors: Details[] };
  return new Map(found.map((one) => [one.name, one]));
}

async function until(what: string, isDone: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 1200; tries++) {
    if (await isDone()) return;
    await sleep(50);
  }
  const now = JSON.stringify([...(await details()).values()]);
  throw new Error(`waited a minute for: ${what}; ${now}`);
}

const statusOf = async (name: Name): Promise<string | undefined> =>
  (await details()).get(name)?.status;

test("each outsider shut and slow in turn makes itself late and nothing else; all is proved in the end", async () => {
  let sent = 0;
  const ending = new AbortController();
  const traffic = (async () => {
    while (!ending.signal.aborted) {
      const answer = await request(`http://127.0.0.1:${envoy.port}/cart/${sent}`);
      await answer.body.dump();
      expect(answer.statusCode).toBe(200);
      sent++;
      await sleep(20);
    }
  })();
  // Traffic that fails is told of at the end, not as a rejection nobody waits for.
  traffic.catch(() => undefined);
  const treeSize = async (): Promise<number> => (await details()).get("tsa")?.size ?? 0;
  await until("all healthy", async () =>
    [...(await details()).values()].every(({ status, size }) => status === "healthy" && size > 0),
  );

  for (const name of NAMES) {
    for (const mode of ["shut", "slow"] as const) {
      for (const gate of gates[name]) gate.set(mode);
      await until(`${name} ${mode}: late`, async () => (await statusOf(name)) === "late");
      // Whoever is not behind the gate goes on.
      const other = name === "tsa" ? "witnesses" : "tsa";
      const before = (await details()).get(other)?.size ?? 0;
      await until(`${other} goes on`, async () => {
        const found = await details();
        return (found.get(other)?.size ?? 0) > before && found.get(name)?.status === "late";
      });
      for (const gate of gates[name]) gate.set("open");
      await until(`${name} is back`, async () => (await statusOf(name)) === "healthy");
    }
  }

  // What waits for a block survives a kill, and is asked for again.
  const waiting = (await details()).get("bitcoin")?.pending ?? 0;
  expect(waiting).toBeGreaterThan(0);
  const { port } = new URL(exporter.url);
  await exporter.kill();
  exporter = await startExporter({ dir: exporter.dir, port: Number(port), args: args() });
  await until("what is pending was found", async () => {
    return ((await details()).get("bitcoin")?.pending ?? 0) >= waiting;
  });
  const block = calendar.mine(1_767_139_200);
  const atKill = await treeSize();
  await until("all healthy and further than at the kill", async () =>
    [...(await details()).values()].every(
      ({ status, size }) => status === "healthy" && size > atKill,
    ),
  );
  const files = (ending: string): number =>
    readdirSync(join(exporter.dir, "anchors"), { recursive: true, encoding: "utf8" }).filter(
      (name) => name.endsWith(ending),
    ).length;
  await until("the block's proofs", async () => files(".ots") >= waiting);

  ending.abort();
  await traffic;
  expect(await envoy.settled(30_000)).toBe(true);
  expect(await envoy.stat("http.edge.downstream_rq_total")).toBe(sent);
  await envoy.stop();
  expect(await exporter.stop()).toBe(0);
  expect((await checkLog(exporter.dir)).entries["request"]).toBe(sent);

  const clone = join(home, "clone");
  execFileSync("git", ["clone", "--quiet", join(home, "remotes/archive.git"), clone]);
  writeFileSync(join(home, "headers"), `${block.height} ${block.header}\n`);
  const policy = join(home, "policy.json");
  writeFileSync(
    policy,
    JSON.stringify({
      logs: [{ key: log }],
      witnesses: quorum([]),
      timestampAuthorities: [{ name: "tsa", roots: tsa.root }],
      bitcoinHeaders: "headers",
      git: [{ name: "archive", clone: "clone", remote: "https://git.example/archive.git" }],
      require: [
        { anchor: "witness", maxAgeSeconds: 60 },
        { anchor: "rfc3161", name: "tsa", maxAgeSeconds: 60 },
        { anchor: "git", name: "archive", maxAgeSeconds: 60 },
        { anchor: "opentimestamps", maxAgeSeconds: 3600 },
      ],
    }),
  );
  const verified = meshseal("verify", exporter.dir, "--policy", policy);
  expect(verified.stdout).toMatch(/^VERIFIED/);
  for (const sentence of [
    /quorum verified: The first \d+ entries were witnessed by [23] of 3/,
    /rfc3161 verified: The first \d+ entries existed before 2\d{3}-.* by the time stamp authority tsa/,
    /opentimestamps verified: .* existed before Bitcoin block 800001, which is of 2025-12-31/,
    /git verified: .* are in the history of https:\/\/git\.example\/archive\.git at commit [0-9a-f]{40}/,
    /put not-checked: The checkpoint of \d+ entries is said to be at /,
    /outsiders {3}saw an entry after [\d.]+ s \(median\)/,
  ])
    expect(verified.stdout).toMatch(sentence);
  expect(shelf.held.size).toBeGreaterThan(0);
}, 300_000);
