import { expect, test } from "vitest";
import { startExporter } from "./support/exporter.ts";
import { checkFuzzedLog, fuzzIntake } from "./support/fuzz.ts";
import { randomFrom } from "./support/random.ts";

const seed = Math.floor(Math.random() * 2 ** 31);

test(`hostile batches and broken HTTP among honest ones: no crash, no growth, nothing receipted is lost (seed ${seed})`, async () => {
  const exporter = await startExporter({ args: ["--log-level", "info"] });
  const result = await fuzzIntake({
    url: exporter.url,
    pid: exporter.pid,
    random: randomFrom(seed),
    until: Date.now() + 15_000,
    maxGrowthMiB: 300,
  });
  expect(await exporter.stop()).toBe(0);
  expect(result.sent).toBeGreaterThan(100);
  expect(Object.keys(result.answers)).toEqual(expect.arrayContaining(["200", "400"]));
  const report = await checkFuzzedLog(exporter.dir);
  expect(report.treeSize).toBeGreaterThanOrEqual(result.receipted);
}, 120_000);
