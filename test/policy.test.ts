import { generateKeyPairSync } from "node:crypto";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { parsePolicy } from "../exporter/audit/policy.ts";
import type { VerifyReport } from "../exporter/audit/report.ts";
import { logKeysAt, type Policy, policyOf } from "../exporter/audit/trust.ts";
import { verifyLog } from "../exporter/audit/verify.ts";
import { formatCheckpoint, openCheckpoint, signCheckpoint } from "../exporter/log/checkpoint.ts";
import { cosignedAt, newCosigner, parseCosignerVkey } from "../exporter/log/cosignature.ts";
import { newSigner, openNote, type Signer, signNote } from "../exporter/log/note.ts";
import { hasQuorum, PolicyError, parseTlogPolicy } from "../exporter/log/tlog-policy.ts";
import { type MemoryLog, memoryLog } from "./support/memory-log.ts";

const T0 = 1_767_139_200;
const cosigner = (name: string, time = T0): Signer =>
  newCosigner(name, Buffer.alloc(32, name), () => time);
const [A, B, C] = ["wit.example/a", "wit.example/b", "wit.example/c"].map((name) =>
  cosigner(name),
) as [Signer, Signer, Signer];
const GROUPS = `witness a ${A.vkey}\nwitness b ${B.vkey}\nwitness c ${C.vkey}\n`;
const none = (): Buffer => {
  throw new Error("no file is to be read");
};

describe("cosignatures", () => {
  test("Sunlight's published cosignature verifies, and gives its time", () => {
    // FiloSottile/sunlight cmd/skylight/testdata/witness2, with a log line of its own key added.
    const witness = parseCosignerVkey(
      "witness2.example.org+2e55b896+BIZ7fpceQWd60IfqQeS9IAnmNOCZjMDne8lZuguz/bi9",
    );
    const text = "milan2026h1.example.org\n300\nlCkHUpkmVBEms2r2T1K6Og69+wUuuN3MIEW1/ezu2v0=\n";
    const line =
      "— witness2.example.org LlW4lgAAAABpVGeAN/uFWqfjdU94rrKxFycCggM0Sa1L5tOJCJdYBwJ41CQsgKWA6B0+vywok3cPI3JIzuPeR+VotuYe/eNy0+30Dw==\n";
    if (witness === null) throw new Error("the key is not read");
    const opened = openNote(Buffer.from(`${text}\n${line}`), [witness]);
    expect(opened?.verified.map(cosignedAt)).toEqual([1_767_139_200]);
    const other = text.replace("300", "301");
    expect(openNote(Buffer.from(`${other}\n${line}`), [witness])).toBeNull();
  });

  test("ours are the bytes that another implementation derived", () => {
    // Seed 000102...1f on Tessera's checkpoint of size 15.
    const seed = Uint8Array.from({ length: 32 }, (_, i) => i);
    const signer = newCosigner("witness.example/w1", seed, () => 1_679_315_147);
    expect(signer.vkey).toBe(
      "witness.example/w1+e75f6532+BAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
    );
    const text = "example.com/log/testdata\n15\nrKbDipCvhuX1GZ7g5BBe8sA6BbJ7ja/1nk427v383cs=\n";
    expect(signNote(text, [signer])).toContain(
      "— witness.example/w1 519lMgAAAABkGFDLo0vvaVMnQBetpNUCKKILroiWxoSAyyV9iB/cgczFo9ONQdSuKdatX9+k2ggtjAKaVSHrTWaVvipK5HiRqnepAA==\n",
    );
  });

  test("a log's key is no witness's, and no time is no cosignature", () => {
    expect(parseCosignerVkey(newSigner("x", Buffer.alloc(32, 1)).vkey)).toBeNull();
    const key = parseCosignerVkey(A.vkey);
    const text = Buffer.from("x\n");
    expect(key?.verify(text, A.sign(text))).toBe(true);
    expect(key?.verify(text, cosigner(A.name, 0).sign(text))).toBe(false);
    expect(key?.verify(text, A.sign(text).subarray(0, 71))).toBe(false);
  });
});

