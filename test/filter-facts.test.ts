import { createHmac } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Entry } from "../record/codec.ts";
import * as f from "../record/fields.ts";
import { type Facts, factsOf } from "./support/facts.ts";
import { entriesOf, lastCall, receiptFor, stream } from "./support/filter.ts";
import { Host, type Stream } from "./support/host.ts";
import { formatMetadata, type Metadata } from "./support/metadata.ts";

const KEY = Buffer.from("000102030405060708090a0b0c0d0e0f", "hex");
const KEY_TEXT = `k1:${KEY.toString("hex")}`;

function hashOf(value: string): string {
  return createHmac("sha256", KEY).update(value).digest("hex").slice(0, 32);
}

async function started(configuration: object = {}): Promise<Host> {
  const { host, isAccepted } = await Host.start(JSON.stringify(configuration));
  if (!isAccepted) throw new Error(host.logs.at(-1));
  return host;
}

function headersOf(headers: Readonly<Record<string, string>>): [Buffer, Buffer][] {
  return Object.entries(headers).map(([name, value]) => [
    Buffer.from(name),
    Buffer.from(value, "latin1"),
  ]);
}

/** One request with these headers besides the usual ones. */
function withHeaders(path: string, headers: Readonly<Record<string, string>>): Stream {
  const one = stream(path);
  return { ...one, headers: [...one.headers, ...headersOf(headers)] };
}

/** The facts of the request that was last made; all is receipted then. */
function record(host: Host, one: Stream): Facts {
  host.request(one);
  host.tick();
  const call = lastCall(host);
  const { entries } = entriesOf(call);
  host.answer(call, receiptFor(call));
  const requests = entries.filter(({ kind }) => kind === f.KIND_REQUEST);
  expect(requests).toHaveLength(1);
  return factsOf(requests[0] as Entry);
}

describe("groups", () => {
  test("an entry has the groups that are configured, and core", async () => {
    const rich = withHeaders("/a?b=1", {
      authorization: "Bearer x",
      traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    });
    const all = record(await started(), rich);
    expect(all).toMatchObject({ user_auth: f.USER_CLAIMED, upstream_cluster: "c", trace_flags: 1 });
    const few = record(await started({ groups: ["policy"] }), rich);
    expect(few).toMatchObject({ status: 200, path: "/a", route: "r" });
    for (const name of ["user_auth", "peer_auth", "upstream_cluster", "trace_id", "tls_version"])
      expect(few).not.toHaveProperty(name);
  });

  test("a policy that asks for an audit selects an entry for more groups", async () => {
    const host = await started({
      groups: ["core"],
      auditGroups: ["identity", "headers"],
      requestHeaders: { "x-a": "plain" },
    });
    const one = withHeaders("/a", { "x-a": "1" });
    expect(record(host, one)).not.toHaveProperty("request_header");
    const hint: Metadata = { "envoy.common": { access_log_hint: true } };
    expect(record(host, { ...one, metadata: hint })).toMatchObject({
      request_header: ["x-a: 1"],
      peer_auth: f.PEER_NONE,
    });
    const no: Metadata = { "envoy.common": { access_log_hint: false } };
    expect(record(host, { ...one, metadata: no })).not.toHaveProperty("request_header");
  });
});

