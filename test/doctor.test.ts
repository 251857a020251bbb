import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { request } from "undici";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parse, parseAllDocuments, stringify } from "yaml";
import { initCommand } from "../exporter/cli/init.ts";
import { runChecks } from "../exporter/doctor/check.ts";
import { type MeshFlags, meshChecks } from "../exporter/doctor/mesh.ts";
import {
  findClusters,
  findPlugins,
  findRefusals,
  hasDefaultDeny,
  isObject,
  objectAt,
  walk,
} from "../exporter/doctor/plugins.ts";
import { readModule } from "../exporter/install/module.ts";
import { startUpstream, type Upstream } from "../scripts/demo/upstream.ts";
import { EXAMPLES, init } from "../scripts/manifests.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { checkLog } from "./support/log.ts";
import { type RunningEnvoy, receipted, runEnvoy, until } from "./support/run-envoy.ts";

const dir = mkdtempSync(join(tmpdir(), "meshseal-doctor-"));

/** The exporter's cluster with TLS. */
function withTls(cds: string): string {
  const file = parse(cds) as { resources: { name: string; transport_socket?: unknown }[] };
  for (const cluster of file.resources) {
    if (cluster.name !== "meshseal") continue;
    const type = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    const typed_config = { "@type": type };
    cluster.transport_socket = { name: "envoy.transport_sockets.tls", typed_config };
  }
  return stringify(file);
}

async function diagnose(flags: MeshFlags): Promise<Record<string, string>> {
  const results = await runChecks(await meshChecks(flags));
  return results.reduce<Record<string, string>>((said, { name, status, message }) => {
    said[name] = `${said[name] === undefined ? "" : `${said[name]}\n`}${status}: ${message}`;
    return said;
  }, {});
}

afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe("a running Envoy", () => {
  let exporter: Exporter;
  let upstream: Upstream;
  let envoy: RunningEnvoy;
  let stranger: ReturnType<typeof createServer>;
  const files: Record<"lds.yaml" | "cds.yaml", string> = { "lds.yaml": "", "cds.yaml": "" };
  let port = 0;

  const put = (name: keyof typeof files, text: string): void => {
    writeFileSync(join(dir, `${name}.new`), text);
    renameSync(join(dir, `${name}.new`), join(dir, name));
  };
  const send = async (): Promise<void> => {
    const answer = await request(`http://127.0.0.1:${port}/cart`).catch(() => null);
    await answer?.body.dump();
  };

  beforeAll(async () => {
    upstream = await startUpstream();
    exporter = await startExporter({ args: ["--checkpoint-ms", "100"] });
    stranger = createServer((_request, response) => response.end("hello"));
    await new Promise<void>((resolve) => stranger.listen(0, "127.0.0.1", resolve));
    const probe = createServer();
    await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
    port = (probe.address() as AddressInfo).port;
    await new Promise((resolve) => probe.close(resolve));
    await init([
      "envoy",
      "--upstream",
      `127.0.0.1:${upstream.port}`,
      "--exporter",
      exporter.address,
      "--listen",
      `127.0.0.1:${port}`,
      "--admin",
      "127.0.0.1:0",
      "--file-xds",
      "--out",
      dir,
    ]);
    for (const name of ["lds.yaml", "cds.yaml"] as const)
      files[name] = readFileSync(join(dir, name), "utf8");
    envoy = await runEnvoy("envoy.yaml", dir, { args: ["--log-path", join(dir, "envoy.log")] });
    await until(
      async () => (await envoy.listeners()).length > 0,
      () => envoy.log(),
    );
  });

  afterAll(async () => {
    await envoy?.stop();
    await exporter?.stop();
    await upstream?.stop();
    stranger?.close();
    await checkLog(exporter.dir);
  });

  const flags = (): MeshFlags => ({
    watchMs: 2500,
    envoy: envoy.admin,
    envoyLog: join(dir, "envoy.log"),
    exporter: exporter.url,
  });

  test("with nothing wrong has nothing bad said of it", async () => {
    for (let i = 0; i < 5; i++) await send();
    await receipted(envoy, 5);
    const said = await diagnose(flags());
    expect(Object.entries(said).filter(([, text]) => !text.startsWith("good"))).toEqual([]);
    expect(said["batches are receipted"]).toContain("entries are receipted");
  });

  test("capabilities are read where Envoy 1.40 wants them", async () => {
    const lds: unknown = parse(files["lds.yaml"]);
    walk(lds, (object) => {
      const { vm_config: vm, capability_restriction_config: list } = object;
      if (!isObject(vm) || list === undefined) return;
      vm["capability_restriction_config"] = list;
      delete object["capability_restriction_config"];
    });
    put("lds.yaml", stringify(lds));
    let said: Record<string, string> = {};
    await until(
      async () => {
        await send();
        const dump = JSON.parse(await envoy.page("/config_dump"));
        let isMoved = false;
        walk(dump, (object) => {
          isMoved ||= objectAt(object["vm_config"], "capability_restriction_config") !== null;
        });
        said = await diagnose(flags());
        return isMoved && said["batches are receipted"]?.startsWith("good") === true;
      },
      () => JSON.stringify(said, null, 1),
    );
    expect(said["capabilities"]).toMatch(/^good: meshseal: just the \d+ that the module uses/);
    put("lds.yaml", files["lds.yaml"]);
  }, 180_000);

  const module = (): string => /filename: (\S+\.wasm)/.exec(files["lds.yaml"])?.[1] ?? "";

  test.each<[string, keyof typeof files, (text: string) => string, string, string]>([
    [
      "a module that is not there",
      "lds.yaml",
      (text) => text.replace(module(), "/nowhere/filter.wasm"),
      "the filter is loaded",
      "Envoy refused it",
    ],
    [
      "settings that the filter refuses",
      "lds.yaml",
      (text) => text.replace("bounded-loss", "always"),
      "the filter is loaded",
      "meshseal: configuration refused",
    ],
    [
      "no filter",
      "lds.yaml",
      (text) =>
        text.replaceAll(/- name: meshseal\n[\s\S]*?(?=- name: envoy.filters.http.router)/g, ""),
      "the filter is loaded",
      "no listener of this Envoy has a Meshseal filter",
    ],
    [
      "a cluster that is not there",
      "lds.yaml",
      (text) => text.replace('"cluster":"meshseal"', '"cluster":"mesh-seal"'),
      "the exporter's cluster",
      'Envoy has no cluster "mesh-seal"',
    ],
    [
      "a capability that is missing",
      "lds.yaml",
      (text) => text.replace(/ *proxy_http_call: \{\}\n/, ""),
      "capabilities",
      "lacks proxy_http_call",
    ],
    [
      "two capabilities that are missing",
      "lds.yaml",
      (text) => text.replace(/ *random_get: \{\}\n/, "").replace(/ *proxy_on_log: \{\}\n/, ""),
      "capabilities",
      "such a call fails silently. Add them",
    ],
    [
      "FAIL_OPEN",
      "lds.yaml",
      (text) => text.replace("FAIL_RELOAD", "FAIL_OPEN"),
      "what happens after a trap",
      "lets every request through unrecorded",
    ],
    [
      "a module of another version",
      "lds.yaml",
      (text) => text.replace(/("moduleDigest":")[0-9a-f]{64}/, `$1${"0".repeat(64)}`),
      "the filter's settings",
      "another version is in use",
    ],
    [
      "an exporter that does not listen",
      "cds.yaml",
      (text) => text.replace(exporter.address.split(":")[1] ?? "", "1"),
      "batches are receipted",
      "no connection to the exporter",
    ],
    [
      "something that is no exporter",
      "cds.yaml",
      (text) =>
        text.replace(
          exporter.address.split(":")[1] ?? "",
          String((stranger.address() as AddressInfo).port),
        ),
      "batches are receipted",
      "Is it a Meshseal exporter?",
    ],
    [
      "TLS that the exporter does not speak",
      "cds.yaml",
      withTls,
      "batches are receipted",
      "TLS with the exporter fails",
    ],
    [
      "a cluster without endpoints",
      "cds.yaml",
      (text) => text.replace(/(cluster_name: meshseal\n *)endpoints:[\s\S]*$/, "$1endpoints: []\n"),
      "the exporter's cluster",
      "has no endpoint",
    ],
  ])(
    "with %s is told so",
    async (_what, file, change, check, sentence) => {
      const changed = change(files[file]);
      expect(changed).not.toBe(files[file]);
      put(file, changed);
      let said: Record<string, string> = {};
      await until(
        async () => {
          await send();
          said = await diagnose(flags());
          return said[check]?.includes(sentence) === true;
        },
        () =>
          `${JSON.stringify(said, null, 1)}\n${readFileSync(join(dir, "envoy.log"), "utf8").slice(-1500)}`,
      );
      put(file, files[file]);
      await until(
        async () => {
          await send();
          said = await diagnose(flags());
          return Object.values(said).every((text) => !/^bad/.test(text));
        },
        () => JSON.stringify(said, null, 1),
      );
    },
    180_000,
  );
});

test("addresses where nothing is, or something else", async () => {
  const said = await diagnose({ envoy: "http://127.0.0.1:1", exporter: "http://127.0.0.1:1" });
  expect(said["Envoy answers"]).toContain("no Envoy's admin address at http://127.0.0.1:1");
  expect(said["the exporter answers"]).toContain("nothing listens at http://127.0.0.1:1");
  await expect(meshChecks({ envoy: "127.0.0.1:9901" })).rejects.toThrow("must be like http://");
});

describe("manifests", () => {
  const istio = async (...args: string[]): Promise<string> =>
    init(["istio", "--image", "r.example/a", ...args]);
  const judge = async (...texts: string[]): Promise<Record<string, string>> => {
    const manifest = texts.map((text, i) => {
      const file = join(dir, `manifest-${i}.yaml`);
      writeFileSync(file, text);
      return file;
    });
    return diagnose({ manifest });
  };
  const isBad = (said: Record<string, string>): string =>
    Object.values(said)
      .filter((text) => /^(bad|warning)/m.test(text))
      .join("\n");
  const SERVICE =
    "apiVersion: v1\nkind: Service\nmetadata: { name: meshseal, namespace: meshseal-system }\nspec: { ports: [{ port: 7700 }] }\n";

  const GATEWAY = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge, namespace: shop }
spec:
  gatewayClassName: envoy
  infrastructure: { parametersRef: { group: gateway.envoyproxy.io, kind: EnvoyProxy, name: meshseal } }
`;

  test.each(EXAMPLES.filter(([file]) => !file.endsWith("mesh-config.yaml")))(
    "%s has nothing bad said of it",
    async (file) => {
      expect(
        Object.values(await diagnose({ manifest: [file] })).filter((text) => /^bad/m.test(text)),
      ).toEqual([]);
    },
  );

  test.each<[string, readonly string[], string | RegExp, string, string]>([
    ["no digest", [], /\n *sha256: "0+"/, "", "whoever can move the tag"],
    ["FAIL_OPEN", [], "FAIL_RELOAD", "FAIL_OPEN", "lets every request through unrecorded"],
    [
      "an unknown cluster's form",
      [],
      "outbound|7700||meshseal.meshseal-system.svc.cluster.local",
      "meshseal",
      "is no name that Istio gives",
    ],
    ["another port than the Service's", [], "outbound|7700", "outbound|7701", "has no port 7701"],
    [
      "another host than the Service's",
      [],
      "|meshseal.meshseal-system",
      "|audit.meshseal-system",
      "is audit.meshseal-system.svc.cluster.local",
    ],
    [
      "no exclusion of the exporter's sidecar",
      [],
      /---\n[\s\S]*/,
      "",
      "for the whole mesh, and nothing takes it out",
    ],
    [
      "a match at a waypoint",
      ["--gateway", "shop/waypoint"],
      "  targetRefs:",
      "  match: [{ mode: CLIENT }]\n  targetRefs:",
      "one of them never records",
    ],
    [
      "SERVER at a gateway",
      ["--gateway-label", "a/istio=ingressgateway"],
      "  selector:",
      "  match: [{ mode: SERVER }]\n  selector:",
      "a gateway counts as CLIENT",
    ],
    [
      "both sides of a sidecar",
      ["--namespace", "shop"],
      "  match:\n    - mode: SERVER\n",
      "",
      "recorded by both sides",
    ],
    [
      "a verification key",
      ["--namespace", "shop"],
      "    type: HTTP",
      "    verificationKey: x\n    type: HTTP",
      "Istio never implemented it",
    ],
    [
      "selector and targetRefs",
      ["--gateway", "shop/edge"],
      "  targetRefs:",
      "  selector: { matchLabels: { a: b } }\n  targetRefs:",
      "exclude each other",
    ],
  ])("Istio: %s is found", async (_what, args, from, to, sentence) => {
    const text = await istio(...args);
    expect(text).toMatch(from);
    expect(isBad(await judge(text.replace(from, to), SERVICE))).toContain(sentence);
  });

  test("Istio: the same requests recorded twice, and a provider that is not there", async () => {
    expect(isBad(await judge(await istio(), await istio("--namespace", "shop")))).toContain(
      "recorded twice",
    );
    expect(isBad(await judge(await istio(), await istio("--istio-version", "1.29")))).toContain(
      "a WasmPlugin and a TrafficExtension are both there",
    );
    const telemetry =
      "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: { name: t }\nspec: { accessLogging: [{ providers: [{ name: meshsael }] }] }\n";
    expect(isBad(await judge(telemetry, await istio("--mesh-config")))).toContain(
      'the provider "meshsael" is in no extensionProviders',
    );
    expect(
      isBad(await judge(telemetry.replace("meshsael", "meshseal"), await istio("--mesh-config"))),
    ).toBe("");
  });

  test.each<[string, string | RegExp, string, string]>([
    ["failOpen", "failOpen: false", "failOpen: true", "requests pass unrecorded"],
    [
      "no cluster in the bootstrap",
      "name: meshseal\n            type: STRICT_DNS",
      "name: other\n            type: STRICT_DNS",
      'no EnvoyProxy in these files adds the cluster "meshseal"',
    ],
    [
      "no EnvoyProxy",
      /---\n# The exporter's cluster[\s\S]*/,
      "",
      "must be in the bootstrap of an EnvoyProxy",
    ],
    ["no digest", /\n *sha256: "\w+"/, "", "whoever can move the tag"],
    ["no target", /targetRefs:\n.*\n.*\n.*\n/, "targetRefs: []\n", "it targets nothing"],
    [
      "a file's address without a digest",
      /type: Image\n *image:\n *url: .*\n *sha256: .*\n/,
      "type: HTTP\n        http: { url: http://files.example/filter.wasm }\n",
      "Envoy refuses a module from an http address without it",
    ],
    [
      "the module's digest for an image",
      /sha256: "\w+"/,
      'sha256: "MODULE"',
      "for an image it must be that of the image's manifest",
    ],
    ["enforced by the plain build", '"bounded-loss"', '"enforced"', "the build that cannot refuse"],
    ["no moduleDigest", /\n *moduleDigest: .*/, "", "will not say which module made it"],
    ["a policy in another namespace", "namespace: shop", "namespace: bank", "does nothing"],
    ["a target that is not there", "name: edge", "name: egde", "there is no Gateway shop/egde"],
    [
      "an EnvoyProxy that no Gateway names",
      /kind: EnvoyProxy\nmetadata:\n {2}name: meshseal/,
      "kind: EnvoyProxy\nmetadata:\n  name: other",
      "its proxies do not get the cluster",
    ],
    [
      "certificates that are not mounted",
      "mountPath: /meshseal-tls",
      "mountPath: /tls",
      "mounts nothing there: TLS with the exporter fails",
    ],
  ])("Envoy Gateway: %s is found", async (_what, from, to, sentence) => {
    const image = ["--image", "r.example/a", "--gateway", "shop/edge", "--tls"];
    let text = "";
    const command = initCommand((printed) => {
      text += printed;
    });
    await command.parseAsync(["envoy-gateway", ...image], { from: "user" });
    expect(isBad(await judge(text, GATEWAY))).toBe("");
    expect(text).toMatch(from);
    const { sha256 } = await readModule();
    const broken = text.replace(from, to).replaceAll("MODULE", sha256);
    expect(isBad(await judge(broken, GATEWAY))).toContain(sentence);
  });

  test("what is no YAML, or about something else", async () => {
    await expect(judge("a: [")).rejects.toThrow("is no YAML");
    expect(isBad(await judge(SERVICE))).toContain(
      "nothing in these files is about a Meshseal filter",
    );
    await expect(diagnose({ manifest: ["/nowhere.yaml"] })).rejects.toThrow("cannot be read");
    const bomb = `a: &a [x,x,x,x,x,x,x,x,x,x]\n${[..."bcdefghi"].map((c, i) => `${c}: &${c} [${Array.from({ length: 10 }, () => `*${"abcdefghi"[i]}`).join(",")}]`).join("\n")}\n`;
    await expect(judge(bomb)).rejects.toThrow(/alias/i);
  });
});

test("nothing that an admin address or a manifest says breaks the search", () => {
  const strange = fc.letrec((tie) => ({
    value: fc.oneof(
      { maxDepth: 6 },
      fc.constantFrom(
        null,
        0,
        "",
        "meshseal",
        "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
        "{",
        '{"cluster":1}',
      ),
      fc.array(tie("value"), { maxLength: 4 }),
      fc.dictionary(
        fc.constantFrom(
          "@type",
          "config",
          "configuration",
          "value",
          "vm_config",
          "code",
          "local",
          "name",
          "clusters",
          "cluster",
          "resources",
          "error_state",
          "details",
          "static_clusters",
          "capability_restriction_config",
          "allowed_capabilities",
        ),
        tie("value"),
        { maxKeys: 5 },
      ),
    ),
  })).value;
  fc.assert(
    fc.property(strange, (value) => {
      findPlugins(value);
      findClusters(value);
      findRefusals(value);
      hasDefaultDeny(value);
      parseAllDocuments(JSON.stringify(value));
    }),
    { numRuns: 500 },
  );
});
