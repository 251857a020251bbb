import { createHash, X509Certificate } from "node:crypto";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Subject } from "../exporter/anchor/anchor.ts";
import { timestamps } from "../exporter/anchor/rfc3161.ts";
import {
  formatTimestampRequest,
  type Timestamp,
  type TimestampTrust,
  verifyTimestamp,
} from "../exporter/anchor/timestamp-token.ts";
import {
  type Authority,
  makeAuthority,
  openssl,
  startTsa,
  TSA_EXTENSIONS,
  type Tsa,
} from "./support/tsa.ts";

const note = Buffer.from("log.example/t\n1\nAAAA\n\n— log.example/t AAAAAAA=\n");
const digest = createHash("sha256").update(note).digest();
const subject: Subject = { size: 1, root: Buffer.alloc(32), note, prove: async () => [] };
const trust = (pem: string, policies: string[] = []): TimestampTrust => ({
  roots: [new X509Certificate(readFileSync(pem))],
  policies,
});
const asked = (url: string, roots: TimestampTrust): Promise<Buffer> =>
  timestamps({ name: "tsa", url, everyMs: 1000, timeoutMs: 30_000 }, roots)
    .submit(subject, AbortSignal.timeout(30_000))
    .then(({ bytes }) => bytes);

let tsa: Tsa;
let rsa: Tsa;
let token: Buffer;

beforeAll(async () => {
  [tsa, rsa] = await Promise.all([startTsa("ec"), startTsa("rsa")]);
  token = await asked(tsa.url, trust(tsa.root));
});
afterAll(async () => {
  await Promise.all([tsa.stop(), rsa.stop()]);
});

test("says by how much the authority's clock is ahead", async () => {
  const found: number[] = [];
  const target = { name: "tsa", url: tsa.url, everyMs: 1000, timeoutMs: 30_000 };
  const anchor = timestamps(target, trust(tsa.root), (aheadMs) => found.push(aheadMs));
  const ask = (): Promise<unknown> => anchor.submit(subject, AbortSignal.timeout(30_000));
  await ask();
  const now = Date.now;
  // Our own clock an hour behind, and an hour ahead.
  for (const by of [-3_600_000, 3_600_000]) {
    Date.now = () => now() + by;
    try {
      await ask();
    } finally {
      Date.now = now;
    }
  }
  const [same, ahead = 0, behind = 0] = found;
  expect(same).toBe(0);
  expect(Math.abs(ahead - 3_600_000)).toBeLessThan(60_000);
  expect(Math.abs(behind + 3_600_000)).toBeLessThan(60_000);
});

test("a request is the bytes that openssl makes", () => {
  const nonce = Buffer.from("4123456789abcdef", "hex");
  const file = join(tsa.dir, "ours.tsq");
  writeFileSync(file, formatTimestampRequest(digest, nonce));
  const text = openssl(tsa.dir, "ts", "-query", "-in", file, "-text").toString();
  expect(text).toContain("Nonce: 0x4123456789ABCDEF");
  expect(text).toContain("Certificate required: yes");
  const theirs = openssl(
    tsa.dir,
    "ts",
    "-query",
    "-digest",
    digest.toString("hex"),
    "-sha256",
    "-no_nonce",
    "-cert",
  );
  // The same but for the nonce, and for the length that counts it.
  const ours = formatTimestampRequest(digest, nonce);
  const bare = Buffer.concat([ours.subarray(0, 56), ours.subarray(66)]);
  bare[1] = 0x39;
  expect(bare).toEqual(theirs);
});

