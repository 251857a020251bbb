/**
 * What `meshseal init envoy-gateway` writes. The exporter's cluster is a static one in the proxies' bootstrap, since Envoy
 * Gateway makes clusters only for routes. It has no FAIL_RELOAD (up to 1.6 at least) and no list of capabilities.
 *
 * https://gateway.envoyproxy.io/docs/api/extension_types/ (EnvoyExtensionPolicy, EnvoyProxy)
 */
import { imageFor, pluginSettings, type Setup, serviceHost } from "./setup.ts";

export type GatewaySetup = Setup & {
  readonly gateway: { readonly namespace: string; readonly name: string };
  /** Routes with a delivery of their own. On these Envoy Gateway uses the route's policy in place of the gateway's. */
  readonly routes: readonly { readonly name: string; readonly delivery: string }[];
  readonly tls: boolean;
};

export const GATEWAY_CLUSTER = "meshseal";

export function gatewayManifest(setup: GatewaySetup): string {
  const { gateway } = setup;
  const policies = [
    policy(setup, {
      kind: "Gateway",
      target: gateway.name,
      name: `meshseal-${gateway.name}`,
      delivery: setup.delivery,
    }),
    ...setup.routes.map(({ name, delivery }) =>
      policy(setup, { kind: "HTTPRoute", target: name, name: `meshseal-${name}-route`, delivery }),
    ),
  ];
  return `# The Meshseal filter in Envoy Gateway's proxies. Written by: meshseal init envoy-gateway
${policies.join("---\n")}---
# The exporter's cluster, in the bootstrap of every proxy that uses this EnvoyProxy. Name it in the Gateway:
#   spec: { infrastructure: { parametersRef: { group: gateway.envoyproxy.io, kind: EnvoyProxy, name: meshseal } } }
# or in the GatewayClass. If there is an EnvoyProxy already, put bootstrap and shutdown into that one.
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata:
  name: meshseal
  namespace: ${gateway.namespace}
spec:
  # Drain before stop: what is not receipted when Envoy ends is lost. Longer than the slowest request and two ticks.
  shutdown:
    drainTimeout: 60s
    minDrainDuration: 10s
  bootstrap:
    type: Merge
    value: |
      static_resources:
        clusters:
          - name: ${GATEWAY_CLUSTER}
            type: STRICT_DNS
            connect_timeout: 5s
            dns_lookup_family: V4_PREFERRED
            load_assignment:
              cluster_name: ${GATEWAY_CLUSTER}
              endpoints:
                - lb_endpoints:
                    - endpoint:
                        address:
                          socket_address: { address: ${serviceHost(setup)}, port_value: ${setup.port} }
${setup.tls ? TLS.replaceAll("HOST", serviceHost(setup)) : ""}`;
}

/** Mounted by EnvoyProxy's spec.provider.kubernetes.envoyDeployment: a Secret with tls.crt, tls.key and ca.crt. */
const TLS = `            transport_socket:
              name: envoy.transport_sockets.tls
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
                sni: HOST
                common_tls_context:
                  tls_certificates:
                    - certificate_chain: { filename: /meshseal-tls/tls.crt }
                      private_key: { filename: /meshseal-tls/tls.key }
                  validation_context:
                    trusted_ca: { filename: /meshseal-tls/ca.crt }
                    match_typed_subject_alt_names:
                      - san_type: DNS
                        matcher: { exact: HOST }
  provider:
    type: Kubernetes
    kubernetes:
      envoyDeployment:
        container:
          volumeMounts:
            - { name: meshseal-tls, mountPath: /meshseal-tls, readOnly: true }
        pod:
          volumes:
            - name: meshseal-tls
              secret: { secretName: meshseal-proxy-tls }
`;

type Target = {
  readonly kind: "Gateway" | "HTTPRoute";
  readonly target: string;
  readonly name: string;
  readonly delivery: string;
};

function policy(setup: GatewaySetup, { kind, target, name, delivery }: Target): string {
  const image = imageFor(setup, delivery);
  const pull =
    setup.pullSecret === undefined
      ? ""
      : `          pullSecretRef: { name: ${setup.pullSecret} }\n`;
  const code = `        type: Image
        image:
          url: ${image.reference.replace(/^oci:\/\//, "")}
          sha256: "${image.manifestSha256}"
${pull}`;
  const settings = pluginSettings(setup, GATEWAY_CLUSTER, delivery)
    .map(([key, value]) => `        ${key}: ${value}\n`)
    .join("");
  return `apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyExtensionPolicy
metadata:
  name: ${name}
  namespace: ${setup.gateway.namespace}
  labels:
    app.kubernetes.io/name: meshseal
    app.kubernetes.io/component: filter
spec:
  targetRefs:
    - group: gateway.networking.k8s.io
      kind: ${kind}
      name: ${target}
  wasm:
    - name: meshseal
      rootID: meshseal
      # Requests are refused, not let through unrecorded, when the filter cannot run.
      failOpen: false
      code:
${code}${setup.keyVariable === undefined ? "" : `      env:\n        hostKeys: [${setup.keyVariable}]\n`}      config:
${settings}`;
}
