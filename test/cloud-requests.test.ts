/**
 * What is asked of Google Cloud Storage and Azure Blob Storage where no test server has the feature: recorded on a server of our own and
 * compared with the services' documents, whose answers it gives. That the real services answer so is not shown by this; doctor
 * shows it (docs/storage.md).
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingHttpHeaders } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { expect, onTestFinished, test } from "vitest";
import { objectChecks, openTrial } from "../exporter/doctor/bucket.ts";
import { newSigner } from "../exporter/log/note.ts";
import type { ServiceBucket } from "../exporter/store/service.ts";
import { openService, whereOf } from "../exporter/store/settings.ts";
import { makeAuthority } from "./support/certificates.ts";
import { setAzureKey } from "./support/cloud-server.ts";
import { compiledMain } from "./support/compiled.ts";

type Asked = { what: string; headers: IncomingHttpHeaders; body: string };
type Answer = { status?: number; headers?: Record<string, string>; body?: string };

/** Answers the first request with the first of `answers`, and so on. */
async function record(answers: readonly Answer[]): Promise<{ url: string; asked: Asked[] }> {
  const asked: Asked[] = [];
  const left = [...answers];
  const server = createServer(async (request, response) => {
    const parts: Buffer[] = [];
    for await (const part of request) parts.push(part as Buffer);
    const { method, url, headers } = request;
    asked.push({ what: `${method} ${url}`, headers, body: Buffer.concat(parts).toString() });
    const { status = 200, headers: more = {}, body = "" } = left.shift() ?? { status: 500 };
    response.writeHead(status, { "content-length": body.length, ...more }).end(body);
  }).listen(0, "127.0.0.1");
  onTestFinished(() => void server.close().closeAllConnections());
  await new Promise((resolve) => server.once("listening", resolve));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked };
}

const json = (body: object): Answer => ({
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
});

async function all<T>(found: AsyncIterable<T> | undefined): Promise<T[]> {
  const list: T[] = [];
  for await (const one of found ?? []) list.push(one);
  return list;
}

const UNTIL = new Date("2027-01-01T00:00:00.400Z");
const WHOLE = "2027-01-01T00:00:01.000Z";

// https://cloud.google.com/storage/docs/json_api/v1/objects/insert, .../objects/patch, .../objects/delete, .../objects/list
async function gcs(...answers: Answer[]): Promise<{ bucket: ServiceBucket; asked: Asked[] }> {
  const { url, asked } = await record(answers);
  return { bucket: await openService(whereOf("gs://audit", { gcsEndpoint: url })), asked };
}

test("GCS: a locked file is one request, with its retention and its check sum in it", async () => {
  const { bucket, asked } = await gcs(json({ generation: "17" }), json({ generation: "18" }));
  const made = await bucket.create("a/b c", Buffer.from("bytes"), UNTIL);
  expect(made).toEqual({ etag: "17", version: "17" });
  await bucket.swap("a/b c", Buffer.from("others"), "17");
  expect(asked.map(({ what }) => what)).toEqual([
    "POST /upload/storage/v1/b/audit/o?uploadType=multipart&name=a%2Fb+c&ifGenerationMatch=0",
    "POST /upload/storage/v1/b/audit/o?uploadType=multipart&name=a%2Fb+c&ifGenerationMatch=17",
  ]);
  const [type, , metadata, , , , bytes] = (asked[0]?.body ?? "").split("\r\n").slice(1);
  expect(type).toBe("content-type: application/json");
  expect(JSON.parse(metadata ?? "")).toEqual({
    md5Hash: "SzpiGLs+OnMD6KFxpg/Pkg==",
    retention: { mode: "Locked", retainUntilTime: WHOLE },
    metadata: { "meshseal-locked-until": WHOLE },
  });
  expect(bytes).toBe("bytes");
  expect(asked[1]?.body).not.toContain("retention");
  // No token goes where there is no TLS.
  expect(asked[0]?.headers["authorization"]).toBeUndefined();
});

test("GCS: holds and removals name the generation", async () => {
  const { bucket, asked } = await gcs(json({}), json({}), { status: 204 }, { status: 404 });
  await bucket.hold?.("k", "17", true);
  await bucket.hold?.("k", "17", false);
  await bucket.remove([{ key: "k", version: "17" }]);
  await bucket.remove([{ key: "k", version: "17" }]);
  expect(asked.map(({ what, body }) => `${what} ${body}`.trim())).toEqual([
    'PATCH /storage/v1/b/audit/o/k?generation=17 {"temporaryHold":true}',
    'PATCH /storage/v1/b/audit/o/k?generation=17 {"temporaryHold":false}',
    "DELETE /storage/v1/b/audit/o/k?generation=17",
    "DELETE /storage/v1/b/audit/o/k?generation=17",
  ]);
});