describe("a token", () => {
  test.each(["ec", "rsa"] as const)(
    "by an authority with an %s key is verified to its root",
    async (kind) => {
      const by = kind === "ec" ? tsa : rsa;
      const bytes = await asked(by.url, trust(by.root));
      const stamp = verifyTimestamp(bytes, digest, trust(by.root));
      expect(stamp).toMatchObject({
        status: "verified",
        policy: "1.3.6.1.4.1.13762.3",
        accuracyMs: 1000,
      });
      if (stamp.status === "invalid") throw new Error(stamp.reason);
      expect(Math.abs(stamp.time - Date.now())).toBeLessThan(3_600_000);
      expect(stamp.authority).toContain("CN=tsa");
    },
  );

  test("is what openssl verifies too", () => {
    writeFileSync(join(tsa.dir, "n.checkpoint"), note);
    writeFileSync(join(tsa.dir, "n.tsr"), token);
    const files = ["-data", "n.checkpoint", "-in", "n.tsr", "-CAfile", "root.crt"];
    expect(openssl(tsa.dir, "ts", "-verify", ...files).toString()).toContain("Verification: OK");
  });

  test("is for these bytes, this nonce, this root and this policy", () => {
    const reason = (stamp: Timestamp): string => `${stamp.status}: ${stamp.reason}`;
    const root = trust(tsa.root);
    const other = createHash("sha256").update("other").digest();
    expect(reason(verifyTimestamp(token, other, root))).toContain("invalid: it is for other bytes");
    expect(reason(verifyTimestamp(token, digest, root, Buffer.alloc(8, 0x41)))).toContain("nonce");
    expect(reason(verifyTimestamp(token, digest, trust(rsa.root)))).toContain(
      "untrusted: its chain ends",
    );
    expect(reason(verifyTimestamp(token, digest, trust(tsa.root, ["1.2.3"])))).toContain(
      "untrusted: its policy",
    );
    expect(verifyTimestamp(token, digest, trust(tsa.root, ["1.3.6.1.4.1.13762.3"])).status).toBe(
      "verified",
    );
    expect(reason(verifyTimestamp(token, digest, { roots: [], policies: [] }))).toContain(
      "no root was given",
    );
  });

  test("that is changed anywhere is not verified as another", () => {
    const good = verifyTimestamp(token, digest, trust(tsa.root));
    const root = trust(tsa.root);
    fc.assert(
      fc.property(fc.nat(token.length - 1), fc.integer({ min: 1, max: 255 }), (at, by) => {
        const changed = Buffer.from(token);
        changed[at] = (changed[at] ?? 0) ^ by;
        const stamp = verifyTimestamp(changed, digest, root);
        // What is neither signed nor of the chain may differ: status text, version, digest list.
        if (stamp.status === "verified") expect(stamp).toEqual(good);
      }),
      { numRuns: 150 },
    );
    expect(verifyTimestamp(Buffer.concat([token, Buffer.of(0)]), digest, root).status).toBe(
      "invalid",
    );
    for (let end = 0; end < token.length; end += 37)
      expect(verifyTimestamp(token.subarray(0, end), digest, root).status).toBe("invalid");
  });

  test("any bytes are judged, and none is good", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        expect(verifyTimestamp(bytes, digest, trust(tsa.root)).status).toBe("invalid");
      }),
    );
  });
});

