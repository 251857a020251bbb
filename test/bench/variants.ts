/** The Envoy configurations that the benchmark compares: one listener, alike but for what writes down the request. */

/** Ports on loopback. */
export type Ports = {
  readonly listener: number;
  readonly admin: number;
  readonly upstream: number;
  readonly exporter: number;
  readonly sink: number;
};

/** Files that a variant loads or writes. */
export type Modules = {
  readonly filter: string;
  readonly accessLog: string;
  readonly noop: string;
  readonly accessLogFile: string;
  /** Our filter's configuration. */
  readonly settings: string;
};

/** `filter` and `access-log` are ours, `noop` is a module that does nothing, the last three are Envoy's own loggers. */
export const VARIANTS = ["none", "noop", "filter", "access-log", "file", "grpc", "otel"] as const;
export type Variant = (typeof VARIANTS)[number];

type Json = { readonly [key: string]: unknown };

/** The same facts that our entries hold by default, group by group, as Envoy's command operators. */
const OPERATORS = {
  time: "%START_TIME%",
  status: "%RESPONSE_CODE%",
  method: "%REQ(:METHOD)%",
  path: "%REQ(:PATH)%",
  authority: "%REQ(:AUTHORITY)%",
  duration: "%DURATION%",
  bytes_in: "%BYTES_RECEIVED%",
  bytes_out: "%BYTES_SENT%",
  flags: "%RESPONSE_FLAGS%",
  code_details: "%RESPONSE_CODE_DETAILS%",
  protocol: "%PROTOCOL%",
  request_id: "%REQ(X-REQUEST-ID)%",
  user_agent: "%REQ(USER-AGENT)%",
  source_address: "%DOWNSTREAM_REMOTE_ADDRESS%",
  destination_address: "%DOWNSTREAM_LOCAL_ADDRESS%",
  route: "%ROUTE_NAME%",
  original_path: "%REQ(X-ENVOY-ORIGINAL-PATH)%",
  original_authority: "%REQ(X-ENVOY-ORIGINAL-HOST)%",
  content_type: "%REQ(CONTENT-TYPE)%",
  filter_chain: "%FILTER_CHAIN_NAME%",
  peer_principal: "%DOWNSTREAM_PEER_URI_SAN%",
  peer_certificate: "%DOWNSTREAM_PEER_FINGERPRINT_256%",
  peer_subject: "%DOWNSTREAM_PEER_SUBJECT%",
  peer_dns: "%DOWNSTREAM_PEER_DNS_SAN%",
  local_principal: "%DOWNSTREAM_LOCAL_URI_SAN%",
  user_issuer: "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:iss)%",
  user_subject: "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:sub)%",
  claimed_principal: "%REQ(X-FORWARDED-CLIENT-CERT)%",
  auth_scheme: "%REQ(AUTHORIZATION):6%",
  rbac: "%DYNAMIC_METADATA(envoy.filters.http.rbac)%",
  ext_authz: "%DYNAMIC_METADATA(envoy.filters.http.ext_authz)%",
  audit: "%DYNAMIC_METADATA(envoy.common:access_log_hint)%",
  tls_version: "%DOWNSTREAM_TLS_VERSION%",
  server_name: "%REQUESTED_SERVER_NAME%",
  upstream_cluster: "%UPSTREAM_CLUSTER%",
  upstream_address: "%UPSTREAM_HOST%",
  attempts: "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
  upstream_principal: "%UPSTREAM_PEER_URI_SAN%",
  upstream_tls_version: "%UPSTREAM_TLS_VERSION%",
  upstream_failure: "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
  traceparent: "%REQ(TRACEPARENT)%",
  b3: "%REQ(B3)%",
  grpc_status: "%GRPC_STATUS%",
};

/** The headers among them that the gRPC logger does not send by itself. */
const HEADERS = [
  "content-type",
  "x-envoy-original-host",
  "x-forwarded-client-cert",
  "traceparent",
  "b3",
];

const TYPE = "type.googleapis.com/envoy.extensions";

function typed(type: string, config: Json): Json {
  return { "@type": `${TYPE}.${type}`, ...config };
}

function wasm(file: string, configuration: string): Json {
  return {
    name: "audit",
    root_id: "",
    configuration: {
      "@type": "type.googleapis.com/google.protobuf.StringValue",
      value: configuration,
    },
    vm_config: {
      vm_id: "audit",
      runtime: "envoy.wasm.runtime.v8",
      code: { local: { filename: file } },
    },
  };
}

function wasmFilter(file: string, configuration: string): Json {
  return {
    name: "audit",
    typed_config: typed("filters.http.wasm.v3.Wasm", { config: wasm(file, configuration) }),
  };
}

