/** What must hold of an EnvoyExtensionPolicy with the filter, and of the Gateway and the EnvoyProxy that go with it. */
import { parseAllDocuments } from "yaml";
import type { Outcome } from "./check.ts";
import { findClusters, isObject, listAt, objectAt, textOf, walk } from "./plugins.ts";
import { nameOf, nameSpaceOf, type Resource } from "./resources.ts";
import { bad, clusterOf, good, type Images, judgeDigest, judgeSettings, warning } from "./rules.ts";

/** Returns what is to be said of the policy, and "good" for what is not. */
export function gatewayPolicy(
  resource: Resource,
  all: readonly Resource[],
  options: Images,
): Outcome[] {
  const spec = objectAt(resource, "spec") ?? {};
  return listAt(spec, "wasm")
    .filter(isObject)
    .flatMap((wasm) => {
      const settings = objectAt(wasm, "config") ?? {};
      const code = objectAt(wasm, "code") ?? {};
      const from = objectAt(code, "image") ?? objectAt(code, "http") ?? {};
      const plugin = { name: "", settings, failurePolicy: "", capabilities: null, file: "" };
      return [
        wasm["failOpen"] === true
          ? bad(
              "failOpen: after one trap, or while the module cannot be fetched, requests pass unrecorded. Set false.",
            )
          : good(""),
        judgeSettings(plugin, options.modules),
        judgeDigest(String(from["url"] ?? ""), from["sha256"], options),
        targets(resource, spec, all),
        cluster(clusterOf(plugin), all),
      ];
    });
}

/** A policy speaks of its own namespace only; what it names elsewhere, or nowhere, is left out without a word. */
function targets(
  resource: Resource,
  spec: Record<string, unknown>,
  all: readonly Resource[],
): Outcome {
  const refs = [...listAt(spec, "targetRefs"), spec["targetRef"]].filter(isObject);
  if (refs.length + listAt(spec, "targetSelectors").length === 0)
    return bad("it targets nothing: targetRefs is empty.");
  for (const ref of refs) {
    const kind = textOf(ref["kind"]);
    const name = `${nameSpaceOf(resource)}/${textOf(ref["name"])}`;
    const ofKind = all.filter((one) => one["kind"] === kind);
    if (ofKind.length === 0 || ofKind.some((one) => nameOf(one) === name)) continue;
    return bad(
      `there is no ${kind} ${name} in these files, but ${ofKind.map(nameOf).join(", ")}: a policy holds in its own namespace only, and one without its target does nothing.`,
    );
  }
  return good("");
}

/** The exporter's cluster is in the bootstrap that an EnvoyProxy gives to the proxies of the Gateways that name it. */
function cluster(name: string, all: readonly Resource[]): Outcome {
  if (name.startsWith("httproute/")) return good("");
  const proxies = all.filter(({ kind }) => kind === "EnvoyProxy");
  const having = proxies.filter((proxy) =>
    bootstrapOf(proxy).some((one) => findClusters(one).has(name)),
  );
  if (having.length === 0) {
    return proxies.length > 0
      ? bad(
          `no EnvoyProxy in these files adds the cluster "${name}" to the bootstrap: nothing can be sent.`,
        )
      : warning(
          `the cluster "${name}" must be in the bootstrap of an EnvoyProxy, and none is in these files.`,
        );
  }
  const naming = all.filter(({ kind }) => kind === "Gateway" || kind === "GatewayClass");
  const isNamed = naming.some((one) => {
    const place = objectAt(one["spec"], "infrastructure") ?? objectAt(one, "spec");
    const ref = objectAt(place, "parametersRef");
    return (
      ref?.["kind"] === "EnvoyProxy" &&
      having.some((proxy) => nameOf(proxy).endsWith(`/${textOf(ref["name"])}`))
    );
  });
  if (naming.length > 0 && !isNamed) {
    return bad(
      `no Gateway and no GatewayClass in these files names the EnvoyProxy ${having.map(nameOf).join(", ")} (infrastructure.parametersRef): its proxies do not get the cluster "${name}".`,
    );
  }
  const unmounted = having.flatMap(missingFiles);
  return unmounted.length > 0
    ? bad(
        `the cluster "${name}" reads ${unmounted.join(", ")}, and the EnvoyProxy mounts nothing there: TLS with the exporter fails.`,
      )
    : good("");
}

function bootstrapOf(proxy: Resource): unknown[] {
  const value = objectAt(objectAt(proxy, "spec"), "bootstrap")?.["value"];
  if (typeof value !== "string") return [];
  return parseAllDocuments(value).map((document): unknown => document.toJS({ maxAliasCount: 100 }));
}

/** Files that the bootstrap names below no volume of the proxy's container. */
function missingFiles(proxy: Resource): string[] {
  const mounts: string[] = [];
  walk(proxy, (object) => {
    for (const mount of listAt(object, "volumeMounts"))
      if (isObject(mount)) mounts.push(`${textOf(mount["mountPath"]).replace(/\/$/, "")}/`);
  });
  const files: string[] = [];
  walk(bootstrapOf(proxy), (object) => {
    const file = textOf(object["filename"]);
    // Those of the image and of Envoy Gateway itself are there.
    if (
      file !== "" &&
      !file.startsWith("/etc/ssl/") &&
      !file.startsWith("/certs/") &&
      !mounts.some((mount) => file.startsWith(mount))
    )
      files.push(file);
  });
  return files;
}