describe("tokens that a wrong certificate has signed", () => {
  let authority: Authority;
  let info: string;

  beforeAll(() => {
    authority = makeAuthority();
    // The TSTInfo of a good token, to be signed anew by others.
    const work = mkdtempSync(join(authority.dir, "work-"));
    info = join(work, "info.der");
    writeFileSync(join(work, "r.tsr"), token);
    openssl(work, "ts", "-reply", "-in", "r.tsr", "-token_out", "-out", "token.der");
    openssl(
      work,
      "cms",
      "-verify",
      "-noverify",
      "-inform",
      "DER",
      "-in",
      "token.der",
      "-out",
      info,
      "-binary",
    );
    laterBy(1);
  });

  /** Moves the time in it to so many days from now: certificates that are made here are not valid before. */
  function laterBy(days: number): void {
    const later = new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 19);
    const bytes = readFileSync(info).toString("latin1");
    writeFileSync(info, bytes.replace(/20\d{12}Z/, `${later.replaceAll(/[-:T]/g, "")}Z`), "latin1");
  }

  /** Signs as `openssl cms` does, which looks at no usage, and puts a status before it. */
  function sign(name: string, extensions: string, ...more: string[]): Timestamp {
    const { cert, key } = authority.issue(name, { extensions });
    return signWith(cert, key, ...more);
  }

  function signWith(cert: string, key: string, ...more: string[]): Timestamp {
    const type = [
      "-econtent_type",
      "1.2.840.113549.1.9.16.1.4",
      "-nodetach",
      "-binary",
      "-outform",
      "DER",
    ];
    const signed = openssl(
      authority.dir,
      "cms",
      "-sign",
      "-in",
      info,
      "-signer",
      cert,
      "-inkey",
      key,
      ...type,
      ...more,
    );
    const body = Buffer.concat([Buffer.from("3003020100", "hex"), signed]);
    const header = Buffer.from("30820000", "hex");
    header.writeUInt16BE(body.length, 2);
    return verifyTimestamp(Buffer.concat([header, body]), digest, trust(authority.root));
  }

  test("the same way with the right certificate is verified", () => {
    expect(sign("good", TSA_EXTENSIONS, "-cades")).toMatchObject({ status: "verified" });
  });

  test.each([
    ["no extended key usage", "keyUsage=critical,digitalSignature", "not for time stamping"],
    ["another one", "extendedKeyUsage=critical,serverAuth", "not for time stamping alone"],
    [
      "one more",
      "extendedKeyUsage=critical,timeStamping,serverAuth",
      "not for time stamping alone",
    ],
    ["one that is not critical", "extendedKeyUsage=timeStamping", "not critical"],
    [
      "a critical extension that nobody knows",
      `${TSA_EXTENSIONS}\n1.2.3.4=critical,DER:0500`,
      "critical extension 1.2.3.4",
    ],
  ])("%s", (name, extensions, reason) => {
    const stamp = sign(name.replaceAll(" ", "-"), extensions, "-cades");
    expect(stamp.status).toBe("untrusted");
    expect(stamp.reason).toContain(reason);
  });

  test("one that was not valid at that time", () => {
    laterBy(25);
    expect(sign("expired", TSA_EXTENSIONS, "-cades").reason).toContain("not valid at that time");
    laterBy(1);
  });

  test("no attribute that binds the certificate", () => {
    expect(sign("unbound", TSA_EXTENSIONS)).toMatchObject({ status: "invalid" });
  });

  test("an issuer that is no authority", () => {
    authority.issue("leaf", { extensions: "keyUsage=critical,digitalSignature" });
    const { cert, key } = authority.issue("below", { extensions: TSA_EXTENSIONS, issuer: "leaf" });
    const stamp = signWith(cert, key, "-cades", "-certfile", join(authority.dir, "leaf.crt"));
    expect(stamp.status).toBe("untrusted");
  });

  test("a chain by an authority between is followed, and one that is cut is not", () => {
    authority.issue("between", { extensions: "basicConstraints=critical,CA:TRUE,pathlen:0" });
    const { cert, key } = authority.issue("end", { extensions: TSA_EXTENSIONS, issuer: "between" });
    const chain = ["-certfile", join(authority.dir, "between.crt")];
    expect(signWith(cert, key, "-cades", ...chain)).toMatchObject({ status: "verified" });
    expect(signWith(cert, key, "-cades")).toMatchObject({ status: "untrusted" });
  });
});

test("an authority that refuses, lies or is long is an error, and nothing is kept", async () => {
  const answers: (Buffer | number)[] = [
    Buffer.from("3003020102", "hex"),
    token,
    Buffer.alloc(70_000),
    500,
  ];
  const server = createServer((_, outgoing) => {
    const answer = answers.shift();
    if (typeof answer === "number") outgoing.writeHead(answer).end();
    else outgoing.end(answer);
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  // Refused; another request's token: the nonce differs; too long; a status.
  for (const message of ["no good", "nonce", "more than 65536 bytes", "answered 500"])
    await expect(asked(url, trust(tsa.root))).rejects.toThrow(message);
  server.closeAllConnections();
  server.close();
});
