import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openTimestamps } from "../../exporter/anchor/opentimestamps.ts";
import { attestationsOf, parseOts } from "../../exporter/anchor/ots.ts";
import { type Calendar, startCalendar } from "../support/calendar.ts";
import { pythonWith } from "../support/python.ts";

// opentimestamps-client's own library reads what we wrote, and we read what it wrote.

const note = Buffer.from("log.example/o\n1\nAAAA\n\n— log.example/o AAAAAAA=\n");
const digest = createHash("sha256").update(note).digest();

/** Prints `height time` for every attestation in a block with the header given in hex, or fails. */
const VERIFY = `
import io, sys
from bitcoin.core import CBlockHeader
from opentimestamps.core.notary import BitcoinBlockHeaderAttestation
from opentimestamps.core.serialize import StreamDeserializationContext
from opentimestamps.core.timestamp import DetachedTimestampFile
with open(sys.argv[1], "rb") as file:
    proof = DetachedTimestampFile.deserialize(StreamDeserializationContext(file))
with open(sys.argv[2], "rb") as file:
    assert proof.file_digest == proof.file_hash_op.hash_fd(file), "another file"
header = CBlockHeader.deserialize(bytes.fromhex(sys.argv[3]))
for message, attestation in proof.timestamp.all_attestations():
    if isinstance(attestation, BitcoinBlockHeaderAttestation):
        print(attestation.height, attestation.verify_against_blockheader(message, header))
`;

/** Writes a proof of its own for a file: an append, a prepend and a hash, and a block. */
const WRITE = `
import sys
from opentimestamps.core.notary import BitcoinBlockHeaderAttestation, PendingAttestation
from opentimestamps.core.op import OpAppend, OpPrepend, OpSHA256
from opentimestamps.core.serialize import StreamSerializationContext
from opentimestamps.core.timestamp import DetachedTimestampFile
with open(sys.argv[1], "rb") as file:
    proof = DetachedTimestampFile.from_fd(OpSHA256(), file)
at = proof.timestamp.ops.add(OpAppend(b"behind"))
at.attestations.add(PendingAttestation("https://calendar.example"))
at.ops.add(OpPrepend(b"before")).ops.add(OpSHA256()).attestations.add(BitcoinBlockHeaderAttestation(800123))
with open(sys.argv[2], "wb") as file:
    proof.serialize(StreamSerializationContext(file))
`;

let python = "";
let dir = "";
let calendar: Calendar;
beforeAll(async () => {
  python = pythonWith("opentimestamps==0.4.5");
  dir = mkdtempSync(join(tmpdir(), "meshseal-ots-"));
  writeFileSync(join(dir, "note"), note);
  calendar = await startCalendar();
}, 300_000);
afterAll(() => calendar.stop());

const run = (script: string, ...args: string[]): string =>
  execFileSync(python, ["-c", script, ...args], {
    cwd: dir,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
  });

test("the reference library verifies our proof against the block's header, and against no other", async () => {
  const anchor = openTimestamps({
    name: "bitcoin",
    calendars: [calendar.url],
    upgradeFrom: [],
    minimum: 1,
    everyMs: 1000,
    timeoutMs: 30_000,
  });
  const signal = AbortSignal.timeout(30_000);
  const subject = { size: 1, root: Buffer.alloc(32), note, prove: async () => [] };
  const promise = await anchor.submit(subject, signal);
  const { height, header } = calendar.mine(1_767_139_200);
  const proof = await anchor.poll?.(note, promise.bytes, signal);
  expect(proof?.isFinal).toBe(true);
  writeFileSync(join(dir, "ours.ots"), proof?.bytes ?? "");
  expect(run(VERIFY, "ours.ots", "note", header)).toBe(`${height} 1767139200\n`);
  const other = `${header.slice(0, 72)}${"11".repeat(32)}${header.slice(136)}`;
  expect(() => run(VERIFY, "ours.ots", "note", other)).toThrow(/VerificationError/);
});

test("and what it writes is read here to the same attestations", () => {
  run(WRITE, "note", "theirs.ots");
  const bytes = readFileSync(join(dir, "theirs.ots"));
  const found = attestationsOf(parseOts(bytes, digest), digest);
  const inner = Buffer.concat([Buffer.from("before"), digest, Buffer.from("behind")]);
  expect(found).toMatchObject([
    { kind: "pending", uri: "https://calendar.example" },
    { kind: "bitcoin", height: 800_123, message: createHash("sha256").update(inner).digest() },
  ]);
});
