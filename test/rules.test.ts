import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { request } from "undici";
import { afterAll, beforeAll, expect, test } from "vitest";
import { leafHash } from "../exporter/log/merkle.ts";
import { formatBatch } from "../record/batch.ts";
import { bytesOf, encodeEntry, type FieldValue } from "../record/codec.ts";
import * as f from "../record/fields.ts";
import { BATCH_TYPE } from "../record/wire.ts";
import { compiledMain } from "./support/compiled.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { checkLog, entriesOf } from "./support/log.ts";

const CHAIN = Buffer.alloc(16, 7);
const RULES = ["allow web to read carts\n", "allow nobody\n"].map((text) => Buffer.from(text));
const DIGESTS = RULES.map((text) => createHash("sha256").update(text).digest());

const DENIED: FieldValue[] = [
  { number: f.F_STATUS, value: 403 },
  { number: f.F_PATH, value: Buffer.from("/a\u001b[31m") },
  { number: f.F_FLAGS, value: 32 + 16_384 },
  { number: f.F_PEER_AUTH, value: f.PEER_MTLS },
  { number: f.F_DECISION, value: f.DECISION_NOTHING_ALLOWED },
  { number: f.F_DENIED_BY, value: f.ENGINE_RBAC },
  { number: f.F_GRPC_STATUS, value: 7 },
];

let exporter: Exporter;
let dir = "";

/** A chain whose rules change between two requests. */
function makeChain(): Uint8Array[] {
  const policy = (i: number): FieldValue[] => [
    { number: f.F_POLICY_DIGEST, value: DIGESTS[i] ?? CHAIN },
    { number: f.F_CONFIG_DIGEST, value: Buffer.alloc(32, i + 1) },
  ];
  const entries: [number, number, FieldValue[]][] = [
    [f.KIND_OPEN, 1, policy(0)],
    [f.KIND_REQUEST, 1, []],
    [f.KIND_CONFIG, 2, policy(1)],
    [f.KIND_REQUEST, 2, DENIED],
  ];
  let prev: Uint8Array = new Uint8Array(32);
  return entries.map(([kind, config, fields], seq) => {
    const entry = encodeEntry([
      { number: f.F_KIND, value: kind },
      { number: f.F_CHAIN, value: CHAIN },
      { number: f.F_SEQ, value: seq },
      { number: f.F_PREV, value: prev },
      { number: f.F_TIME, value: 1_795_478_400_000_000 + seq },
      { number: f.F_SALT, value: Buffer.alloc(16, seq) },
      { number: f.F_CONFIG, value: config },
      ...fields,
    ]);
    prev = leafHash(entry);
    return entry;
  });
}

function meshseal(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [compiledMain(), ...args], { encoding: "utf8" });
}

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), "meshseal-rules-"));
  exporter = await startExporter({ args: ["--checkpoint-ms", "50"] });
});

afterAll(async () => {
  await exporter.stop();
  rmSync(dir, { recursive: true, force: true });
  rmSync(exporter.dir, { recursive: true, force: true });
});

