import { execFile } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { request } from "undici";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openSource } from "../../exporter/audit/source.ts";
import { Tiles } from "../../exporter/audit/tiles.ts";
import { makeKey } from "../../exporter/keys.ts";
import { parseCosignerVkey } from "../../exporter/log/cosignature.ts";
import { openNote, parseVkey, type Verifier } from "../../exporter/log/note.ts";
import { makeChain } from "../support/chains.ts";
import { type Exporter, startExporter } from "../support/exporter.ts";
import { goTool } from "../support/go-tools.ts";
import { checkLog } from "../support/log.ts";
import { sendChain } from "../support/senders.ts";
import { startWitness, type TestWitness } from "../support/witness.ts";

type Found = { origin: string; size: number; root: string; leaves: string[]; proofs: number };

const ORIGIN = "log.example/torchwood";
let program = "";
let dir = "";
let log = "";
let witness: TestWitness;
let exporter: Exporter;

/** A running exporter whose checkpoint a witness has cosigned. */
beforeAll(async () => {
  program = goTool("torchwood-client");
  dir = mkdtempSync(join(tmpdir(), "meshseal-torchwood-"));
  log = makeKey(join(dir, "log"), ORIGIN);
  witness = await startWitness("wit.example/torchwood", [parseVkey(log) as Verifier]);
  const policy = [`witness one ${witness.vkey} ${witness.url}`, "quorum one"];
  const anchors = join(dir, "anchors.json");
  writeFileSync(anchors, JSON.stringify({ witnesses: { policy, everySeconds: 0.2 } }));
  exporter = await startExporter({ dir, args: ["--checkpoint-ms", "50", "--anchors", anchors] });
  const { url, vkey } = exporter;
  await Promise.all(
    [1, 2, 3].map(() =>
      sendChain(
        () => url,
        vkey,
        makeChain({ batches: 10, perBatch: 21, entryBytes: 250 }),
        new Map(),
      ),
    ),
  );
  const key = parseCosignerVkey(witness.vkey) as Verifier;
  for (;;) {
    const note = await (await request(`${url}/log/checkpoint`)).body.text();
    if (openNote(Buffer.from(note), [key]) !== null && note.includes("\n631\n")) break;
    await new Promise((done) => setTimeout(done, 50));
  }
}, 300_000);
afterAll(async () => {
  await exporter?.stop();
  await witness?.stop();
  await checkLog(dir);
});

async function client(policy: string): Promise<Found> {
  const file = join(dir, "client.policy");
  writeFileSync(file, policy);
  const { stdout } = await promisify(execFile)(program, [file, `${exporter.url}/log`], {
    maxBuffer: 1 << 26,
  });
  return JSON.parse(stdout) as Found;
}

test("torchwood's client reads the served log by its own policy: every entry, and proofs of some", async () => {
  const found = await client(`log ${log}\nwitness one ${witness.vkey}\nquorum one\n`);
  expect(found).toMatchObject({ origin: ORIGIN });
  expect(found.size).toBeGreaterThanOrEqual(631);
  expect(found.leaves).toHaveLength(found.size);
  expect(found.proofs).toBe(Math.ceil(found.size / 97));
  const tiles = new Tiles(await openSource(dir), found.size);
  expect(Buffer.from((await tiles.root(found.size)) ?? []).toString("base64")).toBe(found.root);
});

test("and refuses it where its policy asks for another witness", async () => {
  const other = await startWitness("wit.example/another", []);
  await other.stop();
  await expect(client(`log ${log}\nwitness one ${other.vkey}\nquorum one\n`)).rejects.toThrow(
    /torchwood-client:/,
  );
});
