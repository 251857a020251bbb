import { cpSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { request } from "undici";
import { afterAll, beforeAll, expect, test } from "vitest";
import { BATCH_TYPE } from "../record/wire.ts";
import { makeChain } from "./support/chains.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { checkLog } from "./support/log.ts";
import { randomFrom } from "./support/random.ts";

// The index of chains follows from the log: without it, or with any damage, the log must take up the chains as they are.

const SEED = Math.floor(Math.random() * 2 ** 31);
const random = randomFrom(SEED);

let root = "";
let whole = "";
let chains: Uint8Array[][] = [];

async function post(exporter: Exporter, batch: Uint8Array): Promise<number> {
  const answer = await request(`${exporter.url}/v1/batches`, {
    method: "POST",
    headers: { "content-type": BATCH_TYPE },
    body: Buffer.from(batch),
  });
  const text = await answer.body.text();
  if (answer.statusCode !== 200) throw new Error(`seed ${SEED}: ${answer.statusCode} ${text}`);
  return answer.statusCode;
}

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), "meshseal-index-"));
  whole = join(root, "whole");
  chains = Array.from({ length: 60 }, () =>
    makeChain({ batches: 3, perBatch: 4, entryBytes: 150 }),
  );
  const exporter = await startExporter({ dir: whole, args: ["--checkpoint-ms", "50"] });
  for (const [first = new Uint8Array(), second = new Uint8Array()] of chains) {
    expect(await post(exporter, first)).toBe(200);
    expect(await post(exporter, second)).toBe(200);
  }
  expect(await exporter.stop()).toBe(0);
});

afterAll(() => rmSync(root, { recursive: true, force: true }));

/** Flips some bytes of a page of the index that is in use. */
function flipSome(path: string, count: number): void {
  const bytes = readFileSync(path);
  for (let i = 0; i < count; i++) {
    const at = Math.floor(random() * bytes.length);
    bytes.writeUInt8(bytes.readUInt8(at) ^ (1 << Math.floor(random() * 8)), at);
  }
  writeFileSync(path, bytes);
}

const DAMAGES: Readonly<Record<string, (index: string) => void>> = {
  "it is gone": (index) => rmSync(index, { recursive: true }),
  "it is empty": (index) => truncateSync(join(index, "data.mdb")),
  "it is cut off": (index) =>
    truncateSync(
      join(index, "data.mdb"),
      Math.floor(random() * readFileSync(join(index, "data.mdb")).length),
    ),
  "its last page is gone": (index) =>
    truncateSync(join(index, "data.mdb"), readFileSync(join(index, "data.mdb")).length - 4096),
  "it is noise": (index) => writeFileSync(join(index, "data.mdb"), Buffer.alloc(65_536, 0x5a)),
  "one bit is wrong": (index) => flipSome(join(index, "data.mdb"), 1),
  "some bits are wrong": (index) => flipSome(join(index, "data.mdb"), 20),
  "many bits are wrong": (index) => flipSome(join(index, "data.mdb"), 2000),
};

test.each(Object.entries(DAMAGES))(
  "%s: chains go on, replays are known, nothing is doubled",
  async (name, damage) => {
    const dir = join(root, name.replaceAll(" ", "-"));
    cpSync(whole, dir, { recursive: true });
    damage(join(dir, "index"));
    // A process that a torn map ends is started again, as by any supervisor.
    const exporter = await startExporter({ dir }).catch(() => startExporter({ dir }));
    for (const [
      first = new Uint8Array(),
      second = new Uint8Array(),
      third = new Uint8Array(),
    ] of chains) {
      expect(await post(exporter, second), `seed ${SEED}`).toBe(200);
      expect(await post(exporter, first), `seed ${SEED}`).toBe(200);
      expect(await post(exporter, third), `seed ${SEED}`).toBe(200);
    }
    expect(await exporter.stop()).toBe(0);
    const report = await checkLog(dir);
    expect(report.entries["request"]).toBe(60 * 11);
  },
);