describe("identity", () => {
  test("facts of a connection are those of that connection, for any order of requests", async () => {
    const host = await started();
    const of = (id: number): Stream =>
      stream("/a", {
        "connection.id": id,
        "connection.mtls": Buffer.of(1),
        "connection.uri_san_peer_certificate": Buffer.from(`spiffe://mesh/${id}`),
        "destination.address": Buffer.from(`10.0.0.1:${id % 60_000}`),
        "source.address": Buffer.from(`10.0.0.2:${id % 60_000}`),
      });
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 1000 }), { minLength: 1 }), (ids) => {
        for (const id of ids) {
          expect(record(host, of(id))).toMatchObject({
            peer_principal: `spiffe://mesh/${id}`,
            peer_auth: f.PEER_MTLS,
            destination_address: `10.0.0.1:${id}`,
            source_address: `10.0.0.2:${id}`,
          });
        }
      }),
      { numRuns: 60 },
    );
  });

  test("what does not fit the cache is read anew, and what is cut is said each time", async () => {
    const host = await started();
    const one = stream("/a", {
      "connection.mtls": Buffer.of(1),
      "connection.uri_san_peer_certificate": Buffer.alloc(3000, "s"),
    });
    for (let i = 0; i < 3; i++) {
      const facts = record(host, one);
      expect(facts["peer_principal"]).toHaveLength(f.MAX_PRINCIPAL);
      expect(facts["cut"]).toEqual([f.F_PEER_PRINCIPAL]);
    }
  });

  test("the source is read for each request: a connection may carry many clients' requests", async () => {
    const host = await started();
    for (const address of ["9.9.9.9:0", "8.8.8.8:0"]) {
      const facts = record(host, stream("/a", { "source.address": Buffer.from(address) }));
      expect(facts).toMatchObject({ source_address: address, source_forwarded: 1 });
    }
  });

  test("the peer of a waypoint's tunnel is known by the tunnel, and never beside a certificate", async () => {
    const host = await started();
    const tunnel = { "filter_state.io.istio.peer_principal": Buffer.from("spiffe://mesh/tunnel") };
    const facts = record(host, stream("/a", { ...tunnel, "connection.id": 1 }));
    expect(facts).toMatchObject({
      peer_principal: "spiffe://mesh/tunnel",
      peer_auth: f.PEER_TUNNEL,
    });
    const mutual = { ...tunnel, "connection.id": 2, "connection.mtls": Buffer.of(1) };
    expect(record(host, stream("/a", mutual))).not.toHaveProperty("peer_principal");
  });

  test.each([
    ["URI=spiffe://a", "spiffe://a"],
    ['By=spiffe://x;Hash=ab;Subject="CN=a;b,c";URI=spiffe://a', "spiffe://a"],
    ['URI="spiffe://a"', "spiffe://a"],
    ["URI=spiffe://a,URI=spiffe://b", "spiffe://b"],
    ['URI=spiffe://a,By=b;Subject="\\",URI=no"', "spiffe://a"],
    ["uri=spiffe://a", "spiffe://a"],
    ["XURI=spiffe://a", undefined],
    ["URI=", undefined],
    ['Subject="URI=spiffe://a"', undefined],
    ["", undefined],
  ])("x-forwarded-client-cert %s claims %s", async (header, claimed) => {
    const facts = record(await started(), withHeaders("/a", { "x-forwarded-client-cert": header }));
    expect(facts["claimed_principal"]).toBe(claimed);
    expect(facts["peer_auth"]).toBe(f.PEER_NONE);
    expect(facts).not.toHaveProperty("peer_principal");
  });

  test.each([
    ["plain", { user_subject: "alice" }, "user_subject_hash"],
    ["hmac", { user_subject_hash: hashOf("alice"), hash_key: "k1" }, "user_subject"],
    ["none", { user_issuer: "https://i" }, "user_subject_hash"],
  ])("a verified subject is kept as configured: %s", async (jwtSubject, kept, absent) => {
    const host = await started({ jwtSubject, hashKey: KEY_TEXT });
    const metadata = {
      "envoy.filters.http.jwt_authn": {
        payload: { nonce: null, exp: 1, sub: "alice", iss: "https://i", aud: { a: true } },
      },
    };
    for (const isBroken of [false, true]) {
      host.isExpressionBroken = isBroken;
      const facts = record(host, { ...stream("/a"), metadata });
      expect(facts).toMatchObject({ ...kept, user_auth: f.USER_JWT_VERIFIED });
      expect(facts).not.toHaveProperty(absent);
    }
  });

  test("a token that nothing verified is a claim, whatever other filters leave behind", async () => {
    const host = await started();
    const one = withHeaders("/a", { authorization: "bearer abc" });
    const metadata = { "envoy.filters.http.jwt_authn": { other: { sub: "alice" } } };
    expect(record(host, { ...one, metadata })).toMatchObject({
      user_auth: f.USER_CLAIMED,
      auth_scheme: "Bearer",
    });
  });
});

