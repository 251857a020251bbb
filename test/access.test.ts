import { mkdtempSync, writeFileSync } from "node:fs";
import { connect as connectTcp } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { Agent, request } from "undici";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { nameInCertificate, nameInXfcc } from "../exporter/access/identity.ts";
import { isAllowed } from "../exporter/access/rules.ts";
import { bytesOf, uintOf } from "../record/codec.ts";
import {
  F_REFUSED_CAUSE,
  F_REFUSED_COUNT,
  F_SENDER_CHAIN,
  F_SENDER_NAME,
  KIND_REFUSED,
  KIND_SENDER,
  SENDER_MTLS,
  SENDER_NONE,
} from "../record/fields.ts";
import { BATCH_TYPE } from "../record/wire.ts";
import { type Authority, makeAuthority, writePair } from "./support/certificates.ts";
import { makeChain } from "./support/chains.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { checkLog, entriesOf } from "./support/log.ts";

const CART = "spiffe://cluster.local/ns/shop/sa/cart";
const PAY = "spiffe://cluster.local/ns/shop/sa/pay";
const AUDITOR = "spiffe://cluster.local/ns/audit/sa/auditor";
const STRANGER = "spiffe://cluster.local/ns/other/sa/x";

const dir = mkdtempSync(join(tmpdir(), "meshseal-access-"));
let authority: Authority;
let exporter: Exporter;
const agents = new Map<string, Agent>();

async function agentOf(name: string): Promise<Agent> {
  const held = agents.get(name);
  if (held !== undefined) return held;
  const pair = name === "" ? {} : await authority.issue({ uris: [name] });
  const agent = new Agent({ connect: { ca: authority.cert, servername: "log.example", ...pair } });
  agents.set(name, agent);
  return agent;
}

async function post(
  name: string,
  body: Uint8Array,
  to: { url: string } = exporter,
): Promise<{ status: number; refusal: unknown }> {
  const answer = await request(`${to.url.replace("http:", "https:")}/v1/batches`, {
    method: "POST",
    headers: { "content-type": BATCH_TYPE },
    body: Buffer.from(body),
    dispatcher: await agentOf(name),
  });
  await answer.body.dump();
  return { status: answer.statusCode, refusal: answer.headers["meshseal-refusal"] };
}

async function get(name: string, path: string, headers: Record<string, string> = {}) {
  return await request(`${exporter.url.replace("http:", "https:")}${path}`, {
    headers,
    dispatcher: await agentOf(name),
  });
}

beforeAll(async () => {
  authority = await makeAuthority();
  const server = writePair(dir, "server", await authority.issue({ dns: ["log.example"] }));
  const ca = join(dir, "ca.crt");
  writeFileSync(ca, authority.cert);
  const access = join(dir, "access.json");
  const rules = {
    write: ["spiffe://cluster.local/ns/shop/*"],
    read: ["spiffe://cluster.local/ns/audit/*", "anonymous"],
    batchesPerSecond: 20,
  };
  writeFileSync(access, JSON.stringify(rules));
  exporter = await startExporter({
    args: [
      ...["--tls-cert", server.cert, "--tls-key", server.key, "--tls-client-ca", ca],
      ...["--access", access, "--checkpoint-ms", "50"],
    ],
  });
});

afterAll(async () => {
  for (const agent of agents.values()) await agent.close();
  expect(await exporter.stop()).toBe(0);
  await checkLog(exporter.dir);
  // What a chain's sender was, and what was refused, stands in the log.
  const entries = entriesOf(exporter.dir);
  const bound = entries.filter(({ kind }) => kind === KIND_SENDER);
  expect(bound.map((entry) => String(Buffer.from(bytesOf(entry, F_SENDER_NAME) ?? [])))).toContain(
    CART,
  );
  for (const entry of bound) expect(bytesOf(entry, F_SENDER_CHAIN)).toHaveLength(16);
  const refused = entries
    .filter(({ kind }) => kind === KIND_REFUSED)
    .map((entry) => [
      String(Buffer.from(bytesOf(entry, F_REFUSED_CAUSE) ?? [])),
      uintOf(entry, F_REFUSED_COUNT),
    ]);
  expect(Object.fromEntries(refused)).toMatchObject({ forbidden: expect.any(Number) });
});

