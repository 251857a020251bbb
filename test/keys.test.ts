import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { request } from "undici";
import { describe, expect, test } from "vitest";
import { LearnedKeys } from "../exporter/audit/learned-keys.ts";
import { openSource } from "../exporter/audit/source.ts";
import { verifyLog } from "../exporter/audit/verify.ts";
import { rotateKey } from "../exporter/keys.ts";
import { parseKeyStatement, signKeyStatement } from "../exporter/log/key-statement.ts";
import {
  newSigner,
  parseVkey,
  type Signer,
  signNote,
  type Verifier,
} from "../exporter/log/note.ts";
import { F_KEY, KIND_KEY } from "../record/fields.ts";
import { BATCH_TYPE } from "../record/wire.ts";
import { makeChain } from "./support/chains.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { checkLog, entriesOf } from "./support/log.ts";

const args = ["--checkpoint-ms", "50"];

/** Sends a batch and returns the receipt that came back. */
async function post(exporter: Exporter, body: Uint8Array): Promise<Buffer> {
  const answer = await request(`${exporter.url}/v1/batches`, {
    method: "POST",
    headers: { "content-type": BATCH_TYPE },
    body: Buffer.from(body),
  });
  await answer.body.dump();
  expect(answer.statusCode).toBe(200);
  return Buffer.from(String(answer.headers["meshseal-receipt"]), "base64");
}

const verdict = async (dir: string, vkey: string): Promise<string> => {
  const log = parseVkey(vkey) as Verifier;
  const report = await verifyLog(await openSource(dir), { log });
  return `${report.verdict} ${report.findings.map(({ cause }) => cause).join(" ")}`.trim();
};

test("a key is rotated in mid-log and the old one retired: each verifies what it signed, and old receipts stay good", async () => {
  let exporter = await startExporter({ args });
  const { dir, vkey: first } = exporter;
  // A heartbeat that carries a receipt by the first key comes into the log at a time when that key signs no more.
  const size = { batches: 1, perBatch: 4, entryBytes: 200 };
  const [after] = makeChain(size) as [Uint8Array];
  const receipt = await post(exporter, after);
  expect(await exporter.stop()).toBe(0);

  const [second = "", ...others] = rotateKey(dir, undefined);
  expect(others).toEqual([first]);
  expect(readFileSync(join(dir, "log.vkey"), "utf8").trim()).toBe(second);
  expect(statSync(join(dir, "log.key")).mode & 0o777).toBe(0o600);
  exporter = await startExporter({ dir, args });
  const [carrier] = makeChain({ ...size, after, receipt }) as [Uint8Array];
  await post(exporter, carrier);
  const published = await request(`${exporter.url}/keys`);
  expect(await published.body.json()).toEqual({ keys: [[first], [second, first]] });
  expect(await exporter.stop()).toBe(0);
  for (const vkey of [first, second]) expect(await verdict(dir, vkey)).toBe("verified");

  const id = first.split("+")[1];
  expect(() => rotateKey(dir, "00000000")).toThrow(/holds no key 00000000/);
  expect(rotateKey(dir, id)).toEqual([second]);
  expect(() => rotateKey(dir, second.split("+")[1])).toThrow(/the only key/);
  exporter = await startExporter({ dir, args });
  expect(await exporter.stop()).toBe(0);
  expect(await verdict(dir, second)).toBe("verified");
  expect(await verdict(dir, first)).toBe("tampered checkpoint");

  const sets = entriesOf(dir)
    .filter(({ kind }) => kind === KIND_KEY)
    .map(({ fields }) =>
      fields
        .filter(({ number }) => number === F_KEY)
        .map(({ value }) => Buffer.from(value as Uint8Array).toString()),
    );
  expect(sets).toEqual([[second, first], [second]]);
  await checkLog(dir);
});

describe("statements of keys", () => {
  const [a, b, c, thief] = [1, 2, 3, 4].map((n) =>
    newSigner("log.example/a", Buffer.alloc(32, n)),
  ) as [Signer, Signer, Signer, Signer];
  const learnedFrom = (trusted: Signer, ...statements: readonly string[]): string[] => {
    const learned = new LearnedKeys();
    for (const statement of statements) learned.add(Buffer.from(statement));
    const keys = [parseVkey(trusted.vkey) as Verifier];
    return learned.from(keys, a.name).map(({ vkey }) => vkey);
  };
  test("teach the keys before, through any number of rotations", () => {
    const second = signKeyStatement([b, a], [a]);
    const third = signKeyStatement([c], [b, a]);
    expect(learnedFrom(c, second, third).sort()).toEqual([a.vkey, b.vkey].sort());
    expect(learnedFrom(b, signKeyStatement([b], [a]))).toEqual([a.vkey]);
  });

  test("teach nothing where no trusted key signed, a key in it did not, or the origin is another", () => {
    expect(learnedFrom(a, signKeyStatement([thief], []))).toEqual([]);
    const claimed = signNote(`meshseal/v1/key\n${a.name}\n1\n${thief.vkey}\n${a.vkey}\n`, [thief]);
    expect(learnedFrom(a, claimed)).toEqual([]);
    const others = newSigner("other.example", Buffer.alloc(32, 5));
    expect(learnedFrom(a, signKeyStatement([others], [a]))).toEqual([]);
  });

  test("of any change are none", () => {
    const whole = Buffer.from(signKeyStatement([b, a], [a]));
    expect(parseKeyStatement(whole)).not.toBeNull();
    fc.assert(
      fc.property(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const bytes = Buffer.from(whole);
        bytes[at] = (bytes[at] ?? 0) ^ flip;
        expect(parseKeyStatement(bytes)).toBeNull();
      }),
    );
    fc.assert(
      fc.property(fc.uint8Array(), (bytes) => {
        expect(parseKeyStatement(bytes)).toBeNull();
      }),
    );
  });
});