test("GCS: a list of pages gives each version once, newest first, and says what was hidden", async () => {
  const item = (name: string, generation: string, timeDeleted?: string): object => ({
    ...{ name, generation, size: "5", timeCreated: "2026-11-01T00:00:00Z" },
    ...(timeDeleted === undefined ? {} : { timeDeleted }),
  });
  const retention = { mode: "Locked", retainUntilTime: WHOLE };
  const metadata = { "meshseal-locked-until": WHOLE };
  const { bucket, asked } = await gcs(
    json({ items: [item("a", "10", "2026-11-02T00:00:00Z")], nextPageToken: "p/2" }),
    json({
      items: [
        { ...item("a", "11", "2026-11-03T00:00:00Z"), retention, metadata },
        { ...item("b", "12"), retention: { ...retention, mode: "Unlocked" } },
      ],
    }),
  );
  const listed = await all(bucket.versions("x/"));
  expect(asked[0]?.what).toMatch(/^GET \/storage\/v1\/b\/audit\/o\?versions=true&prefix=x%2F&/);
  expect(asked[1]?.what).toMatch(/&pageToken=p%2F2$/);
  expect(listed.map((one) => [one.key, one.version, one.isLatest, one.isDeleteMarker])).toEqual([
    ["a", "", true, true],
    ["a", "11", false, false],
    ["a", "10", false, false],
    ["b", "12", true, false],
  ]);
  expect(listed[0]?.modified).toEqual(new Date("2026-11-03T00:00:00Z"));
  expect(listed[1]?.lock).toEqual({ promised: new Date(WHOLE), now: new Date(WHOLE) });
  // Unlocked is no lock: who wrote it can take it away.
  expect(listed[3]?.lock).toEqual({ promised: null, now: null });
  const behind = await gcs(json({ items: [item("x/5", "1"), item("x/6", "2")] }));
  const after = await all(behind.bucket.versionsAfter?.("x/", "x/5"));
  expect(after.map(({ key, version }) => [key, version])).toEqual([["x/6", "2"]]);
  expect(behind.asked[0]?.what).toMatch(/\?versions=true&prefix=x%2F&startOffset=x%2F5&fields=/);
});

test("GCS: what was softly deleted is a list of its own; a bucket that has none says nothing", async () => {
  const softDeleteTime = "2026-11-28T00:00:00Z";
  const hardDeleteTime = "2026-12-05T00:00:00Z";
  const { bucket, asked } = await gcs(
    json({ items: [{ name: "x/a", softDeleteTime, hardDeleteTime }, { name: "x/alive" }] }),
    { status: 400 },
  );
  expect(await all(bucket.removed?.("x/"))).toEqual([
    { key: "x/a", at: new Date(softDeleteTime), until: new Date(hardDeleteTime) },
  ]);
  expect(asked[0]?.what).toMatch(/\?softDeleted=true&prefix=x%2F&/);
  expect(await all(bucket.removed?.("x/"))).toEqual([]);
});

// https://learn.microsoft.com/rest/api/storageservices/put-blob, .../set-blob-legal-hold, .../delete-blob, .../list-blobs
async function azure(...answers: Answer[]): Promise<{ bucket: ServiceBucket; asked: Asked[] }> {
  setAzureKey();
  const { url, asked } = await record(answers);
  const flags = { azureEndpoint: `${url}/devstoreaccount1` };
  return { bucket: await openService(whereOf("az://audit", flags)), asked };
}

const V = "2026-11-28T10:00:00.0000000Z";
const AT = "/devstoreaccount1/audit/k";
const ONE = `${AT}?versionid=${encodeURIComponent(V)}`;
const error = (status: number, code: string): Answer => ({
  status,
  headers: { "content-type": "application/xml", "x-ms-error-code": code },
  body: `<?xml version="1.0"?><Error><Code>${code}</Code><Message>${code}</Message></Error>`,
});

test("Azure: a locked file is one request, with its policy and its check sum in it", async () => {
  const made = { status: 201, headers: { etag: '"e1"', "x-ms-version-id": V } };
  const { bucket, asked } = await azure(made, made);
  expect(await bucket.create("k", Buffer.from("bytes"), UNTIL)).toEqual({
    etag: '"e1"',
    version: V,
  });
  await bucket.swap("k", Buffer.from("others"), '"e1"');
  expect(asked.map(({ what, body }) => `${what} ${body}`)).toEqual([
    `PUT ${AT} bytes`,
    `PUT ${AT} others`,
  ]);
  expect(asked[0]?.headers).toMatchObject({
    "x-ms-blob-type": "BlockBlob",
    "if-none-match": "*",
    "content-md5": "SzpiGLs+OnMD6KFxpg/Pkg==",
    "x-ms-immutability-policy-mode": "Locked",
    "x-ms-immutability-policy-until-date": "Fri, 01 Jan 2027 00:00:01 GMT",
    "x-ms-meta-meshseal_locked_until": WHOLE,
  });
  expect(asked[1]?.headers).toMatchObject({ "if-match": '"e1"' });
  expect(asked[1]?.headers["x-ms-immutability-policy-mode"]).toBeUndefined();
});