test("the rules in force at a request are found by their digest, and the log says when they came", async () => {
  const file = join(dir, "rules.txt");
  for (const [i, text] of RULES.entries()) {
    writeFileSync(file, text);
    const put = meshseal("policy", "put", file, "--to", exporter.url, "--name", `rules ${i}`);
    expect(put).toMatchObject({ status: 0, stdout: `${DIGESTS[i]?.toString("hex")}\n` });
  }
  const answer = await request(`${exporter.url}/v1/batches`, {
    method: "POST",
    headers: { "content-type": BATCH_TYPE },
    body: Buffer.from(formatBatch(CHAIN, 0, makeChain())),
  });
  expect(answer.statusCode).toBe(200);
  await answer.body.dump();
  // A clean stop publishes all of it.
  await exporter.stop();
  for (const [i, seq] of [1, 3].entries()) {
    const which = `${CHAIN.toString("hex")}:${seq}`;
    const of = meshseal("policy", "of", which, "--log", exporter.dir, "--json");
    expect(of.status).toBe(0);
    expect(JSON.parse(of.stdout)).toMatchObject({
      config: i + 1,
      configuration: Buffer.alloc(32, i + 1).toString("hex"),
      policies: [DIGESTS[i]?.toString("hex")],
    });
  }
  const shown = meshseal("show", `${CHAIN.toString("hex")}:3`, "--log", exporter.dir).stdout;
  for (const line of [
    /^ {2}flags +16416 {2}\(UF, DC\)$/m,
    /^ {2}peer_auth +1 {2}\(mutual TLS\)$/m,
    /^ {2}decision +3 {2}\(denied: nothing allowed it\)$/m,
    /^ {2}denied_by +1 {2}\(RBAC\)$/m,
    /^ {2}grpc_status +7 {2}\(PERMISSION_DENIED\)$/m,
    /^ {2}path +"0x2f611b5b33316d"$/m,
  ]) {
    expect(shown).toMatch(line);
  }
  const noted = entriesOf(exporter.dir).filter(
    (entry) => entry.kind === f.KIND_CONFIG && !CHAIN.equals(entry.chain),
  );
  expect(noted.map((entry) => bytesOf(entry, f.F_POLICY_DIGEST))).toEqual(
    DIGESTS.map((digest) => new Uint8Array(digest)).map((digest) =>
      expect.objectContaining(digest),
    ),
  );
  const names = noted.map((entry) => Buffer.from(bytesOf(entry, f.F_POLICY_NAME) ?? []).toString());
  expect(names).toEqual(["rules 0", "rules 1"]);
  await checkLog(exporter.dir);

  exporter = await startExporter({ dir: exporter.dir });
  const [digest = ""] = DIGESTS.map((one) => one.toString("hex"));
  const got = meshseal("policy", "get", digest, "--from", exporter.url);
  expect(got).toMatchObject({ status: 0, stdout: RULES[0]?.toString() });
});

test("a hash is the HMAC of the value under the key in a file, and a file without a key is refused", () => {
  const file = join(dir, "hash.key");
  writeFileSync(file, `k1:${"0b".repeat(20)}\n`);
  // RFC 4231, test case 1.
  expect(meshseal("hash", "Hi There", "--key", file)).toMatchObject({
    status: 0,
    stdout: "b0344c61d8db38535ca8afceaf0bf12b\n",
  });
  writeFileSync(file, "0b".repeat(20));
  const refused = meshseal("hash", "Hi There", "--key", file);
  expect(refused).toMatchObject({ status: 64, stdout: "" });
  expect(refused.stderr).toContain("holds no key");
});

test.each([
  ["another digest", "00".repeat(32), RULES[0] ?? CHAIN, "application/vnd.meshseal.policy", 400],
  ["a path that is no digest", "..%2Flog.key", CHAIN, "application/vnd.meshseal.policy", 400],
  [
    "too much",
    "00".repeat(32),
    Buffer.alloc((1 << 20) + 1),
    "application/vnd.meshseal.policy",
    413,
  ],
  ["another type", "00".repeat(32), CHAIN, "text/plain", 415],
])("%s is refused", async (_, digest, body, type, status) => {
  const answer = await request(`${exporter.url}/v1/policies/${digest}`, {
    method: "PUT",
    headers: { "content-type": type },
    body,
  });
  await answer.body.dump();
  expect(answer.statusCode).toBe(status);
});

test("nothing but texts can be got", async () => {
  for (const digest of ["00".repeat(32), "..%2Flog.key", "%2e%2e/log.key"]) {
    const answer = await request(`${exporter.url}/v1/policies/${digest}`);
    expect(answer.statusCode).toBe(404);
    expect(await answer.body.text()).not.toContain("PRIVATE");
  }
  expect(readFileSync(join(exporter.dir, "log.key"), "utf8")).toContain("PRIVATE");
});