describe("tlog-policy", () => {
  test("the specification's example: two of X and one of Y", () => {
    const names = ["X1", "X2", "X3", "Y1", "Y2", "Y3"];
    const lines = names.map((name) => `witness ${name} ${cosigner(name).vkey}`);
    const policy = parseTlogPolicy(
      `${lines.join("\n")}\n\ngroup X-witnesses 2 X1 X2 X3\n  group\tY-witnesses any Y1 Y2 Y3\n# both\ngroup X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n`,
    );
    expect(hasQuorum(policy, new Set(["X1", "X3", "Y2"]))).toBe(true);
    expect(hasQuorum(policy, new Set(["X1", "X2", "X3"]))).toBe(false);
    expect(hasQuorum(policy, new Set(["X1", "Y1", "Y2", "Y3"]))).toBe(false);
  });

  test.each([
    ["no quorum", GROUPS, "no quorum line"],
    ["two quorums", `${GROUPS}quorum a\nquorum b`, "line 5"],
    ["an unknown quorum", `${GROUPS}quorum d`, "d is not defined above"],
    ["an unknown word", "witnesses none\nquorum none", "line 1"],
    ["the same key twice", `${GROUPS}witness d ${A.vkey}\nquorum none`, "there already"],
    ["the same name twice", `${GROUPS}witness a ${cosigner("d").vkey}\nquorum none`, "taken"],
    ["a name none", `witness none ${A.vkey}\nquorum none`, "taken"],
    ["a member of two groups", `${GROUPS}group g 1 a b\ngroup h 1 b c\nquorum h`, "member already"],
    ["a member twice", `${GROUPS}group g 1 a a\nquorum g`, "member already"],
    ["a later member", `${GROUPS}group g 1 h\ngroup h 1 a\nquorum g`, "not defined above"],
    ["more than all", `${GROUPS}group g 3 a b\nquorum g`, "1 to 2"],
    ["fewer than one", `${GROUPS}group g 0 a b\nquorum g`, "1 to 2"],
    ["an inherited word", `${GROUPS}group g constructor a b\nquorum g`, "1 to 2"],
    ["a number that is not canonical", `${GROUPS}group g 01 a b\nquorum g`, "1 to 2"],
    ["a control character", "quorum none\r\n", "line 1"],
    ["a log's key for a witness", `witness a ${newSigner("x", Buffer.alloc(32)).vkey}`, "cosigner"],
  ])("refuses %s", (_, text, message) => {
    expect(() => parseTlogPolicy(text)).toThrow(PolicyError);
    expect(() => parseTlogPolicy(text)).toThrow(message);
  });

  test("any text is a policy or a PolicyError", () => {
    const word = fc.constantFrom(
      "log",
      "witness",
      "group",
      "quorum",
      "any",
      "all",
      "2",
      "a",
      "none",
      A.vkey,
      "#",
      "",
    );
    const line = fc.oneof(
      fc.array(word, { maxLength: 5 }).map((words) => words.join(" ")),
      fc.string(),
    );
    fc.assert(
      fc.property(fc.array(line, { maxLength: 8 }), (lines) => {
        try {
          const { quorum } = parseTlogPolicy(lines.join("\n"));
          expect(quorum === null || quorum !== "none").toBe(true);
        } catch (error) {
          expect(error).toBeInstanceOf(PolicyError);
        }
      }),
    );
  });

  test("a group of k holds exactly where k of its members do", () => {
    const subset = fc.subarray(["a", "b", "c"]);
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 3 }), subset, (k, signed) => {
        const policy = parseTlogPolicy(`${GROUPS}group g ${k} a b c\nquorum g`);
        expect(hasQuorum(policy, new Set(signed))).toBe(signed.length >= k);
      }),
    );
  });
});

