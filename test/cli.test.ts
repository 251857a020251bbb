import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { request } from "undici";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseBatchHeader } from "../record/batch.ts";
import { BATCH_TYPE } from "../record/wire.ts";
import { makeChain } from "./support/chains.ts";
import { compiledMain } from "./support/compiled.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { checkLog } from "./support/log.ts";

let exporter: Exporter;
let empty = "";
let chain = "";

beforeAll(async () => {
  empty = mkdtempSync(join(tmpdir(), "meshseal-cli-"));
  exporter = await startExporter({ args: ["--checkpoint-ms", "50"] });
  const [batch = new Uint8Array()] = makeChain({ batches: 1, perBatch: 300, entryBytes: 200 });
  chain = Buffer.from(parseBatchHeader(batch)?.chain ?? []).toString("hex");
  const answer = await request(`${exporter.url}/v1/batches`, {
    method: "POST",
    headers: { "content-type": BATCH_TYPE },
    body: Buffer.from(batch),
  });
  expect(answer.statusCode).toBe(200);
  await answer.body.dump();
  for (;;) {
    const state = (await (await request(`${exporter.url}/readyz`)).body.json()) as {
      treeSize: number;
    };
    // The exporter's own heartbeat may have come on a slow machine.
    if (state.treeSize >= 301) break;
    await new Promise((done) => setTimeout(done, 20));
  }
});

afterAll(async () => {
  await exporter.stop();
  await checkLog(exporter.dir);
  rmSync(empty, { recursive: true, force: true });
});

function meshseal(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const run = spawnSync(process.execPath, [compiledMain(), ...args], { encoding: "utf8" });
  return { status: run.status, stdout: run.stdout, stderr: run.stderr };
}

test("runs from a checkout as it does compiled", () => {
  const run = spawnSync(process.execPath, ["scripts/meshseal.mjs", "--version"], {
    encoding: "utf8",
  });
  expect(run.stdout).toBe(meshseal("--version").stdout);
  expect(run.stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
});

describe("verify", () => {
  test("says verified with 0, from a directory and from a URL", () => {
    const key = `@${exporter.dir}/log.vkey`;
    expect(meshseal("verify", exporter.dir, "--key", key)).toMatchObject({ status: 0 });
    const overHttp = meshseal("verify", `${exporter.url}/log`, "--key", exporter.vkey, "--json");
    expect(overHttp.status).toBe(0);
    expect(JSON.parse(overHttp.stdout)).toMatchObject({
      verdict: "verified",
      treeSize: expect.any(Number),
      entries: { request: 299 },
    });
  });

  test("says tampered with 1 for another key, incomplete with 2 for open chains where seals are required", () => {
    const other = meshseal("keygen", "--origin", "other/log", "--out", join(empty, "other"));
    expect(other.status).toBe(0);
    expect(statSync(join(empty, "other.key")).mode & 0o777).toBe(0o600);
    expect(meshseal("verify", exporter.dir, "--key", other.stdout.trim()).status).toBe(1);
    expect(meshseal("verify", exporter.dir, "--key", exporter.vkey, "--require-seals").status).toBe(
      2,
    );
    expect(
      meshseal("keygen", "--origin", "other/log", "--out", join(empty, "other")).stderr,
    ).toContain("never overwritten");
  });

  test("says cannot say with 3 where nothing is to be read", () => {
    expect(
      meshseal("verify", mkdtempSync(join(empty, "bare-")), "--key", exporter.vkey).status,
    ).toBe(3);
    expect(meshseal("verify", join(empty, "nowhere"), "--key", exporter.vkey).status).toBe(3);
    expect(meshseal("verify", "http://127.0.0.1:9/log", "--key", exporter.vkey).status).toBe(3);
  });

  test("trusts a policy file, and remembers what it has seen", () => {
    const policy = join(empty, "policy.json");
    const seen = join(empty, "seen.checkpoint");
    writeFileSync(policy, JSON.stringify({ logs: [{ key: `@${exporter.dir}/log.vkey` }] }));
    const args = ["verify", exporter.dir, "--policy", policy, "--last-seen", seen];
    expect(meshseal(...args)).toMatchObject({ status: 64 });
    expect(meshseal(...args, "--update-last-seen")).toMatchObject({ status: 0 });
    const size = readFileSync(seen, "utf8").split("\n")[1];
    expect(Number(size)).toBeGreaterThanOrEqual(301);
    expect(meshseal(...args).stdout).toContain(`extends the last-seen checkpoint of size ${size}`);
  });

  test("says usage with 64", () => {
    expect(meshseal("verify").status).toBe(64);
    expect(meshseal("verify", exporter.dir, "--key", "nonsense").status).toBe(64);
    expect(meshseal("verify", exporter.dir, "--key", "@/nowhere").status).toBe(64);
    expect(meshseal("nonsense").status).toBe(64);
    expect(meshseal("verify", "--help")).toMatchObject({ status: 0 });
  });
});

describe("show", () => {
  test("shows the same entry by index and by chain and seq, with its proof", () => {
    const byIndex = meshseal("show", "280", "--log", exporter.dir, "--json");
    const byChain = meshseal("show", `${chain}:279`, "--log", `${exporter.url}/log`, "--json");
    expect(byIndex.status).toBe(0);
    expect(JSON.parse(byChain.stdout)).toEqual(JSON.parse(byIndex.stdout));
    expect(JSON.parse(byIndex.stdout)).toMatchObject({
      index: 280,
      fields: { chain, seq: 279, path: "/cart/279" },
    });
  });

  test("says what is wrong", () => {
    expect(meshseal("show", "5000", "--log", exporter.dir).stderr).toContain("entries");
    expect(meshseal("show", "x", "--log", exporter.dir).stderr).toContain("neither an index");
  });
});