function accessLog(variant: Variant, files: Modules): Json[] {
  if (variant === "access-log") {
    const type = "access_loggers.wasm.v3.WasmAccessLog";
    return [
      {
        name: "audit",
        typed_config: typed(type, { config: wasm(files.accessLog, files.settings) }),
      },
    ];
  }
  const grpc_service = { envoy_grpc: { cluster_name: "sink" } };
  if (variant === "file") {
    const config = { path: files.accessLogFile, log_format: { json_format: OPERATORS } };
    return [{ name: "file", typed_config: typed("access_loggers.file.v3.FileAccessLog", config) }];
  }
  if (variant === "grpc") {
    const common_config = { log_name: "bench", transport_api_version: "V3", grpc_service };
    const config = { common_config, additional_request_headers_to_log: HEADERS };
    const type = "access_loggers.grpc.v3.HttpGrpcAccessLogConfig";
    return [{ name: "grpc", typed_config: typed(type, config) }];
  }
  if (variant === "otel") {
    const values = Object.entries(OPERATORS).map(([key, text]) => ({
      key,
      value: { string_value: text },
    }));
    const type = "access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig";
    const config = { log_name: "bench", grpc_service, attributes: { values } };
    return [{ name: "otel", typed_config: typed(type, config) }];
  }
  return [];
}

function httpFilters(variant: Variant, files: Modules): Json[] {
  const router = { name: "router", typed_config: typed("filters.http.router.v3.Router", {}) };
  if (variant === "noop") return [wasmFilter(files.noop, ""), router];
  if (variant === "filter") return [wasmFilter(files.filter, files.settings), router];
  return [router];
}

function cluster(name: string, port: number, isHttp2: boolean): Json {
  const address = { socket_address: { address: "127.0.0.1", port_value: port } };
  const protocol = {
    typed_extension_protocol_options: {
      "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
        "upstreams.http.v3.HttpProtocolOptions",
        { explicit_http_config: { http2_protocol_options: {} } },
      ),
    },
  };
  return {
    name,
    type: "STATIC",
    load_assignment: {
      cluster_name: name,
      endpoints: [{ lb_endpoints: [{ endpoint: { address } }] }],
    },
    ...(isHttp2 ? protocol : {}),
  };
}

function listener(port: number, hcm: Json): Json {
  return {
    name: "bench",
    address: { socket_address: { address: "127.0.0.1", port_value: port } },
    filter_chains: [
      {
        filters: [
          {
            name: "hcm",
            typed_config: typed(
              "filters.network.http_connection_manager.v3.HttpConnectionManager",
              {
                stat_prefix: "bench",
                ...hcm,
              },
            ),
          },
        ],
      },
    ],
  };
}

function routes(list: Json[]): Json {
  return { virtual_hosts: [{ name: "bench", domains: ["*"], routes: list }] };
}

function answer(body: string): Json {
  return { status: 200, body: { inline_string: body } };
}

/** Returns the bootstrap of a variant: `/direct` is answered by Envoy, anything else goes to the upstream. */
export function bootstrap(variant: Variant, ports: Ports, files: Modules): Json {
  return {
    admin: { address: { socket_address: { address: "127.0.0.1", port_value: ports.admin } } },
    static_resources: {
      listeners: [
        listener(ports.listener, {
          access_log: accessLog(variant, files),
          http_filters: httpFilters(variant, files),
          route_config: routes([
            { name: "direct", match: { prefix: "/direct" }, direct_response: answer("ok") },
            { name: "proxied", match: { prefix: "/" }, route: { cluster: "upstream" } },
          ]),
        }),
      ],
      clusters: [
        cluster("upstream", ports.upstream, false),
        cluster("meshseal", ports.exporter, false),
        cluster("sink", ports.sink, true),
      ],
    },
  };
}

/** What the upstream needs for `/slow`, in milliseconds. */
export const SLOW_MS = 5;

/** Returns the bootstrap of the upstream: another Envoy that answers by itself, at once or below `/slow` after some time. */
export function upstreamBootstrap(port: number, admin: number): Json {
  const files = { filter: "", accessLog: "", noop: "", accessLogFile: "", settings: "" };
  const fault = "filters.http.fault.v3.HTTPFault";
  const delay = { fixed_delay: `${SLOW_MS / 1000}s`, percentage: { numerator: 100 } };
  return {
    admin: { address: { socket_address: { address: "127.0.0.1", port_value: admin } } },
    static_resources: {
      listeners: [
        listener(port, {
          http_filters: [
            { name: "fault", typed_config: typed(fault, {}) },
            ...httpFilters("none", files),
          ],
          route_config: routes([
            {
              match: { prefix: "/slow" },
              direct_response: answer("upstream"),
              typed_per_filter_config: { fault: typed(fault, { delay }) },
            },
            { match: { prefix: "/" }, direct_response: answer("upstream") },
          ]),
        }),
      ],
    },
  };
}
