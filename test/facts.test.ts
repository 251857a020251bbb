import { X509Certificate } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as f from "../record/fields.ts";
import { type Envoy, startEnvoy } from "../scripts/demo/envoy.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { type Facts, factsOf } from "./support/facts.ts";
import {
  bootstrapOf,
  type Credentials,
  FILTER,
  HASH_KEY,
  hashOf,
  ISSUER,
  makeCredentials,
  type Services,
  startServices,
} from "./support/facts-mesh.ts";
import { FORGED_ID, sendAll } from "./support/facts-traffic.ts";
import { checkLog, entriesOf } from "./support/log.ts";

/** Facts that must not be there. */
function without(...names: string[]): Facts {
  return Object.fromEntries(names.map((name) => [name, undefined]));
}

function present(facts: Facts): Facts {
  return Object.fromEntries(Object.entries(facts).filter(([, value]) => value !== undefined));
}

function absent(facts: Facts): string[] {
  return Object.keys(facts).filter((name) => facts[name] === undefined);
}

const ALLOWED = { decision: f.DECISION_ALLOWED, policy: "ns[shop]-policy[listed]", policy_rule: 1 };
const LISTED = { ...ALLOWED, allowed_by: [f.ENGINE_RBAC] };
const NO_UPSTREAM = without("upstream_address", "attempts", "upstream_failure");