describe("policy", () => {
  const rbac = (keys: Metadata, details = "via_upstream"): Stream => ({
    ...stream("/a", { "response.code_details": Buffer.from(details) }),
    metadata: { "envoy.filters.http.rbac": keys },
  });

  test("each RBAC filter's result is found by its prefix, in one order", async () => {
    const host = await started();
    const keys = {
      istio_dry_run_deny_shadow_engine_result: "denied",
      enforced_engine_result: "allowed",
      istio_dry_run_allow_shadow_effective_policy_id: "p2",
      enforced_effective_policy_id: "ns[a]-policy[b]-rule[12]",
      istio_dry_run_allow_shadow_engine_result: "allowed",
    };
    const reversed = Object.fromEntries(Object.entries(keys).reverse());
    for (const [isBroken, one] of [
      [false, keys],
      [false, reversed],
      [true, keys],
    ] as const) {
      host.isExpressionBroken = isBroken;
      expect(record(host, rbac(one))).toMatchObject({
        decision: f.DECISION_ALLOWED,
        allowed_by: [f.ENGINE_RBAC],
        policy: "ns[a]-policy[b]",
        policy_rule: 12,
        shadow: ["istio_dry_run_allow_ allowed p2", "istio_dry_run_deny_ denied"],
      });
    }
  });

  test.each([
    [
      "rbac_access_denied_matched_policy[none]",
      f.DECISION_NOTHING_ALLOWED,
      f.ENGINE_RBAC,
      undefined,
    ],
    ["rbac_access_denied_matched_policy[p]", f.DECISION_DENIED, f.ENGINE_RBAC, "p"],
    ["rbac_access_denied_matched_policy[", f.DECISION_DENIED, f.ENGINE_RBAC, undefined],
    ["ext_authz_error", f.DECISION_ERROR, f.ENGINE_EXT_AUTHZ, undefined],
    ["request_rate_limited", f.DECISION_DENIED, f.ENGINE_RATE_LIMIT, undefined],
    ["jwt_authn_access_denied{Jwt_is_expired}", f.DECISION_DENIED, f.ENGINE_JWT, undefined],
    ["meshseal_no_room", f.DECISION_DENIED, f.ENGINE_MESHSEAL, undefined],
    ["csrf_origin_mismatch", f.DECISION_DENIED, f.ENGINE_CSRF, undefined],
    ["fault_filter_abort", f.DECISION_DENIED, f.ENGINE_FAULT, undefined],
    ["via_upstream", undefined, undefined, undefined],
  ])("%s", async (details, decision, engine, policy) => {
    const facts = record(await started(), rbac({}, details));
    expect([facts["decision"], facts["denied_by"], facts["policy"]]).toEqual([
      decision,
      engine,
      policy,
    ]);
  });

  test("any metadata: no trap, a canonical entry", async () => {
    const host = await started({ hashKey: KEY_TEXT });
    const name = fc.oneof(
      fc.string({ maxLength: 40 }),
      fc.constantFrom(
        "envoy.filters.http.rbac",
        "envoy.filters.http.jwt_authn",
        "envoy.common",
        "payload",
        "sub",
        "iss",
        "access_log_hint",
        "enforced_engine_result",
        "shadow_engine_result",
        "a_shadow_engine_result",
        "enforced_effective_policy_id",
      ),
    );
    const { tree } = fc.letrec<{ tree: Metadata; node: Metadata[string] }>((tie) => ({
      node: fc.oneof(
        { maxDepth: 3 },
        fc.string({ maxLength: 700 }),
        fc.boolean(),
        fc.double(),
        fc.constant(null),
        tie("tree"),
      ) as fc.Arbitrary<Metadata[string]>,
      tree: fc.dictionary(name, tie("node"), { maxKeys: 8 }) as fc.Arbitrary<Metadata>,
    }));
    fc.assert(
      fc.property(tree, fc.boolean(), fc.string({ maxLength: 60 }), (metadata, isBroken, tail) => {
        host.isExpressionBroken = isBroken;
        const details = Buffer.from(`rbac_access_denied_matched_policy[${tail}`);
        record(host, { ...stream("/a", { "response.code_details": details }), metadata });
      }),
      { numRuns: 300 },
    );
    const torn = fc.tuple(tree, fc.nat(), fc.nat(), fc.nat(255)).map(([one, at, to, byte]) => {
      const bytes = formatMetadata(one).slice();
      if (bytes.length > 0) bytes[at % bytes.length] = byte;
      return bytes.subarray(0, to % (bytes.length + 1));
    });
    fc.assert(
      fc.property(fc.oneof(torn, fc.uint8Array({ maxLength: 200 })), (metadata) => {
        record(host, { ...stream("/a"), metadata });
      }),
      { numRuns: 1000 },
    );
  });
});

