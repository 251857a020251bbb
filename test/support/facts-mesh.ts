/**
 * An Envoy with every way for a request to end, for test/facts.test.ts: three listeners, the filters that decide before and after
 * ours, and the services behind.
 */
import { createHmac, createSign, generateKeyPairSync, type KeyObject } from "node:crypto";
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { createServer as createHttp2Server, type Http2Server } from "node:http2";
import { createServer as createHttpsServer } from "node:https";
import type { AddressInfo, Server as NetServer } from "node:net";
import { join } from "node:path";
import { ROOT } from "../../scripts/setup.mjs";
import { type Authority, makeAuthority, type Pair } from "./certificates.ts";

type Json = { readonly [key: string]: unknown };

const TYPE = "type.googleapis.com/envoy.extensions";
const TLS = "transport_sockets.tls.v3";
export const HASH_KEY: Buffer = Buffer.from("000102030405060708090a0b0c0d0e0f", "hex");
export const ISSUER = "https://issuer.example";

/** What the filter of all listeners is told. */
export const FILTER: Json = {
  cluster: "meshseal",
  hashKeyEnv: "MESHSEAL_TEST_HASH_KEY",
  requestHeaders: {
    "x-tenant": "plain",
    "x-user": "hmac",
    authorization: "present",
    cookie: "present",
  },
  responseHeaders: { "x-served-by": "plain", "set-cookie": "present" },
  paths: ["/users/{user}/orders/{order}", "/files/{owner}/*"],
  policyDigests: ["ab".repeat(32)],
};

/** The hash that entries hold of a value. */
export function hashOf(value: string | Uint8Array): string {
  return createHmac("sha256", HASH_KEY).update(value).digest("hex").slice(0, 32);
}

/** The services behind Envoy. `arrived` resolves when a request for a path has come. */
export type Services = {
  readonly ports: Readonly<Record<"plain" | "grpc" | "secure" | "authz", number>>;
  readonly arrived: (path: string) => Promise<void>;
  readonly stop: () => void;
};

export async function startServices(authority: Authority): Promise<Services> {
  const arrivals = new Map<string, () => void>();
  const seen = new Set<string>();
  const plain = plainService((path) => {
    seen.add(path);
    arrivals.get(path)?.();
  });
  const leaf = await authority.issue({
    uris: ["spiffe://mesh/ns/shop/sa/secure"],
    dns: ["secure"],
  });
  const secure = createHttpsServer(leaf, (_, response) => response.end("secure"));
  const authz = createServer((incoming, response) => {
    response.writeHead(incoming.url?.includes("allowed") ? 200 : 403).end();
  });
  const servers = { plain, grpc: grpcService(), secure, authz };
  const ports: Record<string, number> = {};
  for (const [name, server] of Object.entries<NetServer>(servers)) {
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    ports[name] = (server.address() as AddressInfo).port;
  }
  return {
    ports: ports as Services["ports"],
    arrived: (path) =>
      seen.has(path)
        ? Promise.resolve()
        : new Promise((resolve) => {
            arrivals.set(path, resolve);
          }),
    stop: () => {
      for (const server of Object.values<NetServer>(servers)) server.close();
      plain.closeAllConnections();
      secure.closeAllConnections();
      authz.closeAllConnections();
    },
  };
}