describe("the policy file", () => {
  const key = newSigner("log.example/one", Buffer.alloc(32, 1)).vkey;
  const p256 = generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey;
  const pem = p256.export({ type: "spki", format: "pem" }).toString();

  test("reads all its parts, files beside it too", () => {
    const files: Record<string, string> = {
      "log.vkey": `${key}\n`,
      "wit.policy": `${GROUPS}group g 2 a b c\nquorum g\n`,
      headers: `# mainnet\n358391 ${"ab".repeat(80)}\n`,
      seen: "x",
    };
    const policy = parsePolicy(
      JSON.stringify({
        logs: [
          { key: "@log.vkey", toSize: 10 },
          { key: key.replace("one", "one"), fromSize: 11 },
        ],
        witnesses: "wit.policy",
        bitcoinHeaders: "headers",
        proxies: [{ key: pem, spiffe: "spiffe://a/b" }],
        lastSeen: ["seen"],
        require: [{ anchor: "rfc3161", maxAgeSeconds: 120 }],
      }),
      (name) => Buffer.from(files[name] ?? none()),
    );
    expect(policy.logs).toHaveLength(2);
    expect(policy.bitcoinHeaders?.get(358_391)).toHaveLength(80);
    expect(policy.proxies[0]?.spiffe).toBe("spiffe://a/b");
    // The quorum is asked for without being repeated.
    expect(policy.required.map(({ anchor }) => anchor)).toEqual(["witness", "rfc3161"]);
    expect(logKeysAt(policy.logs, "log.example/one", 10)).toHaveLength(1);
    expect(logKeysAt(policy.logs, "log.example/other", 10)).toHaveLength(0);
  });

  test.each([
    ["an unknown key", { logs: [{ key }], witness: [] }, "witness"],
    ["no log", { witnesses: ["quorum none"] }, "no log is named"],
    ["a key that is none", { logs: [{ key: "x" }] }, "no verifier key"],
    ["sizes in the wrong order", { logs: [{ key, fromSize: 2, toSize: 1 }] }, "toSize"],
    ["witnesses without a quorum", { logs: [{ key }], require: [{ anchor: "witness" }] }, "quorum"],
    [
      "an age of nothing",
      { logs: [{ key }], require: [{ anchor: "rfc3161", maxAgeSeconds: 0 }] },
      "maxAge",
    ],
    [
      "a proxy key that is no key",
      { logs: [{ key }], proxies: [{ key: "-----BEGIN x" }] },
      "no public key",
    ],
    [
      "certificates that are none",
      { logs: [{ key }], timestampAuthorities: [{ name: "t", roots: "-----BEGIN x" }] },
      "no certificate",
    ],
  ])("refuses %s", (_, policy, message) => {
    expect(() => parsePolicy(JSON.stringify(policy), none)).toThrow(message);
  });

  test("a bare tlog-policy is one too", () => {
    const policy = parsePolicy(`log ${key}\n${GROUPS}quorum a\n`, none);
    expect(policy.logs[0]?.verifier.vkey).toBe(key);
    expect(policy.required).toEqual([{ anchor: "witness", maxAgeSeconds: 300 }]);
    expect(() => parsePolicy(`${GROUPS}quorum a\n`, none)).toThrow("no log is named");
  });

  test("block headers are lines of height and 80 bytes", () => {
    const headers = (text: string): unknown =>
      parsePolicy(JSON.stringify({ logs: [{ key }], bitcoinHeaders: "h" }), () =>
        Buffer.from(text),
      );
    expect(() => headers(`1 ${"00".repeat(79)}\n`)).toThrow("line 1");
    expect(() => headers(`01 ${"00".repeat(80)}\n`)).toThrow("line 1");
  });
});