describe("an exporter with client certificates and an access file", () => {
  test("takes a chain from who began it, and from nobody else, also after a restart", async () => {
    const [a, b, c] = makeChain({ batches: 3, perBatch: 3, entryBytes: 200 }) as [
      Uint8Array,
      Uint8Array,
      Uint8Array,
    ];
    expect(await post(CART, a)).toEqual({ status: 200, refusal: undefined });
    expect(await post(PAY, b)).toEqual({ status: 403, refusal: "forbidden" });
    expect(await post(CART, b)).toEqual({ status: 200, refusal: undefined });
    const port = Number(exporter.address.split(":").at(-1));
    const { dir: data } = exporter;
    await exporter.kill();
    for (const agent of agents.values()) await agent.destroy();
    agents.clear();
    exporter = await startExporter({
      dir: data,
      port,
      args: [
        ...["--tls-cert", join(dir, "server.crt"), "--tls-key", join(dir, "server.key")],
        ...["--tls-client-ca", join(dir, "ca.crt"), "--access", join(dir, "access.json")],
        ...["--checkpoint-ms", "50"],
      ],
    });
    expect(await post(PAY, c)).toEqual({ status: 403, refusal: "forbidden" });
    expect(await post(CART, c)).toEqual({ status: 200, refusal: undefined });
  });

  test("refuses batches without a certificate, with another authority's, or from who may not write", async () => {
    const [batch] = makeChain({ batches: 1, perBatch: 2, entryBytes: 200 }) as [Uint8Array];
    expect(await post("", batch)).toMatchObject({ status: 403, refusal: "forbidden" });
    expect(await post(STRANGER, batch)).toMatchObject({ status: 403, refusal: "forbidden" });
    const other = await makeAuthority("another");
    const pair = await other.issue({ uris: [CART] });
    const agent = new Agent({
      connect: { ca: authority.cert, servername: "log.example", ...pair },
    });
    const answer = await request(`${exporter.url.replace("http:", "https:")}/v1/batches`, {
      method: "POST",
      headers: { "content-type": BATCH_TYPE },
      body: Buffer.from(batch),
      dispatcher: agent,
    });
    await answer.body.dump();
    expect(answer.statusCode).toBe(403);
    await agent.close();
  });

  test("ignores an x-forwarded-client-cert that it was not told to trust", async () => {
    const [batch] = makeChain({ batches: 1, perBatch: 2, entryBytes: 200 }) as [Uint8Array];
    const answer = await request(`${exporter.url.replace("http:", "https:")}/v1/batches`, {
      method: "POST",
      headers: { "content-type": BATCH_TYPE, "x-forwarded-client-cert": `URI=${CART}` },
      body: Buffer.from(batch),
      dispatcher: await agentOf(""),
    });
    await answer.body.dump();
    expect(answer.statusCode).toBe(403);
  });

  test("lets who may read read, and probes in without a certificate", async () => {
    for (const [name, status] of [
      [AUDITOR, 200],
      ["", 200],
      [CART, 403],
    ] as const) {
      const answer = await get(name, "/log/checkpoint");
      await answer.body.dump();
      expect([name, answer.statusCode]).toEqual([name, status]);
    }
    const health = await get("", "/healthz");
    await health.body.dump();
    expect(health.statusCode).toBe(200);
  });

  test("asks a sender that is too fast to wait, and takes its batch later", async () => {
    const batches = makeChain({ batches: 1, perBatch: 2, entryBytes: 200 }) as [Uint8Array];
    const answers = await Promise.all(Array.from({ length: 60 }, () => post(PAY, batches[0])));
    const slowed = answers.filter(({ status }) => status === 429);
    expect(slowed.length).toBeGreaterThan(0);
    for (const { refusal } of slowed) expect(refusal).toBe("busy");
    await expect
      .poll(async () => (await post(PAY, batches[0])).status, { timeout: 20_000, interval: 500 })
      .toBe(200);
  });

  test("serves a new certificate without a restart, and keeps the old one while the new does not fit", async () => {
    const names = async (): Promise<unknown> => {
      const agent = new Agent({ connect: { ca: authority.cert, servername: "new.example" } });
      try {
        const url = exporter.url.replace("http:", "https:");
        const answer = await request(`${url}/healthz`, { dispatcher: agent });
        await answer.body.dump();
        return answer.statusCode;
      } catch {
        return "refused";
      } finally {
        await agent.destroy();
      }
    };
    expect(await names()).toBe("refused");
    const pair = await authority.issue({ dns: ["new.example", "log.example"] });
    // Half of a replacement: the key is still the old one.
    writeFileSync(join(dir, "server.crt"), pair.cert);
    await expect
      .poll(() => JSON.stringify(exporter.logged), { timeout: 30_000 })
      .toContain("cannot be used");
    writeFileSync(join(dir, "server.key"), pair.key);
    await expect.poll(names, { timeout: 30_000, interval: 500 }).toBe(200);
  });
});