function plainService(onPath: (path: string) => void): Server {
  let flaky = 0;
  const server = createServer((incoming, response) => {
    const path = incoming.url ?? "";
    onPath(path);
    incoming.resume();
    if (path === "/reset") incoming.socket.destroy();
    else if (path === "/flaky" && flaky++ < 1) incoming.socket.destroy();
    else if (path === "/slow") return;
    else if (path === "/cut") {
      response.writeHead(200, { "content-length": 100_000 }).write("some");
      setImmediate(() => incoming.socket.destroy());
    } else if (path === "/stream") response.writeHead(200).write("first");
    else response.writeHead(200, { "x-served-by": "plain", "set-cookie": "a=b" }).end("hello");
  });
  server.on("upgrade", (_, socket) => {
    socket.write(
      "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    );
    socket.on("error", () => undefined);
    socket.on("data", (data) => socket.write(data));
    socket.on("end", () => socket.end());
  });
  return server;
}

function grpcService(): Http2Server {
  const server = createHttp2Server();
  server.on("stream", (stream, headers) => {
    stream.resume();
    stream.respond(
      { ":status": 200, "content-type": "application/grpc" },
      { waitForTrailers: true },
    );
    const status = headers[":path"] === "/shop.Cart/Denied" ? "7" : "0";
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": status }));
    stream.end(Buffer.alloc(5));
  });
  return server;
}

/** Keys and certificates of one run. */
export type Credentials = {
  readonly authority: Authority;
  readonly listener: Pair;
  readonly client: Pair;
  readonly jwtKey: KeyObject;
  readonly jwks: string;
};

export async function makeCredentials(): Promise<Credentials> {
  const authority = await makeAuthority("mesh");
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const jwk = { ...publicKey.export({ format: "jwk" }), kid: "k", alg: "ES256", use: "sig" };
  return {
    authority,
    listener: await authority.issue({ uris: ["spiffe://mesh/ns/shop/sa/edge"], dns: ["edge"] }),
    client: await authority.issue(
      { uris: ["spiffe://mesh/ns/shop/sa/web"], dns: ["web.shop", "web"] },
      "web",
    ),
    jwtKey: privateKey,
    jwks: JSON.stringify({ keys: [jwk] }),
  };
}

/** A signed token with these claims. */
export function tokenOf({ jwtKey }: Credentials, claims: Json): string {
  const part = (value: Json): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${part({ alg: "ES256", kid: "k" })}.${part({ exp: 4_102_444_800, ...claims })}`;
  const signature = createSign("sha256").update(text);
  const bytes = signature.sign({ key: jwtKey, dsaEncoding: "ieee-p1363" });
  return `${text}.${bytes.toString("base64url")}`;
}

function typed(type: string, config: Json = {}): Json {
  return { "@type": `${TYPE}.${type}`, ...config };
}

const HTTP = "filters.http";

function filter(name: string, type: string, config: Json): Json {
  return { name, typed_config: typed(`${HTTP}.${type}`, config) };
}

function rbac(name: string, config: Json): Json {
  return filter(name, "rbac.v3.RBAC", config);
}

function policy(prefix: string): Json {
  return {
    permissions: [{ url_path: { path: { prefix } } }],
    principals: [{ any: true }],
  };
}

function httpFilters(credentials: Credentials): Json[] {
  return [
    rbac("rbac-before", {
      rules: {
        action: "DENY",
        policies: { "ns[shop]-policy[no-admin]-rule[2]": policy("/denied-before") },
      },
      shadow_rules: { action: "DENY", policies: { "ns[shop]-policy[dry]-rule[0]": policy("/ok") } },
      shadow_rules_stat_prefix: "istio_dry_run_deny_",
    }),
    rbac("rbac-audit", { rules: { action: "LOG", policies: { watch: policy("/audited") } } }),
    filter("jwt", "jwt_authn.v3.JwtAuthentication", {
      providers: {
        issuer: {
          issuer: ISSUER,
          local_jwks: { inline_string: credentials.jwks },
          payload_in_metadata: "payload",
          forward: true,
        },
      },
      rules: [{ match: { prefix: "/jwt" }, requires: { provider_name: "issuer" } }],
    }),
    filter("limit", "local_ratelimit.v3.LocalRateLimit", { stat_prefix: "limit" }),
    filter("authz", "ext_authz.v3.ExtAuthz", {
      http_service: {
        server_uri: { uri: "http://authz", cluster: "authz", timeout: "5s" },
        path_prefix: "/check",
      },
    }),
    filter("meshseal", "wasm.v3.Wasm", {
      config: {
        name: "meshseal",
        failure_policy: "FAIL_RELOAD",
        configuration: {
          "@type": "type.googleapis.com/google.protobuf.StringValue",
          value: JSON.stringify(FILTER),
        },
        vm_config: {
          vm_id: "meshseal",
          runtime: "envoy.wasm.runtime.v8",
          code: { local: { filename: join(ROOT, "build/filter.wasm") } },
          environment_variables: { host_env_keys: ["MESHSEAL_TEST_HASH_KEY"] },
        },
      },
    }),
    rbac("rbac-after", {
      rules: {
        action: "ALLOW",
        policies: {
          "ns[shop]-policy[listed]-rule[1]": {
            permissions: [{ not_rule: { url_path: { path: { prefix: "/unlisted" } } } }],
            principals: [{ any: true }],
          },
        },
      },
    }),
    filter("router", "router.v3.Router", {}),
  ];
}

function routes(): Json[] {
  const to = (cluster: string, more: Json = {}): Json => ({ route: { cluster, ...more } });
  const at = (prefix: string, what: Json): Json => ({
    name: prefix.slice(1),
    match: { prefix },
    ...what,
  });
  return [
    at("/direct", { direct_response: { status: 200, body: { inline_string: "direct" } } }),
    at("/dead", to("dead")),
    at("/full", to("full")),
    at("/empty", to("empty")),
    at("/secure", to("secure")),
    at("/flaky", to("plain", { retry_policy: { retry_on: "reset", num_retries: 2 } })),
    at(
      "/rewritten",
      to("plain", { prefix_rewrite: "/inner", host_rewrite_literal: "inner.example" }),
    ),
    at("/shop.Cart", to("grpc")),
    at("/socket", to("plain", { upgrade_configs: [{ upgrade_type: "websocket" }] })),
    at("/authz", {
      ...to("plain"),
      typed_per_filter_config: {
        authz: typed(`${HTTP}.ext_authz.v3.ExtAuthzPerRoute`, { check_settings: {} }),
      },
    }),
    at("/limited", {
      ...to("plain"),
      typed_per_filter_config: {
        limit: typed(`${HTTP}.local_ratelimit.v3.LocalRateLimit`, {
          stat_prefix: "limited",
          token_bucket: { max_tokens: 1, tokens_per_fill: 1, fill_interval: "3600s" },
          filter_enabled: { default_value: { numerator: 100 } },
          filter_enforced: { default_value: { numerator: 100 } },
        }),
      },
    }),
    {
      name: "rest",
      match: {
        prefix: "/",
        headers: [{ name: ":path", invert_match: true, string_match: { prefix: "/missing" } }],
      },
      ...to("plain"),
    },
  ];
}

function listener(name: string, credentials: Credentials, more: Json, tls?: Json): Json {
  return {
    name,
    address: { socket_address: { address: "127.0.0.1", port_value: 0 } },
    traffic_direction: name === "tls" ? "INBOUND" : "OUTBOUND",
    listener_filters: [
      {
        name: "names",
        typed_config: typed("filters.listener.tls_inspector.v3.TlsInspector"),
      },
    ],
    filter_chains: [
      {
        name: `${name}-chain`,
        filters: [
          {
            name: "http",
            typed_config: typed(
              "filters.network.http_connection_manager.v3.HttpConnectionManager",
              {
                stat_prefix: "edge",
                route_config: {
                  virtual_hosts: [
                    {
                      name: "service",
                      domains: ["*"],
                      routes: routes(),
                      typed_per_filter_config: {
                        authz: typed(`${HTTP}.ext_authz.v3.ExtAuthzPerRoute`, { disabled: true }),
                      },
                    },
                  ],
                },
                http_filters: httpFilters(credentials),
                ...more,
              },
            ),
          },
        ],
        ...(tls === undefined ? {} : { transport_socket: tls }),
      },
    ],
  };
}

/** Of certificates that stand in the configuration itself. */
function certificates({ cert, key }: Pair): Json {
  return {
    tls_certificates: [
      { certificate_chain: { inline_string: cert }, private_key: { inline_string: key } },
    ],
  };
}

function cluster(name: string, port: number, more: Json = {}): Json {
  const socket_address = { address: "127.0.0.1", port_value: port };
  return {
    name,
    type: "STATIC",
    load_assignment: {
      cluster_name: name,
      endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address } } }] }],
    },
    ...more,
  };
}

/**
 * `trusting` takes x-forwarded-for and all other headers from anyone, as a listener behind another proxy does; `edge` does not;
 * `tls` verifies client certificates, and needs none.
 */
export function bootstrapOf(
  credentials: Credentials,
  services: Services,
  exporterPort: number,
): Json {
  const trusted = { trusted_ca: { inline_string: credentials.authority.cert } };
  const tls = {
    name: "tls",
    typed_config: typed(`${TLS}.DownstreamTlsContext`, {
      common_tls_context: { ...certificates(credentials.listener), validation_context: trusted },
      require_client_certificate: false,
    }),
  };
  const upstreamTls = {
    transport_socket: {
      name: "tls",
      typed_config: typed(`${TLS}.UpstreamTlsContext`, {
        common_tls_context: { validation_context: trusted },
        sni: "secure",
      }),
    },
  };
  const http2 = {
    typed_extension_protocol_options: {
      "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
        "upstreams.http.v3.HttpProtocolOptions",
        { explicit_http_config: { http2_protocol_options: {} } },
      ),
    },
  };
  const { plain, grpc, secure, authz } = services.ports;
  return {
    admin: { address: { socket_address: { address: "127.0.0.1", port_value: 0 } } },
    static_resources: {
      listeners: [
        listener("trusting", credentials, { forward_client_cert_details: "ALWAYS_FORWARD_ONLY" }),
        listener("edge", credentials, { use_remote_address: true }),
        listener("tls", credentials, { forward_client_cert_details: "APPEND_FORWARD" }, tls),
      ],
      clusters: [
        cluster("plain", plain),
        cluster("dead", 1),
        cluster("full", plain, { circuit_breakers: { thresholds: [{ max_requests: 0 }] } }),
        { name: "empty", type: "STATIC", load_assignment: { cluster_name: "empty" } },
        cluster("secure", secure, upstreamTls),
        cluster("grpc", grpc, http2),
        cluster("authz", authz),
        cluster("meshseal", exporterPort),
      ],
    },
  };
}