describe("paths and headers", () => {
  const paths = ["/users/{user}/orders/{order}", "/users/{user}", "/files/{owner}/*", "/plain"];

  test.each([
    ["/users/a/orders/b", "/users/{user}/orders/{order}", ["a", "b"]],
    ["/users/a", "/users/{user}", ["a"]],
    ["/users/", "/users/", []],
    ["/users/a/", "/users/a/", []],
    ["/files/me", "/files/{owner}", ["me"]],
    ["/files/me/x/y?z", "/files/{owner}/x/y", ["me"]],
    ["/plain", "/plain", []],
    ["/other/1", "/other/1", []],
    ["*", "*", []],
    ["", "", []],
  ])("%s is written as %s", async (path, written, values) => {
    const facts = record(await started({ paths, hashKey: KEY_TEXT }), stream(path));
    expect(facts["path"]).toBe(written);
    expect(facts["path_value"] ?? []).toEqual(values.map(hashOf));
    expect(facts["path_template"]).toBe(values.length > 0 ? 1 : undefined);
  });

  test.each([
    ["/a/1234567/b", "/a/{id}/b"],
    ["/a/123e4567-e89b-12d3-a456-426614174000", "/a/{id}"],
    ["/a/bob@example.com/x", "/a/{id}/x"],
    ["/a/bob%40example.com/x", "/a/{id}/x"],
    ["/a/12345/v2/cafe", "/a/12345/v2/cafe"],
  ])("without a template %s is written as %s where ids are to be hidden", async (path, written) => {
    const facts = record(await started({ otherPaths: "hide-ids" }), stream(path));
    expect(facts["path"]).toBe(written);
    expect(facts).not.toHaveProperty("path_value");
  });

  test("values are those of the path, or else of the one that the client sent", async () => {
    const host = await started({ paths, hashKey: KEY_TEXT });
    const original = { "x-envoy-original-path": "/users/a?q=1" };
    const one = { path_template: 1, original_path: "/users/{user}", query_key: ["q"] };
    expect(record(host, withHeaders("/files/me/x", original))).toMatchObject({
      ...one,
      path: "/files/{owner}/x",
      path_value: [hashOf("me")],
    });
    expect(record(host, withHeaders("/inner", original))).toMatchObject({
      ...one,
      path: "/inner",
      path_value: [hashOf("a")],
    });
    const same = withHeaders("/users/a", { "x-envoy-original-path": "/users/a" });
    expect(record(host, same)).not.toHaveProperty("original_path");
  });

  test("for any path: what is written and what is hashed make the path again", async () => {
    const host = await started({ paths, hashKey: KEY_TEXT });
    const part = fc.oneof(
      fc.constantFrom("users", "orders", "files", "plain", "", "{user}"),
      fc.string({ maxLength: 8 }).filter((text) => !/[/?#]/.test(text)),
    );
    fc.assert(
      fc.property(fc.array(part, { maxLength: 6 }), (parts) => {
        const path = Buffer.from(`/${parts.join("/")}`).toString("latin1");
        const facts = record(host, stream(path));
        const values = (facts["path_value"] as string[] | undefined) ?? [];
        if (values.length === 0) {
          expect(facts["path"]).toBe(path);
          return;
        }
        const asWritten = String(facts["path"]).split("/");
        const asSent = path.split("/");
        expect(asWritten).toHaveLength(asSent.length);
        let next = 0;
        for (const [i, text] of asSent.entries()) {
          const isValue = values[next] === hashOf(text) && asWritten[i]?.startsWith("{");
          if (asWritten[i] === text && !isValue) continue;
          expect(values[next++]).toBe(hashOf(text));
        }
      }),
      { numRuns: 200 },
    );
  });

  test.each([
    ["/a?b=1&c=2", ["b", "c"]],
    ["/a?token&b=&=x&c", ["b"]],
    ["/a?b=1=2#c=3", ["b"]],
    ["/a#b?c=1", undefined],
    ["/a", undefined],
  ])("of %s the query's names are %j, and no value is written", async (path, names) => {
    expect(record(await started(), stream(path))["query_key"]).toEqual(names);
    expect(record(await started({ queryKeys: false }), stream(path))).not.toHaveProperty(
      "query_key",
    );
  });

  test("listed headers only, each as it is listed, and each time it is there", async () => {
    const host = await started({
      hashKey: KEY_TEXT,
      requestHeaders: { "x-a": "plain", "x-b": "hmac", cookie: "present", "user-agent": "present" },
      responseHeaders: { "x-r": "plain" },
    });
    const one = withHeaders("/a", { "x-a": "1", "x-b": "2", cookie: "c=3", "x-c": "4" });
    const facts = record(host, {
      ...one,
      headers: [...one.headers, ...headersOf({ "x-a": "5", "user-agent": "ua" })],
      responseHeaders: headersOf({ "x-r": "6", "x-s": "7" }),
    });
    expect(facts).toMatchObject({
      request_header: ["x-a: 1", "x-a: 5"],
      request_header_hash: [`x-b: ${hashOf("2")}`],
      request_header_present: ["cookie", "user-agent"],
      response_header: ["x-r: 6"],
      user_agent: "ua",
      hash_key: "k1",
    });
  });

  test("many and long headers are cut and said to be, and the entry stays within its bounds", async () => {
    const host = await started({ requestHeaders: { "x-a": "plain" } });
    const one = stream(`/${"p".repeat(20_000)}?${"k=&".repeat(100)}`);
    const many = Array.from({ length: 60 }, () => headersOf({ "x-a": "v".repeat(5000) })).flat();
    const facts = record(host, { ...one, headers: [...one.headers, ...many] });
    expect(facts["request_header"]).toHaveLength(f.MAX_HEADERS);
    expect(facts["query_key"]).toHaveLength(f.MAX_QUERY_KEYS);
    expect(facts["cut"]).toEqual([f.F_PATH, f.F_QUERY_KEY, f.F_REQUEST_HEADER]);
  });

  test.each([
    ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", "4bf92f3577b34da6a3ce929d0e0e4736"],
    [
      "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
      "4bf92f3577b34da6a3ce929d0e0e4736",
    ],
    ["ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", undefined],
    ["00-00000000000000000000000000000000-00f067aa0ba902b7-01", undefined],
    ["00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", undefined],
    ["00-4bf92f3577b34da6a3ce929d0e0e47zz-00f067aa0ba902b7-01", undefined],
    ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", undefined],
    ["", undefined],
  ])("traceparent %s", async (traceparent, id) => {
    expect(record(await started(), withHeaders("/a", { traceparent }))["trace_id"]).toBe(id);
  });
});

describe("configuration", () => {
  test.each([
    [{ groups: ["core", "all"] }, "groups: all is none of core"],
    [{ groups: "core" }, "groups: must be a list of strings"],
    [{ requestHeaders: { authorization: "plain" } }, "authorization carries credentials"],
    [{ requestHeaders: { "set-cookie": "plain" } }, "set-cookie carries credentials"],
    [{ requestHeaders: { "X-A": "plain" } }, "X-A: a name has 1 to 64 characters, in lower case"],
    [{ requestHeaders: { "x-a": "raw" } }, "x-a: must be plain, hmac or present"],
    [{ requestHeaders: { "x-a": "hmac" } }, "requestHeaders: hmac needs a key"],
    [{ hashKey: "00".repeat(16) }, "hashKey: is not ID:HEX"],
    [{ hashKeyEnv: "NONE" }, "hashKeyEnv: the host gives no environment variable NONE"],
    [{ paths: ["users"] }, "paths: users does not begin with a slash"],
    [{ paths: ["/a/*/b"] }, "* can only be the last part"],
    [{ paths: ["/a/x{b}"] }, "braces must enclose a whole part"],
    [{ queryKeys: 1 }, "queryKeys: 1 is neither true nor false"],
    [{ otherPaths: "drop" }, '"drop" is not allowed: "keep", "hide-ids" are'],
    [{ policyDigests: ["ab"] }, 'policyDigests: "ab" is not 64'],
    [{ policyDigests: Array(17).fill("ab".repeat(32)) }, "policyDigests: has more than 16 items"],
    [{ paths: Array(65).fill("/a") }, "paths: has more than 64 items"],
  ])("%j is refused with a sentence, and no key stands in it", async (configuration, sentence) => {
    const { host, isAccepted } = await Host.start(JSON.stringify(configuration));
    expect(isAccepted).toBe(false);
    expect(host.logs.at(-1)).toContain(sentence);
    expect(host.logs.at(-1)).not.toContain("0000");
  });

  test("a new configuration on an open chain is an entry, before any that is made under it", async () => {
    const host = await started();
    host.request(stream("/a"));
    const policyDigests = ["12".repeat(32), "34".repeat(32)];
    expect(host.configure(JSON.stringify({ policyDigests }))).toBe(true);
    host.request(stream("/b"));
    host.tick();
    const { entries } = entriesOf(lastCall(host));
    expect(entries.map(({ kind }) => kind)).toEqual([
      f.KIND_OPEN,
      f.KIND_REQUEST,
      f.KIND_CONFIG,
      f.KIND_REQUEST,
    ]);
    const facts = entries.map(factsOf);
    expect(facts.map(({ config }) => config)).toEqual([1, 1, 2, 2]);
    expect(facts[2]?.["policy_digest"]).toEqual(policyDigests);
    expect(facts[2]?.["config_digest"]).not.toBe(facts[0]?.["config_digest"]);
  });

  test("any bytes: refused with a sentence or taken, never a trap", async () => {
    const json = fc.json({ maxDepth: 2 });
    const near = fc
      .dictionary(
        fc.constantFrom("groups", "paths", "requestHeaders", "queryKeys", "hashKey", "tickMs"),
        fc.oneof(fc.jsonValue({ maxDepth: 2 }), fc.array(fc.string({ maxLength: 9 }))),
      )
      .map((value) => JSON.stringify(value));
    const { host } = await Host.start("{}");
    fc.assert(
      fc.property(fc.oneof(json, near, fc.string()), (text) => {
        const before = host.logs.length;
        if (!host.configure(text)) expect(host.logs.length).toBeGreaterThan(before);
      }),
      { numRuns: 1000 },
    );
  });
});