describe("the log's files over HTTP", () => {
  test("have types, ETags, ranges, HEAD and CORS; what changes is not cached", async () => {
    const checkpoint = await get("", "/log/checkpoint");
    expect(checkpoint.headers["content-type"]).toBe("text/plain; charset=utf-8");
    expect(checkpoint.headers["cache-control"]).toBe("no-cache");
    expect(checkpoint.headers["access-control-allow-origin"]).toBe("*");
    const text = await checkpoint.body.text();
    expect(text).toContain("\n\n— ");
    const size = Number(text.split("\n")[1]);
    const path = size >= 256 ? "/log/tile/0/000" : `/log/tile/0/000.p/${size}`;
    const tile = await get("", path);
    const bytes = Buffer.from(await tile.body.arrayBuffer());
    expect(tile.headers["content-type"]).toBe("application/octet-stream");
    expect(tile.headers["cache-control"]).toContain("immutable");
    const part = await get("", path, { range: "bytes=32-63" });
    expect(part.statusCode).toBe(206);
    expect(Buffer.from(await part.body.arrayBuffer()).equals(bytes.subarray(32, 64))).toBe(true);
    const same = await get("", path, { "if-none-match": String(tile.headers["etag"]) });
    await same.body.dump();
    expect(same.statusCode).toBe(304);
    const head = await request(`${exporter.url.replace("http:", "https:")}${path}`, {
      method: "HEAD",
      dispatcher: await agentOf(""),
    });
    expect([head.statusCode, head.headers["content-length"]]).toEqual([200, String(bytes.length)]);
    for (const bad of ["/log/../log.key", "/log/%2e%2e/log.key", "/log/.hidden", "/log/"]) {
      const answer = await get("", bad);
      await answer.body.dump();
      expect([bad, answer.statusCode >= 400]).toEqual([bad, true]);
    }
  });
});

test("a client that never ends its headers is cut off", async () => {
  const plain = await startExporter();
  const [host, port] = plain.address.split(":") as [string, string];
  const socket = connectTcp(Number(port), host);
  socket.on("error", () => {});
  socket.write("POST /v1/batches HTTP/1.1\r\nhost: x\r\nx-slow: ");
  const dripping = setInterval(() => socket.write("a"), 500);
  await new Promise((done) => socket.once("close", done));
  clearInterval(dripping);
  await plain.stop();
  await checkLog(plain.dir);
}, 90_000);

describe("names", () => {
  test.for([
    [`URI:${CART}`, CART],
    [`DNS:a.example, URI:${CART}`, CART],
    [`URI:${CART}, URI:${PAY}`, null],
    ["URI:https://cluster.local/x", null],
    ["URI:spiffe://cluster.local/../x", null],
    [`DNS:"a, URI:${CART}"`, null],
    ["DNS:proxy.example", "dns:proxy.example"],
    ["DNS:a.example, DNS:b.example", null],
    ["", null],
    [undefined, null],
  ] as const)("in a certificate with %s: %s", ([san, name]) => {
    expect(nameInCertificate(san)).toBe(name);
  });

  test.for([
    [`By=${PAY};Hash=abc;Subject="";URI=${CART}`, CART],
    [`URI=${PAY},By=x;URI=${CART}`, CART],
    [`Subject="x,URI=${PAY}";URI=${CART}`, CART],
    [`URI=${CART};URI=${PAY}`, null],
    [`Subject="open;URI=${CART}`, null],
    [`Subject="a\\";URI=${PAY}";Hash=1`, null],
    ["", null],
  ] as const)("in x-forwarded-client-cert %s: %s", ([header, name]) => {
    expect(nameInXfcc(header)).toBe(name);
  });

  test("of any text are a SPIFFE ID, a dns name or nothing", () => {
    const text = fc.oneof(
      fc.string(),
      fc
        .array(fc.constantFrom("URI:", "DNS:", "URI=", CART, ", ", ",", ";", '"', "\\", "..", "/"))
        .map((parts) => parts.join("")),
    );
    fc.assert(
      fc.property(text, (given) => {
        for (const name of [nameInCertificate(given), nameInXfcc(given)]) {
          if (name !== null)
            expect(name).toMatch(/^(spiffe:\/\/[a-z0-9._-]+(\/[\w.-]+)*|dns:[\w*.-]+)$/);
        }
      }),
    );
  });
});

describe("rules", () => {
  const known = { name: CART, auth: SENDER_MTLS };
  const nobody = { name: "", auth: SENDER_NONE };
  const local = { needsIdentity: true, isLocal: true };
  const remote = { needsIdentity: true, isLocal: false };

  test("without a file: writing needs an identity, reading is open, administering is local", () => {
    expect(isAllowed({}, "write", known, remote)).toBe(true);
    expect(isAllowed({}, "write", nobody, local)).toBe(false);
    expect(isAllowed({}, "write", nobody, { ...local, needsIdentity: false })).toBe(true);
    expect(isAllowed({}, "read", nobody, remote)).toBe(true);
    expect(isAllowed({}, "administer", known, remote)).toBe(false);
    expect(isAllowed({}, "administer", nobody, local)).toBe(true);
  });

  test("with one: a pattern says who, and an empty list says nobody", () => {
    expect(isAllowed({ write: ["spiffe://cluster.local/ns/shop/*"] }, "write", known, remote)).toBe(
      true,
    );
    expect(isAllowed({ write: [PAY] }, "write", known, remote)).toBe(false);
    expect(isAllowed({ write: ["anonymous"] }, "write", nobody, remote)).toBe(true);
    expect(isAllowed({ write: ["anonymous"] }, "write", known, remote)).toBe(false);
    expect(isAllowed({ administer: [] }, "administer", nobody, local)).toBe(false);
    expect(isAllowed({ read: ["*"] }, "read", nobody, remote)).toBe(true);
  });
});