/** What must stand in the one entry of each path, whatever the version of Envoy. */
const BY_PATH: readonly (readonly [string, Facts])[] = [
  [
    "/ok",
    {
      status: 200,
      method: "GET",
      authority: "shop.example",
      code_details: "via_upstream",
      protocol: "HTTP/1.1",
      flags: 0,
      route: "rest",
      upstream_cluster: "plain",
      attempts: 1,
      answered_by: f.ANSWERED_BY_UPSTREAM,
      peer_auth: f.PEER_NONE,
      user_auth: f.PEER_NONE,
      query_key: ["token", "page"],
      direction: 2,
      filter_chain: "trusting-chain",
      trace_id: "4bf92f3577b34da6a3ce929d0e0e4736",
      span_id: "00f067aa0ba902b7",
      trace_flags: 1,
      request_header: ["x-tenant: acme"],
      response_header: ["x-served-by: plain"],
      response_header_present: ["set-cookie"],
      shadow: ["istio_dry_run_deny_ denied ns[shop]-policy[dry]-rule[0]"],
      ...LISTED,
      ...without("peer_principal", "source_forwarded", "grpc_status", "tls_version", "hash_key"),
    },
  ],
  [
    "/direct",
    {
      status: 200,
      code_details: "direct_response",
      answered_by: f.ANSWERED_BY_PROXY,
      route: "direct",
      ...NO_UPSTREAM,
      ...without("upstream_cluster"),
    },
  ],
  [
    "/missing",
    {
      status: 404,
      code_details: "route_not_found",
      answered_by: f.ANSWERED_BY_PROXY,
      ...NO_UPSTREAM,
    },
  ],
  [
    "/denied-before",
    {
      status: 403,
      decision: f.DECISION_DENIED,
      denied_by: f.ENGINE_RBAC,
      policy: "ns[shop]-policy[no-admin]",
      policy_rule: 2,
      answered_by: f.ANSWERED_BY_PROXY,
      ...NO_UPSTREAM,
      ...without("allowed_by"),
    },
  ],
  [
    "/unlisted",
    {
      status: 403,
      decision: f.DECISION_NOTHING_ALLOWED,
      denied_by: f.ENGINE_RBAC,
      ...NO_UPSTREAM,
      ...without("policy", "policy_rule", "allowed_by"),
    },
  ],
  ["/audited", { status: 200, audit: 1, ...LISTED }],
  [
    "/jwt/none",
    {
      status: 401,
      decision: f.DECISION_DENIED,
      denied_by: f.ENGINE_JWT,
      user_auth: f.PEER_NONE,
      ...without("user_issuer", "user_subject_hash"),
    },
  ],
  [
    "/jwt/good",
    {
      status: 200,
      user_auth: f.USER_JWT_VERIFIED,
      user_issuer: ISSUER,
      user_subject_hash: hashOf("alice"),
      hash_key: "k1",
      auth_scheme: "Bearer",
      request_header_present: ["authorization"],
      ...ALLOWED,
      allowed_by: [f.ENGINE_RBAC, f.ENGINE_JWT],
      ...without("user_subject"),
    },
  ],
  [
    "/jwt/null",
    {
      status: 200,
      user_auth: f.USER_JWT_VERIFIED,
      user_issuer: ISSUER,
      user_subject_hash: hashOf("bob"),
      ...ALLOWED,
    },
  ],
  [
    "/claimed",
    {
      user_auth: f.USER_CLAIMED,
      auth_scheme: "Basic",
      request_header_present: ["authorization", "cookie"],
    },
  ],
  ["/odd", { user_auth: f.USER_CLAIMED, auth_scheme: "other" }],
  ["/limited/1", { status: 200, ...LISTED }],
  [
    "/limited/2",
    { status: 429, decision: f.DECISION_DENIED, denied_by: f.ENGINE_RATE_LIMIT, ...NO_UPSTREAM },
  ],
  ["/authz/allowed", { status: 200, decision: f.DECISION_ALLOWED }],
  [
    "/authz/denied",
    { status: 403, decision: f.DECISION_DENIED, denied_by: f.ENGINE_EXT_AUTHZ, ...NO_UPSTREAM },
  ],
  [
    "/dead",
    {
      status: 503,
      flags: 32,
      upstream_cluster: "dead",
      upstream_address: "127.0.0.1:1",
      attempts: 1,
      answered_by: f.ANSWERED_BY_PROXY,
      upstream_failure: expect.stringMatching(/./) as unknown as string,
      ...LISTED,
    },
  ],
  [
    "/full",
    {
      status: 503,
      flags: 128,
      code_details: expect.stringContaining("overflow") as unknown as string,
      upstream_cluster: "full",
      attempts: 1,
      answered_by: f.ANSWERED_BY_PROXY,
    },
  ],
  [
    "/empty",
    {
      status: 503,
      flags: 2,
      code_details: "no_healthy_upstream",
      upstream_cluster: "empty",
      attempts: 1,
      answered_by: f.ANSWERED_BY_PROXY,
      ...without("upstream_address"),
    },
  ],
  [
    "/secure",
    {
      status: 200,
      upstream_principal: "spiffe://mesh/ns/shop/sa/secure",
      upstream_certificate: expect.stringMatching(/^[0-9a-f]{64}$/) as unknown as string,
      upstream_tls_version: expect.stringMatching(/^TLSv1\.[23]$/) as unknown as string,
    },
  ],
  ["/reset", { status: 503, flags: 64, attempts: 1, answered_by: f.ANSWERED_BY_PROXY }],
  ["/cut", { status: 200, answered_by: f.ANSWERED_BY_UPSTREAM }],
  ["/flaky", { status: 200, attempts: 2, answered_by: f.ANSWERED_BY_UPSTREAM }],
  [
    "/inner/a",
    {
      original_path: "/rewritten/a",
      authority: "inner.example",
      original_authority: "shop.example",
      query_key: ["q"],
      ...without("path_template"),
    },
  ],
  [
    "/users/{user}/orders/{order}",
    {
      path_template: 1,
      path_value: [hashOf("alice@example.com"), hashOf("7")],
      query_key: ["x"],
      request_header_hash: [`x-user: ${hashOf("alice")}`, `x-user: ${hashOf("bob")}`],
      hash_key: "k1",
    },
  ],
  ["/files/{owner}/a/b", { path_template: 1, path_value: [hashOf("me")] }],
  [
    "/forged",
    {
      request_id: FORGED_ID,
      source_address: "9.9.9.9:0",
      source_forwarded: 1,
      peer_auth: f.PEER_NONE,
      claimed_principal: "spiffe://mesh/ns/shop/sa/admin",
      ...without("peer_principal", "original_path", "peer_certificate"),
    },
  ],
  [
    "/edge",
    {
      request_id: expect.not.stringContaining(FORGED_ID) as unknown as string,
      source_address: expect.stringMatching(/^127\.0\.0\.1:[1-9]\d*$/) as unknown as string,
      peer_auth: f.PEER_NONE,
      ...without("claimed_principal", "original_path", "source_forwarded", "peer_principal"),
    },
  ],
  [
    "/slow",
    {
      code_details: expect.stringContaining("downstream_remote_disconnect") as unknown as string,
      flags: 16_384,
      answered_by: f.ANSWERED_BY_NOBODY,
    },
  ],
  [
    "/stream",
    {
      status: 200,
      code_details: expect.stringContaining("downstream_remote_disconnect") as unknown as string,
      flags: 16_384,
      answered_by: f.ANSWERED_BY_UPSTREAM,
    },
  ],
  ["/alive/1", { status: 200 }],
  ["/alive/2", { status: 200 }],
  ["/piped/1", { status: 200, method: "GET" }],
  ["/piped/2", { status: 200, method: "HEAD" }],
  ["/piped/3", { status: 200, method: "GET" }],
  ["/socket", { status: 101, method: "GET", answered_by: f.ANSWERED_BY_UPSTREAM }],
  ["/h2/1", { status: 200, protocol: "HTTP/2", ...without("grpc_status") }],
  [
    "/h2/2",
    {
      protocol: "HTTP/2",
      trace_id: "0000000000000000463ac35c9f6413ad",
      span_id: "a2fb4a1d1a96d312",
      trace_flags: 1,
    },
  ],
  [
    "/shop.Cart/Add",
    { status: 200, grpc_status: 0, content_type: "application/grpc+proto", method: "POST" },
  ],
  ["/shop.Cart/Denied", { status: 200, grpc_status: 7 }],
  [
    "/mutual",
    {
      peer_principal: "spiffe://mesh/ns/shop/sa/web",
      peer_auth: f.PEER_MTLS,
      peer_subject: "CN=web",
      peer_dns: "web.shop",
      local_principal: "spiffe://mesh/ns/shop/sa/edge",
      tls_version: "TLSv1.3",
      server_name: "edge.shop.example",
      direction: 1,
      claimed_principal: "spiffe://mesh/ns/shop/sa/admin",
    },
  ],
  [
    "/one-sided",
    {
      peer_auth: f.PEER_NONE,
      tls_version: "TLSv1.3",
      ...without(
        "claimed_principal",
        "peer_principal",
        "peer_certificate",
        "peer_subject",
        "peer_dns",
      ),
    },
  ],
];

