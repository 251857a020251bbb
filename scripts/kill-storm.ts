/**
 * Kills an exporter a thousand times under load, and compares everything it had shown with what its log holds at the end:
 *
 *     npx tsx scripts/kill-storm.ts [--kills 1000] [--seed n]
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { killStorm } from "../test/crash/storm.ts";
import { randomFrom } from "../test/support/random.ts";

const { values } = parseArgs({
  options: { kills: { type: "string", default: "1000" }, seed: { type: "string" } },
});
const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 31));
const kills = Number(values.kills);
console.error(`seed ${seed}`);
const dir = mkdtempSync(join(tmpdir(), "meshseal-storm-"));
const began = performance.now();
const storm = await killStorm({
  dir,
  kills,
  random: randomFrom(seed),
  onKill: (kill) => {
    if (kill % 50 === 0) console.error(`${kill}/${kills}`);
  },
});
rmSync(dir, { recursive: true, force: true });
console.log(JSON.stringify({ seed, ...storm, seconds: (performance.now() - began) / 1000 }));