test("Azure: a container without version-level immutability is found by what it refuses", async () => {
  setAzureKey();
  const refused = error(409, "AnyCode");
  const { url, asked } = await record([refused]);
  const where = whereOf("az://audit", { azureEndpoint: `${url}/devstoreaccount1` });
  const [locked] = objectChecks(await openTrial(where), "home/");
  expect(await locked?.run()).toMatchObject({
    status: "bad",
    message: expect.stringMatching(/^refused \(409 AnyCode/),
  });
  expect(asked).toHaveLength(1);
});

test("Azure: a legal hold is that of the version", async () => {
  const { bucket, asked } = await azure({}, {});
  await bucket.hold?.("k", V, true);
  await bucket.hold?.("k", V, false);
  expect(asked.map(({ what, headers }) => `${what} ${headers["x-ms-legal-hold"]}`)).toEqual([
    `PUT ${ONE}&comp=legalhold true`,
    `PUT ${ONE}&comp=legalhold false`,
  ]);
});

test("Azure: a current version is removed in two steps, and one that is locked is not even hidden", async () => {
  const current = error(403, "OperationNotAllowedOnRootBlob");
  const state = { etag: '"e1"', "x-ms-version-id": V, "x-ms-is-current-version": "true" };
  const free = await azure(current, { headers: state }, { status: 202 }, { status: 202 });
  await free.bucket.remove([{ key: "k", version: V }]);
  expect(free.asked.map(({ what }) => what)).toEqual([
    `DELETE ${ONE}`,
    `HEAD ${AT}`,
    `DELETE ${AT}`,
    `DELETE ${ONE}`,
  ]);
  expect(free.asked[2]?.headers).toMatchObject({ "if-match": '"e1"' });
  for (const [held, why] of [
    [{ "x-ms-legal-hold": "true" }, "is locked"],
    [
      {
        "x-ms-immutability-policy-mode": "locked",
        "x-ms-immutability-policy-until-date": "Fri, 01 Jan 2100 00:00:00 GMT",
      },
      "is locked",
    ],
    [{ "x-ms-version-id": V.replace("10:", "11:") }, "was written over"],
  ] as const) {
    const { bucket, asked } = await azure(current, { headers: { ...state, ...held } });
    await expect(bucket.remove([{ key: "k", version: V }])).rejects.toThrow(why);
    expect(asked).toHaveLength(2);
  }
});

test("Azure: a list says what is current, what was hidden, and what is locked", async () => {
  const blob = (name: string, version: string, inside: string, properties = ""): string =>
    `<Blob><Name>${name}</Name><VersionId>${version}</VersionId>${inside}<Properties><Last-Modified>Sat, 28 Nov 2026 10:00:00 GMT</Last-Modified><Etag>e</Etag><Content-Length>5</Content-Length><BlobType>BlockBlob</BlobType>${properties}</Properties>`;
  const current = "<IsCurrentVersion>true</IsCurrentVersion>";
  const policy = (mode: string): string =>
    `<ImmutabilityPolicyUntilDate>Fri, 01 Jan 2027 00:00:01 GMT</ImmutabilityPolicyUntilDate><ImmutabilityPolicyMode>${mode}</ImmutabilityPolicyMode>`;
  const second = V.replace("10:", "11:");
  const metadata = `<Metadata><meshseal_locked_until>${WHOLE}</meshseal_locked_until></Metadata>`;
  const blobs = [
    `${blob("a", V, "")}</Blob>`,
    `${blob("a", second, "", policy("locked"))}${metadata}</Blob>`,
    `${blob("b", V, "", policy("unlocked"))}</Blob>`,
    `${blob("b", second, current)}</Blob>`,
  ];
  const page = (inside: string, marker: string): Answer => ({
    headers: { "content-type": "application/xml" },
    body: `<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="http://x/" ContainerName="audit"><Blobs>${inside}</Blobs><NextMarker>${marker}</NextMarker></EnumerationResults>`,
  });
  const gone = `<Deleted>true</Deleted>`;
  const times = `<DeletedTime>Sat, 28 Nov 2026 11:00:00 GMT</DeletedTime><RemainingRetentionDays>3</RemainingRetentionDays>`;
  const { bucket, asked } = await azure(
    page(blobs.slice(0, 1).join(""), "m2"),
    page(blobs.slice(1).join(""), ""),
    page(`${blob("x/a", V, gone, times)}</Blob>${blobs[3]}`, ""),
  );
  const listed = await all(bucket.versions("x/"));
  expect(asked[1]?.what).toContain("marker=m2");
  expect(await all(bucket.removed?.("x/"))).toMatchObject([
    { key: "x/a", at: new Date("2026-11-28T11:00:00Z"), until: expect.any(Date) },
  ]);
  expect(asked[2]?.what).toMatch(/include=[^&]*deleted/);
  const { searchParams } = new URL(asked[0]?.what.replace("GET ", "http://x") ?? "");
  expect(searchParams.get("include")?.split(",").sort()).toEqual([
    "immutabilitypolicy",
    "metadata",
    "versions",
  ]);
  expect(listed.map((one) => [one.key, one.version, one.isLatest, one.isDeleteMarker])).toEqual([
    ["a", "", true, true],
    ["a", second, false, false],
    ["a", V, false, false],
    ["b", second, true, false],
    ["b", V, false, false],
  ]);
  expect(listed.map(({ lock }) => lock?.now)).toEqual([
    undefined,
    new Date(WHOLE),
    null,
    null,
    null,
  ]);
  expect(listed[1]?.lock?.promised).toEqual(new Date(WHOLE));
});

test("answers that are changed, too long or refusals are errors, and nothing is asked twice", async () => {
  for (const [open, headers] of [
    [gcs, { "x-goog-hash": "crc32c=AAAAAA==,md5=SzpiGLs+OnMD6KFxpg/Pkg==" }],
    [azure, { "content-md5": "SzpiGLs+OnMD6KFxpg/Pkg==", etag: '"e1"' }],
  ] as const) {
    const { bucket, asked } = await open(
      { headers, body: "bytes" },
      { headers, body: "bytez" },
      { headers: { ...headers, "content-length": "9" }, body: "bytes" },
      { status: 503 },
    );
    expect((await bucket.get("k", 10))?.bytes.toString()).toBe("bytes");
    await expect(bucket.get("k", 10)).rejects.toThrow(/other bytes than its MD5/);
    await expect(bucket.get("k", 8)).rejects.toThrow(/has 9 bytes/);
    await expect(bucket.get("k", 10)).rejects.toMatchObject({ status: 503 });
    expect(asked).toHaveLength(4);
  }
});

test("tokens of the usual chains go to the services, over TLS only", async () => {
  const authority = await makeAuthority();
  const dir = mkdtempSync(join(tmpdir(), "meshseal-cloud-"));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  const ca = join(dir, "ca.pem");
  writeFileSync(ca, authority.cert);
  const shown = new Set<string | undefined>();
  const service = createTlsServer(
    await authority.issue({ dns: ["localhost"] }),
    (request, response) => {
      shown.add(request.headers.authorization);
      response.writeHead(403).end();
    },
  ).listen(0, "localhost");
  // The metadata server of Google's machines, and the identity endpoint of Azure's.
  const identities = createServer((request, response) => {
    const token = request.url?.startsWith("/azure") ? "of-azure" : "of-google";
    response.writeHead(200, { "content-type": "application/json", "metadata-flavor": "Google" });
    const expires_on = Math.floor(Date.now() / 1000) + 3600;
    response.end(JSON.stringify({ access_token: token, expires_in: 3600, expires_on }));
  }).listen(0, "127.0.0.1");
  onTestFinished(() => void service.close());
  onTestFinished(() => void identities.close().closeAllConnections());
  await Promise.all([once(service, "listening"), once(identities, "listening")]);
  const at = `127.0.0.1:${(identities.address() as AddressInfo).port}`;
  const endpoint = `https://localhost:${(service.address() as AddressInfo).port}`;
  const env = {
    ...{ PATH: process.env["PATH"], HOME: dir, NODE_EXTRA_CA_CERTS: ca },
    ...{ GCE_METADATA_HOST: at, METADATA_SERVER_DETECTION: "assume-present" },
    ...{ IDENTITY_ENDPOINT: `http://${at}/azure`, IDENTITY_HEADER: "secret" },
  };
  const verify = async (...args: string[]): Promise<{ code: number | null; said: string }> => {
    const key = newSigner("log.example/x", Buffer.alloc(32, 1)).vkey;
    const child = spawn(process.execPath, [compiledMain(), "verify", ...args, "--key", key], {
      env,
    });
    const said = text(child.stderr);
    const [code] = await once(child, "exit");
    return { code, said: await said };
  };
  for (const args of [
    ["gs://audit/mesh", "--gcs-endpoint", endpoint],
    ["az://audit/mesh", "--azure-endpoint", endpoint],
  ])
    expect(await verify(...args)).toMatchObject({
      code: 3,
      said: expect.stringMatching(/cannot say: .*403/),
    });
  expect([...shown]).toEqual(["Bearer of-google", "Bearer of-azure"]);
}, 60_000);
