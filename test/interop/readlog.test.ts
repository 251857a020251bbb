import { execFile, spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { request } from "undici";
import { afterAll, beforeAll, expect, test } from "vitest";
import { BATCH_TYPE } from "../../record/wire.ts";
import { makeChain } from "../support/chains.ts";
import { startExporter } from "../support/exporter.ts";
import { checkLog } from "../support/log.ts";

const run = promisify(execFile);

type Found = { origin: string; size: number; root: string; leaves: string[] };

let bin = "";
let dir = "";
let vkey = "";

/** A log of three full tiles and a partial one, in four chains, after a clean stop. */
beforeAll(async () => {
  bin = mkdtempSync(join(tmpdir(), "meshseal-interop-"));
  const packages = { readlog: ".", "tessera-fsck": "github.com/transparency-dev/tessera/cmd/fsck" };
  for (const [name, path] of Object.entries(packages)) {
    const build = spawnSync("go", ["build", "-o", join(bin, name), path], {
      cwd: import.meta.dirname,
      encoding: "utf8",
    });
    if (build.status !== 0) throw new Error(`go build ${path}: ${build.stderr}`);
  }
  const exporter = await startExporter({ args: ["--checkpoint-ms", "50"] });
  ({ dir, vkey } = exporter);
  const made = Array.from({ length: 4 }, () =>
    makeChain({ batches: 10, perBatch: 21, entryBytes: 250 }),
  );
  for (const batch of made.flat()) {
    const headers = { "content-type": BATCH_TYPE };
    const answer = await request(`${exporter.url}/v1/batches`, {
      method: "POST",
      headers,
      body: Buffer.from(batch),
    });
    expect(answer.statusCode).toBe(200);
    await answer.body.dump();
  }
  expect(await exporter.stop()).toBe(0);
}, 300_000);

afterAll(async () => {
  await checkLog(dir);
  rmSync(bin, { recursive: true, force: true });
});

/** Serves the files of a log as they are, and gives its URL to `use`. */
async function served<T>(root: string, use: (url: string) => Promise<T>): Promise<T> {
  const server = createServer((incoming, outgoing) => {
    try {
      outgoing.end(readFileSync(join(root, incoming.url ?? "")));
    } catch {
      outgoing.writeHead(404).end();
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    return await use(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

function readlog(root: string): Promise<Found> {
  return served(root, async (url) => {
    const { stdout } = await run(join(bin, "readlog"), [vkey, url], { maxBuffer: 1 << 26 });
    return JSON.parse(stdout) as Found;
  });
}

test("Go's note and tlog packages read our log to the same size, root and leaves", async () => {
  const found = await readlog(join(dir, "log"));
  const report = await checkLog(dir);
  expect(found).toMatchObject({ origin: report.origin, size: report.treeSize, root: report.root });
  expect(found.leaves).toHaveLength(report.treeSize);
  // Each chain's head is the leaf of its last entry.
  for (const { head } of report.chains) expect(found.leaves).toContain(head);
  expect(report.treeSize).toBe(4 * 10 * 21 + 2);
});

test("and refuse it with one bit flipped", async () => {
  const copy = mkdtempSync(join(tmpdir(), "meshseal-interop-"));
  try {
    cpSync(join(dir, "log"), copy, { recursive: true });
    const path = join(copy, "tile/entries/001");
    const bytes = readFileSync(path);
    bytes.writeUInt8(bytes.readUInt8(100) ^ 1, 100);
    writeFileSync(path, bytes);
    await expect(readlog(copy)).rejects.toThrow(/its hash is not in the tree/);
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
});

test("Tessera's fsck accepts our log", async () => {
  const key = join(bin, "log.vkey");
  writeFileSync(key, vkey);
  const fsck = (url: string): Promise<{ stderr: string }> =>
    run(
      join(bin, "tessera-fsck"),
      [`--storage_url=${url}/`, `--public_key=${key}`, "--ui=false", "-N", "4"],
      { timeout: 60_000 },
    );
  const { stderr } = await served(join(dir, "log"), fsck);
  // Its exit code is 0 even when the check fails: only these words count.
  expect(stderr).toContain("Successfully fsck'd");
});
