import { spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { request } from "undici";
import { afterAll, expect, test } from "vitest";
import { TILE_WIDTH, tilePath } from "../exporter/log/tile.ts";
import { makeChain } from "./support/chains.ts";
import { compiledMain } from "./support/compiled.ts";
import { startExporter } from "./support/exporter.ts";
import { checkLog } from "./support/log.ts";
import { sendChain } from "./support/senders.ts";

const root = mkdtempSync(join(tmpdir(), "meshseal-mirror-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

type Status = { size: number; lagEntries: number; lagSeconds: number; problem: string | null };

const bundle = (dir: string, index: number): string =>
  join(dir, "log", tilePath({ level: "entries", index, width: TILE_WIDTH }));

test("a mirror follows the log, is late while it is away, is pruned with it, and shows which was changed", async () => {
  const dir = join(root, "mirror");
  const args = ["--checkpoint-ms", "50", "--mirror", dir];
  const exporter = await startExporter({ args });
  const { url, vkey } = exporter;
  const ready = async (): Promise<{ status: string; mirror: Status; treeSize: number }> =>
    (await (await request(`${url}/readyz`)).body.json()) as never;
  const until = async (holds: (status: Status) => boolean): Promise<void> => {
    while (!holds((await ready()).mirror)) await sleep(100);
  };
  const send = (batches: number): Promise<void> => {
    const made = makeChain({ batches, perBatch: 100, entryBytes: 200 });
    return sendChain(() => url, vkey, made, new Map());
  };
  await send(3);
  // Its disk is not there: nothing waits for it.
  const away = await ready();
  expect(away).toMatchObject({ status: "ready" });
  await until(({ problem }) => problem?.includes("ENOENT") === true);
  mkdirSync(dir);
  await until(({ lagEntries, problem }) => lagEntries === 0 && problem === null);
  await send(4);
  await until(
    ({ lagEntries, problem, size }) => lagEntries === 0 && problem === null && size > 700,
  );
  const metrics = await (await request(`${url}/metrics`)).body.text();
  expect(metrics).toMatch(/meshseal_mirror_lag_entries 0\n/);
  // Another disk is mounted there, or none.
  renameSync(dir, `${dir}.away`);
  mkdirSync(dir);
  await send(1);
  await until(({ problem }) => problem?.includes("is it mounted?") === true);
  expect((await ready()).status).toBe("ready");
  rmSync(dir, { recursive: true });
  renameSync(`${dir}.away`, dir);
  await until(({ lagEntries, problem }) => lagEntries === 0 && problem === null);
  // What the log lets go of goes here as well.
  await (await request(`${url}/v1/retention?below=512`, { method: "POST" })).body.dump();
  while (existsSync(bundle(dir, 1))) await sleep(100);
  expect(await exporter.stop()).toBe(0);
  await checkLog(exporter.dir);

  const verify = (
    log: string,
    mirror: string,
  ): {
    status: number | null;
    report: { notes: string[]; findings: { cause: string; message: string }[] };
  } => {
    const flags = ["verify", log, "--mirror", mirror, "--key", vkey, "--json"];
    const { status, stdout } = spawnSync(process.execPath, [compiledMain(), ...flags], {
      encoding: "utf8",
    });
    return { status, report: JSON.parse(stdout) };
  };
  const honest = verify(exporter.dir, dir);
  expect(honest.report.findings).toEqual([]);
  expect(honest.report.notes.join("\n")).toMatch(
    /The mirror has (\d+) of \1 entries, and the same/,
  );
  const changed = join(root, "changed");
  cpSync(dir, changed, { recursive: true });
  const path = bundle(changed, 2);
  const bytes = readFileSync(path);
  bytes.writeUInt8(bytes.readUInt8(60) ^ 1, 60);
  rmSync(path);
  writeFileSync(path, bytes);
  const one = verify(exporter.dir, changed);
  expect(one.status).toBe(1);
  expect(one.report.findings[0]?.message).toMatch(/^in the mirror: entry 512 /);
  const other = verify(changed, exporter.dir);
  expect(other.status).toBe(1);
  expect(other.report.findings[0]?.message).toMatch(/^entry 512 /);
  rmSync(exporter.dir, { recursive: true, force: true });
}, 600_000);
