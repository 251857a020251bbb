/**
 * What `meshseal init envoy` writes: the commented bootstrap of envoy-configs/edge.yaml with the caller's addresses, module and
 * capabilities in it, whole or as files for xDS (https://www.envoyproxy.io/docs/envoy/latest/start/quick-start/configuration-dynamic-filesystem).
 */
import { readFileSync } from "node:fs";
import { type Document, parseDocument, YAMLMap } from "yaml";
import { MeshsealError } from "../errors.ts";
import type { Module } from "./module.ts";

export type EnvoySetup = {
  readonly module: Pick<Module, "sha256" | "capabilities">;
  /** Path of the module on the machine where Envoy runs. */
  readonly modulePath: string;
  readonly listen: Address;
  readonly admin: Address;
  readonly upstream: Address;
  readonly exporter: Address;
  readonly delivery: string;
  /** PEM files on Envoy's machine for mutual TLS with the exporter. */
  readonly tls?: { readonly cert: string; readonly key: string; readonly ca: string };
};

export type Address = { readonly host: string; readonly port: number };

type Path = readonly (string | number)[];

const HCM: Path = [
  "static_resources",
  "listeners",
  0,
  "filter_chains",
  0,
  "filters",
  0,
  "typed_config",
];

/** Returns the files to write, by name. */
export function envoyFiles(setup: EnvoySetup, form: "bootstrap" | "file-xds"): Map<string, string> {
  const document = edit(setup);
  if (form === "bootstrap") return new Map([["envoy.yaml", text(document)]]);
  return new Map([
    ["envoy.yaml", XDS_BOOTSTRAP(setup)],
    ["lds.yaml", resources(document, "listeners", "envoy.config.listener.v3.Listener")],
    ["cds.yaml", resources(document, "clusters", "envoy.config.cluster.v3.Cluster")],
  ]);
}

function edit(setup: EnvoySetup): Document {
  const document = parseDocument(readFileSync(pattern(), "utf8"));
  document.commentBefore = ` An Envoy in front of one service, with every request recorded by Meshseal. Written by: meshseal init envoy
 Module: SHA-256 ${setup.module.sha256}

 Stop it in this order, or its last entries are lost (Envoy's log then says which): POST /drain_listeners?graceful to the admin
 address, wait for the drain time and two ticks, SIGTERM.`;
  const set = (path: Path, value: unknown): void =>
    document.setIn(path, document.createNode(value));
  const address = (path: Path, { host, port }: Address): void => {
    set([...path, "socket_address", "address"], host);
    set([...path, "socket_address", "port_value"], port);
  };
  address(["admin", "address"], setup.admin);
  address(["static_resources", "listeners", 0, "address"], setup.listen);
  // The pattern's example of a filter that refuses is not the caller's.
  document.deleteIn([
    ...HCM,
    "http_filters",
    indexOf(document, [...HCM, "http_filters"], "envoy.filters.http.rbac"),
  ]);
  const filter = [
    ...HCM,
    "http_filters",
    indexOf(document, [...HCM, "http_filters"], "meshseal"),
    "typed_config",
    "config",
  ];
  set([...filter, "vm_config", "code", "local", "filename"], setup.modulePath);
  set(
    [...filter, "configuration", "value"],
    JSON.stringify({
      cluster: "meshseal",
      delivery: setup.delivery,
      moduleDigest: setup.module.sha256,
    }),
  );
  set(
    [...filter, "capability_restriction_config", "allowed_capabilities"],
    Object.fromEntries(setup.module.capabilities.map((name) => [name, {}])),
  );
  const clusters: Path = ["static_resources", "clusters"];
  for (const [name, to] of [
    ["service", setup.upstream],
    ["meshseal", setup.exporter],
  ] as const) {
    const cluster = [...clusters, indexOf(document, clusters, name)];
    address(
      [...cluster, "load_assignment", "endpoints", 0, "lb_endpoints", 0, "endpoint", "address"],
      to,
    );
    if (!/^[\d.]+$|:/.test(to.host)) set([...cluster, "type"], "STRICT_DNS");
    if (name === "meshseal" && setup.tls !== undefined)
      set([...cluster, "transport_socket"], upstreamTls(setup.tls, to.host));
  }
  return document;
}

function upstreamTls(
  { cert, key, ca }: { cert: string; key: string; ca: string },
  host: string,
): unknown {
  const type = /^[\d.]+$|:/.test(host) ? "IP_ADDRESS" : "DNS";
  return {
    name: "envoy.transport_sockets.tls",
    typed_config: {
      "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
      ...(type === "DNS" ? { sni: host } : {}),
      common_tls_context: {
        tls_certificates: [
          { certificate_chain: { filename: cert }, private_key: { filename: key } },
        ],
        validation_context: {
          trusted_ca: { filename: ca },
          match_typed_subject_alt_names: [{ san_type: type, matcher: { exact: host } }],
        },
      },
    },
  };
}

const XDS_BOOTSTRAP = ({
  admin,
}: EnvoySetup): string => `# Envoy's start: listeners and clusters come from files beside this one. Written by: meshseal init envoy --file-xds
# Start it in this folder: envoy -c envoy.yaml. Envoy sees a file that was moved into place (mv), not one that was edited where it is.
node: { id: edge, cluster: edge }
admin:
  address: { socket_address: { address: ${admin.host}, port_value: ${admin.port} } }
dynamic_resources:
  lds_config:
    path_config_source: { path: ./lds.yaml }
    resource_api_version: V3
  cds_config:
    path_config_source: { path: ./cds.yaml }
    resource_api_version: V3
`;

function resources(document: Document, kind: string, type: string): string {
  const copy = document.clone();
  const items = copy.getIn(["static_resources", kind], true) as { items: YAMLMap[] };
  for (const item of items.items)
    item.items.unshift(copy.createPair("@type", `type.googleapis.com/${type}`));
  const file = copy.clone();
  file.contents = file.createNode({}) as unknown as typeof file.contents;
  (file.contents as unknown as YAMLMap).set("resources", items);
  file.commentBefore = ` ${kind === "listeners" ? "Listeners" : "Clusters"} for envoy.yaml beside this file. Written by: meshseal init envoy --file-xds`;
  return text(file);
}

function text(document: Document): string {
  return document.toString({ lineWidth: 0 });
}

function indexOf(document: Document, path: Path, name: string): number {
  const list = document.getIn(path, true) as { items: unknown[] };
  const at = list.items.findIndex((item) => item instanceof YAMLMap && item.get("name") === name);
  if (at < 0)
    throw new MeshsealError(`envoy-configs/edge.yaml has no ${name}: install Meshseal again.`);
  return at;
}

function pattern(): URL {
  const relative = import.meta.url.endsWith(".ts") ? "../../" : "../../../";
  return new URL(`${relative}envoy-configs/edge.yaml`, import.meta.url);
}
