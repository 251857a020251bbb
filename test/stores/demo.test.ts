import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { findServer } from "../../scripts/store-servers.mjs";

test("the demonstration in a bucket: verified, locked and anchored within a minute; what its credentials can try is refused or named", () => {
  findServer("versitygw");
  const run = spawnSync(
    process.execPath,
    ["--import", "tsx", "scripts/demo/main.ts", "--store", "s3", "--json", "--seconds", "5"],
    { encoding: "utf8", maxBuffer: 1 << 26, timeout: 400_000 },
  );
  const summary = run.stdout === "" ? {} : JSON.parse(run.stdout);
  expect({ status: run.status, said: run.status === 0 ? "" : run.stderr + run.stdout }).toEqual({
    status: 0,
    said: "",
  });
  expect(summary).toMatchObject({ gaps: 0, verified: true, bucket: { immutable: "yes" } });
  expect(summary.sent).toBe(summary.requestEntries);
  const { seconds, attempts, verifiedAfter, planted } = summary.bucket;
  for (const what of ["verified", "witnessed", "timeStamped", "locked"])
    expect(seconds[what]).toBeLessThan(60);
  expect(attempts.length).toBeGreaterThan(25);
  for (const { attempt, outcome, how } of attempts)
    expect(outcome, `${attempt}: ${how}`).toMatch(/^(REFUSED|DETECTED)$/);
  expect(verifiedAfter).toBe(true);
  expect(planted.sent).toBe(planted.requestEntries);
  expect(planted.named).toHaveLength(2);
}, 600_000);
