import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, renameSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { request } from "undici";
import { afterAll, expect, test } from "vitest";
import { codeOf } from "../exporter/errors.ts";
import { TILE_WIDTH, tilePath } from "../exporter/log/tile.ts";
import { tryImmutable } from "../exporter/store/flags.ts";
import { makeChain } from "./support/chains.ts";
import { startExporter } from "./support/exporter.ts";
import { checkLog } from "./support/log.ts";
import { sendChain } from "./support/senders.ts";

const dir = mkdtempSync(join(tmpdir(), "meshseal-immutable-"));
afterAll(() => {
  spawnSync("chattr", ["-R", "-i", dir]);
  rmSync(dir, { recursive: true, force: true });
});

function codeOfTry(attempt: () => void): string {
  try {
    attempt();
    return "done";
  } catch (error) {
    return codeOf(error);
  }
}

test("full files cannot be removed or written where the flag is to be had; the start-up line says which", async () => {
  // No rights or another file system: then the exporter must say so. Both are shown, by who runs this where.
  const problem = await tryImmutable(dir);
  let exporter = await startExporter({ dir, args: ["--immutable-files"] });
  const line = exporter.logged.find(({ msg }) => msg === "listening")?.["files"];
  expect(line).toBe(
    problem === null ? "immutable (chattr +i) once synced" : `read-only, not immutable: ${problem}`,
  );
  const send = async (): Promise<void> => {
    const batches = makeChain({ batches: 6, perBatch: 100, entryBytes: 200 });
    await sendChain(() => exporter.url, exporter.vkey, batches, new Map());
  };
  await send();
  expect(await exporter.stop()).toBe(0);
  const bundle = join(dir, "log", tilePath({ level: "entries", index: 0, width: TILE_WIDTH }));
  if (problem === null) {
    expect(codeOfTry(() => unlinkSync(bundle))).toBe("EPERM");
    expect(codeOfTry(() => renameSync(bundle, `${bundle}.old`))).toBe("EPERM");
    expect(codeOfTry(() => writeFileSync(bundle, "other", { flag: "r+" }))).toBe("EPERM");
  }
  // A start that writes all of it anew out of the WAL, and retention, go on with such files.
  exporter = await startExporter({ dir, args: ["--immutable-files"] });
  await send();
  await exporter.kill();
  exporter = await startExporter({ dir, args: ["--immutable-files"] });
  await send();
  const answer = await request(`${exporter.url}/v1/retention?below=512`, { method: "POST" });
  expect(await answer.body.json()).toMatchObject({ minimumIndex: 512 });
  expect(existsSync(bundle)).toBe(false);
  expect(await exporter.stop()).toBe(0);
  expect(await checkLog(dir)).toMatchObject({ minimumIndex: 512 });
}, 300_000);
