import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { randomFrom } from "../support/random.ts";
import { killStorm } from "./storm.ts";

test("a small kill storm: scripts/kill-storm.ts runs a thousand", async () => {
  const dir = mkdtempSync(join(tmpdir(), "meshseal-storm-"));
  const seed = Math.floor(Math.random() * 2 ** 31);
  const storm = await killStorm({ dir, kills: 15, random: randomFrom(seed) });
  console.log(JSON.stringify({ seed, ...storm }));
  expect(storm.receipts).toBeGreaterThan(15);
  rmSync(dir, { recursive: true, force: true });
}, 300_000);