/** Requests that never had a path, by Envoy's reason. */
const BY_REASON: readonly (readonly [string, Facts])[] = [
  ["http1.headers_too_large", { status: 431, answered_by: f.ANSWERED_BY_PROXY }],
  ["http1.codec_error", { status: 400, answered_by: f.ANSWERED_BY_PROXY }],
];

describe.each(["1.40", "1.36"] as const)("Envoy %s", (version) => {
  let entries: Facts[] = [];
  let credentials: Credentials;
  const ends: (() => unknown)[] = [];

  beforeAll(async () => {
    const dir = mkdtempSync(join(tmpdir(), "meshseal-facts-"));
    ends.push(() => rmSync(dir, { recursive: true, force: true }));
    credentials = await makeCredentials();
    const services: Services = await startServices(credentials.authority);
    ends.push(services.stop);
    const exporter: Exporter = await startExporter({ args: ["--checkpoint-ms", "100"] });
    ends.push(() => rmSync(exporter.dir, { recursive: true, force: true }));
    ends.push(exporter.stop);
    const exporterPort = Number(new URL(exporter.url).port);
    const envoy: Envoy = await startEnvoy({
      dir,
      version,
      upstreamPort: services.ports.plain,
      exporterPort,
      bootstrap: bootstrapOf(credentials, services, exporterPort),
      env: { MESHSEAL_TEST_HASH_KEY: `k1:${HASH_KEY.toString("hex")}\n` },
    });
    ends.push(envoy.stop);
    await sendAll(envoy, services, credentials);
    if (!(await envoy.settled(30_000))) throw new Error(`not settled:\n${envoy.log()}`);
    const counted = await envoy.stat("http.edge.downstream_rq_total");
    await envoy.stop();
    await exporter.stop();
    const report = await checkLog(exporter.dir);
    expect(report.entries["request"]).toBe(counted);
    entries = entriesOf(exporter.dir).map(factsOf);
  }, 120_000);

  afterAll(async () => {
    for (const end of ends.reverse()) await end();
  });

  test.each(BY_PATH)("%s: one entry, with its facts", (path, facts) => {
    const found = entries.filter((entry) => entry["path"] === path);
    expect(found).toHaveLength(1);
    expect(found[0]).toMatchObject(present(facts));
    for (const name of absent(facts)) expect(found[0]).not.toHaveProperty(name);
  });

  test.each(BY_REASON)("%s: one entry, with its facts", (reason, facts) => {
    const found = entries.filter((entry) => String(entry["code_details"]).startsWith(reason));
    expect(found.length).toBeGreaterThan(0);
    for (const entry of found) expect(entry).toMatchObject(facts);
  });

  test("a peer's certificate is known by its digest", () => {
    const [mutual] = entries.filter((entry) => entry["path"] === "/mutual");
    const digest = new X509Certificate(credentials.client.cert).fingerprint256;
    expect(mutual?.["peer_certificate"]).toBe(digest.replaceAll(":", "").toLowerCase());
  });

  test("requests of one connection have one source, and each is an entry", () => {
    for (const name of ["/alive/", "/piped/", "/h2/"]) {
      const sources = entries
        .filter((entry) => String(entry["path"]).startsWith(name))
        .map((entry) => entry["source_address"]);
      expect(new Set(sources).size).toBe(1);
    }
  });

  test("a chain says which rules are in force when it opens", () => {
    const opens = entries.filter(({ kind }) => kind === f.KIND_OPEN);
    const byFilter = opens.filter((entry) => String(entry["producer"]).includes("filter"));
    expect(byFilter.length).toBeGreaterThan(0);
    for (const open of byFilter) expect(open["policy_digest"]).toEqual(FILTER["policyDigests"]);
  });

  test("no secret that a client sent stands in any entry", () => {
    const text = JSON.stringify(entries);
    for (const secret of ["secret", "YWxpY2U6", "alice", "bob", "eyJ"])
      expect(text).not.toContain(secret);
  });
});
