import { spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { request } from "undici";
import { afterAll, expect, test } from "vitest";
import { openSource } from "../exporter/audit/source.ts";
import { verifyLog } from "../exporter/audit/verify.ts";
import { parseVkey } from "../exporter/log/note.ts";
import { TILE_WIDTH, tilePath } from "../exporter/log/tile.ts";
import { lastOf, makeChain } from "./support/chains.ts";
import { compiledMain } from "./support/compiled.ts";
import { startExporter } from "./support/exporter.ts";
import { checkLog } from "./support/log.ts";
import { sendChain } from "./support/senders.ts";

const dirs: string[] = [];
afterAll(() => {
  for (const dir of dirs) rmSync(dir, { recursive: true, force: true });
});

function meshseal(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const run = spawnSync(process.execPath, [compiledMain(), ...args], { encoding: "utf8" });
  return { status: run.status, stdout: run.stdout, stderr: run.stderr };
}

const bundle = (dir: string, index: number): string =>
  join(dir, "log", tilePath({ level: "entries", index, width: TILE_WIDTH }));

test("a log is pruned below its holds, verifies from what stands for the rest, and goes on", async () => {
  let exporter = await startExporter({ args: ["--checkpoint-ms", "50"] });
  const { dir, vkey } = exporter;
  dirs.push(dir);
  const received = new Map<string, number>();
  const send = (batches: Uint8Array[]): Promise<void> =>
    sendChain(() => exporter.url, vkey, batches, received);
  const first = makeChain({ batches: 10, perBatch: 100, entryBytes: 200 });
  const second = makeChain({ batches: 6, perBatch: 100, entryBytes: 200 });
  await send(first);
  await send(second);
  const at = ["--to", exporter.url];
  expect(meshseal("hold", "list", ...at).stdout).toBe("no holds\n");
  const placed = meshseal(
    "hold",
    "place",
    "case-17",
    "--from",
    "700",
    "--reason",
    "a letter",
    ...at,
  );
  expect(placed.stdout).toBe("case-17 holds entries from 700 on\n");
  expect(meshseal("hold", "place", "case-17", "--reason", "again", ...at)).toMatchObject({
    status: 64,
    stderr: 'meshseal: there is a hold "case-17" already.\n',
  });

  // Everything is younger than a day.
  expect(meshseal("retain", "--older-than", "1d", ...at).stdout).toBe(
    "nothing goes: the log begins at entry 0\n",
  );
  const now = new Date(Date.now() + 60_000).toISOString();
  const trial = meshseal("retain", "--before", now, "--dry-run", ...at);
  expect(trial.stdout).toMatch(
    /would begin at entry 512.*\nnot more, since a hold keeps entry 700/,
  );
  expect(existsSync(bundle(dir, 0))).toBe(true);
  const whole = await checkLog(dir);
  expect(whole.minimumIndex).toBe(0);
  const pruned = meshseal("retain", "--before", now, ...at);
  expect(pruned.stdout).toMatch(/begins at entry 512: 512 entries are let go\nnot more/);
  expect([0, 1, 2].map((index) => existsSync(bundle(dir, index)))).toEqual([false, false, true]);

  const report = await checkLog(dir);
  expect(report.minimumIndex).toBe(512);
  expect(report.notes.join("\n")).toMatch(/Entries 0 to 511 were pruned, as entry \d+ says/);
  const [chain = ""] = received.keys();
  expect(report.chains.find((one) => one.chain === chain)).toMatchObject({ last: 999 });
  // Over HTTP as well, and by the reader's tools.
  const remote = meshseal("verify", `${exporter.url}/log`, "--key", vkey);
  expect(remote).toMatchObject({ status: 0 });
  expect(meshseal("show", "100", "--log", dir)).toMatchObject({
    status: 64,
    stderr: expect.stringMatching(/entries 0 to 255 were pruned: the log has those from 512 on/),
  });
  expect(meshseal("show", "600", "--log", dir).status).toBe(0);
  expect(meshseal("chains", dir).stdout).toMatch(/seq 0 to 51\d were pruned/);

  expect(meshseal("hold", "lift", "case-17", "--reason", "closed", ...at).stdout).toBe(
    "case-17 is lifted\n",
  );
  expect(meshseal("retain", "--below", "1100", ...at).stdout).toMatch(/begins at entry 1024: 512/);
  // What somebody put there is no reason to prune, at a start or later.
  const planted = join(dir, "retention", String(1280).padStart(20, "0"));
  writeFileSync(planted, readFileSync(join(dir, "retention", String(1024).padStart(20, "0"))));
  const refused = meshseal("retain", "--below", "1300", ...at);
  expect(refused).toMatchObject({ status: 64, stderr: expect.stringMatching(/somebody put it/) });
  // Nor is an older list of holds that somebody put back.
  const holds = join(dir, "retention", "holds");
  const older = readFileSync(holds);
  await request(`${exporter.url}/v1/holds/case-18?from=1100&reason=x`, { method: "PUT" });
  // A start with no index of chains has only the text to go by.
  expect(await exporter.stop()).toBe(0);
  expect(readFileSync(holds).equals(older)).toBe(false);
  writeFileSync(holds, older);
  rmSync(join(dir, "index"), { recursive: true });
  exporter = await startExporter({ dir, args: ["--checkpoint-ms", "50"] });
  const more = makeChain({
    batches: 2,
    perBatch: 50,
    entryBytes: 200,
    after: second.at(-1) as Uint8Array,
  });
  const old = makeChain({
    batches: 1,
    perBatch: 50,
    entryBytes: 200,
    after: first.at(-1) as Uint8Array,
  });
  await send(more);
  await send(old);
  const status = await (await request(`${exporter.url}/v1/retention`)).body.json();
  expect(status).toMatchObject({ minimumIndex: 1024, holds: [{ name: "case-18", from: 1100 }] });
  expect(await exporter.stop()).toBe(0);
  expect(existsSync(bundle(dir, 4))).toBe(true);
  rmSync(planted);
  const end = await checkLog(dir);
  expect(end.minimumIndex).toBe(1024);
  expect(end.chains.find((one) => one.chain === chain)).toMatchObject({
    last: lastOf(old[0] as Uint8Array).seq,
    pruned: 1000,
  });
  expect(end.entries).toMatchObject({ hold: 3, retention: 2 });

  // What is done to it beyond that is found.
  const key = parseVkey(vkey);
  if (key === null) throw new Error("no key");
  const after = async (harm: (copy: string) => void): Promise<string[]> => {
    const copy = mkdtempSync(join(tmpdir(), "meshseal-pruned-"));
    dirs.push(copy);
    cpSync(dir, copy, { recursive: true });
    harm(copy);
    const { findings, verdict } = await verifyLog(await openSource(copy), { log: key });
    expect(verdict).toBe("tampered");
    return findings.map(({ cause }) => cause);
  };
  const texts = readdirSync(join(dir, "retention")).filter((name) => name.startsWith("0"));
  expect(texts).toHaveLength(2);
  const newest = join("retention", texts.at(-1) ?? "");
  expect(readFileSync(join(dir, newest), "utf8")).toMatch(/^meshseal\/v1\/retention\n/);
  expect(await after((copy) => rmSync(bundle(copy, 4)))).toContain("bundle-missing");
  expect(await after((copy) => rmSync(join(copy, newest)))).toContain("bundle-missing");
  expect(await after((copy) => rmSync(join(copy, "log", "tile", "0", "001")))).toContain(
    "tile-missing",
  );
}, 600_000);