describe("verify by a policy", () => {
  let log: MemoryLog;
  let seen: Buffer;

  beforeAll(async () => {
    log = await memoryLog("log.example/two", "two");
    seen = await log.grow(300, T0);
    await log.grow(20, T0 + 10);
  });

  /** Verifies the log with `lines` added to its checkpoint. */
  async function verified(policy: Policy, signers: readonly Signer[] = []): Promise<VerifyReport> {
    const note = (await log.store.get("checkpoint")) ?? Buffer.alloc(0);
    const text = note.toString().slice(0, note.toString().indexOf("\n\n") + 1);
    const lines = signers.map((signer) => signNote(text, [signer]).slice(text.length + 1));
    const cosigned = Buffer.from(note.toString() + lines.join(""));
    const read = log.source.read;
    return await verifyLog(
      { read: async (path, limit) => (path === "checkpoint" ? cosigned : read(path, limit)) },
      { policy },
    );
  }

  const policyWith = (lines: string): Policy =>
    parsePolicy(`log ${log.signer.vkey}\n${GROUPS}${lines}\n`, none);

  test("two of three witnesses are enough where two are asked for, and each says when", async () => {
    const policy = policyWith("group g 2 a b c\nquorum g");
    const report = await verified(policy, [A, C]);
    expect(report.verdict).toBe("verified");
    expect(
      report.anchors.map(({ name, status, treeSize, time }) => [name, status, treeSize, time]),
    ).toEqual([
      ["wit.example/a", "verified", 320, "2025-12-31T00:00:00Z"],
      ["wit.example/c", "verified", 320, "2025-12-31T00:00:00Z"],
      ["g", "verified", 320, undefined],
    ]);
    expect(report.anchors[2]?.says).toContain("witnessed by 2 of 3");
    const one = await verified(policy, [B]);
    expect(one.verdict).toBe("incomplete");
    expect(one.findings.map(({ cause }) => cause)).toEqual(["anchor-missing"]);
  });

  test("a cosignature on something else counts for nothing", async () => {
    const policy = policyWith("quorum a");
    const forged = { ...A, sign: (): Uint8Array => A.sign(Buffer.from("other\n")) };
    expect((await verified(policy, [forged])).verdict).toBe("incomplete");
    expect((await verified(policy, [forged, B])).anchors.map(({ name }) => name)).toEqual([B.name]);
  });

  test("cosigners whose keys were not given are listed as not checked", async () => {
    const report = await verified(policyOf(log.verifier), [A]);
    expect(report.notes).toContain(`The cosignature by ${A.name} was not checked: no key given.`);
  });

  test("a rotated key signs its own sizes only", async () => {
    const old = newSigner(log.verifier.name, Buffer.alloc(32, 9));
    const keys = (first: number): string =>
      JSON.stringify({
        logs: [
          { key: old.vkey, toSize: first - 1 },
          { key: log.signer.vkey, fromSize: first },
        ],
      });
    expect((await verified(parsePolicy(keys(310), none))).verdict).toBe("verified");
    const report = await verified(parsePolicy(keys(321), none));
    expect(report.findings[0]).toMatchObject({ severity: "tampered", cause: "checkpoint" });
  });

  test("a last-seen checkpoint finds a roll-back; without one verify says that it cannot tell", async () => {
    const { size, root } = openCheckpoint(seen, log.verifier) ?? {
      size: 0,
      root: Buffer.alloc(32),
    };
    const with_ = (lastSeen: Buffer): Policy => ({
      ...policyOf(log.verifier),
      lastSeen: [lastSeen],
    });
    expect((await verified(with_(seen))).notes).toContain(
      "The log extends the last-seen checkpoint of size 300.",
    );
    const later = { origin: log.verifier.name, size: size + 1000, root };
    const rolled = await verified(with_(Buffer.from(signCheckpoint(later, [log.signer]))));
    expect(rolled.findings[0]).toMatchObject({ severity: "tampered", cause: "rolled-back" });
    const unsigned = await verified(with_(Buffer.from(signNote(formatCheckpoint(later), [A]))));
    expect(unsigned.verdict).toBe("cannot-say");
    expect((await verified(policyOf(log.verifier))).notes.join()).toContain("roll-back");
  });
});
