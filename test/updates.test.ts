/** Files of xDS that change while requests come: what is answered through the filter is an entry, and nothing restarts. */
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Agent, request } from "undici";
import { expect, onTestFinished, test } from "vitest";
import { parse, stringify } from "yaml";
import { findPlugins } from "../exporter/doctor/plugins.ts";
import { bytesOf } from "../record/codec.ts";
import { F_PATH } from "../record/fields.ts";
import { startUpstream } from "../scripts/demo/upstream.ts";
import { FILE_XDS, fileXds } from "../scripts/manifests.ts";
import { type Exporter, startExporter } from "./support/exporter.ts";
import { checkLog, entriesOf } from "./support/log.ts";
import { freePort, meshseal } from "./support/mesh.ts";
import { type RunningEnvoy, runEnvoy, until } from "./support/run-envoy.ts";

type Xds = {
  readonly envoy: RunningEnvoy;
  readonly exporter: Exporter;
  readonly port: number;
  readonly lds: string;
  /** Moves a changed file into place, as Envoy wants it. */
  readonly put: (name: string, text: string) => void;
  readonly settings: () => Promise<Record<string, unknown> | null | undefined>;
};

/** The committed example with addresses of this test. Its answers say that they went through a listener that records. */
async function start(
  change: (lds: string) => Record<string, string> = (lds) => ({ "lds.yaml": lds }),
): Promise<Xds> {
  const dir = mkdtempSync(join(tmpdir(), "meshseal-updates-"));
  const upstream = await startUpstream();
  const exporter = await startExporter({ args: ["--checkpoint-ms", "100"] });
  const port = await freePort();
  const read = (name: string): string => readFileSync(join(FILE_XDS, name), "utf8");
  const lds = read("lds.yaml")
    .replace("port_value: 10000", `port_value: ${port}`)
    .replace("../../build", resolve("build"))
    .replace(
      "route_config:\n",
      "$&                response_headers_to_add: [{ header: { key: x-recorded, value: meshseal } }]\n",
    );
  const cds = read("cds.yaml")
    .replace("port_value: 8080", `port_value: ${upstream.port}`)
    .replace("port_value: 7700", `port_value: ${new URL(exporter.url).port}`);
  const put = (name: string, text: string): void => {
    writeFileSync(join(dir, `${name}.new`), text);
    renameSync(join(dir, `${name}.new`), join(dir, name));
  };
  put("envoy.yaml", read("envoy.yaml").replace("port_value: 9901", "port_value: 0"));
  put("cds.yaml", cds);
  for (const [name, text] of Object.entries(change(lds))) put(name, text);
  const envoy = await runEnvoy("envoy.yaml", dir);
  onTestFinished(async () => {
    await envoy.stop();
    await exporter.stop();
    await upstream.stop();
    rmSync(dir, { recursive: true, force: true });
  });
  await until(
    async () => (await envoy.listeners()).length > 0,
    () => envoy.log(),
  );
  const settings: Xds["settings"] = async () =>
    findPlugins(JSON.parse(await envoy.page("/config_dump?include_eds")))[0]?.settings;
  return { envoy, exporter, port, lds, put, settings };
}

/** Requests without a pause until `stop`, which resolves to the paths that were answered through a recording listener. */
function traffic(
  { port }: Xds,
  under: string,
): { stop: () => Promise<string[]>; sent: () => number } {
  const recorded: string[] = [];
  let sent = 0;
  let isOver = false;
  const agent = new Agent({ connections: 8, pipelining: 1 });
  const one = async (): Promise<void> => {
    while (!isOver) {
      const path = `/${under}/${sent++}`;
      const answer = await request(`http://127.0.0.1:${port}${path}`, { dispatcher: agent }).catch(
        () => null,
      );
      await answer?.body.dump().catch(() => undefined);
      if (answer?.statusCode === 200 && answer.headers["x-recorded"] === "meshseal")
        recorded.push(path);
    }
  };
  const all = Promise.all(Array.from({ length: 4 }, one));
  return {
    sent: () => sent,
    stop: async () => {
      isOver = true;
      await all;
      await agent.close();
      return recorded;
    },
  };
}

/** Stops all, checks the log, and returns which of these paths have no entry, and how many requests the gaps count. */
async function missing(
  { envoy, exporter }: Xds,
  paths: readonly string[],
): Promise<{ missing: string[]; gaps: number }> {
  await envoy.stop();
  await exporter.stop();
  const report = await checkLog(exporter.dir);
  const held = new Set(
    entriesOf(exporter.dir).map((entry) => Buffer.from(bytesOf(entry, F_PATH) ?? []).toString()),
  );
  return { missing: paths.filter((path) => !held.has(path)), gaps: report.gaps.count };
}

const more = (load: { sent: () => number }, count: number): Promise<void> => {
  const from = load.sent();
  return until(
    () => load.sent() >= from + count,
    () => `${load.sent()} were sent`,
  );
};

test("the example of file xDS is what init writes", async () => {
  for (const [name, text] of await fileXds())
    expect(readFileSync(join(FILE_XDS, name), "utf8"), name).toBe(text);
});

test("a changed file is taken under load without a restart, and a filter that goes away takes nothing with it", async () => {
  const xds = await start();
  const { envoy, lds, put, settings } = xds;
  const load = traffic(xds, "files");
  await more(load, 200);
  put("lds.yaml", lds.replace("bounded-loss", "best-effort"));
  await until(
    async () => (await settings())?.["delivery"] === "best-effort",
    () => envoy.log().slice(-1500),
  );
  await more(load, 200);
  // Without the filter, and without the word that says so.
  const without = lds
    .replaceAll(/- name: meshseal\n[\s\S]*?(?=- name: envoy.filters.http.router)/g, "")
    .replace(/ *response_headers_to_add: .*\n/, "");
  put("lds.yaml", without);
  await until(
    async () => (await settings()) === undefined,
    () => envoy.log().slice(-1500),
  );
  await more(load, 200);
  // The old listener has drained when its VMs have ended.
  await until(
    async () => [...(await envoy.stats("^wasm.envoy.wasm.runtime.v8.active$")).values()][0] !== 3,
    () => envoy.log().slice(-1500),
  );
  const paths = await load.stop();
  expect(paths.length).toBeGreaterThan(400);
  expect(await missing(xds, paths)).toEqual({ missing: [], gaps: 0 });
}, 180_000);

/** As Istio sends it: the listener names the filter, and its configuration is a resource of its own. */
function byExtensionDiscovery(lds: string): Record<string, string> {
  const file = parse(lds);
  const { http_filters: filters } = file.resources[0].filter_chains[0].filters[0].typed_config;
  const at = filters.findIndex(({ name }: { name: string }) => name === "meshseal");
  const { typed_config } = filters[at];
  filters[at] = {
    name: "meshseal",
    config_discovery: {
      config_source: { path_config_source: { path: "./ecds.yaml" }, resource_api_version: "V3" },
      type_urls: ["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"],
    },
  };
  const type = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
  return {
    "lds.yaml": stringify(file),
    "ecds.yaml": stringify({ resources: [{ "@type": type, name: "meshseal", typed_config }] }),
  };
}

/** What the VMs said at their end: entries that no receipt covers, those of a VM that went away while Envoy goes on. */
function unreceipted(log: string): number {
  const seals = [...log.matchAll(/meshseal seal chain=\S+ .*unreceipted=(\d+) missed=(\d+)/g)];
  expect(seals.every(([, , missed]) => missed === "0")).toBe(true);
  return seals.reduce((sum, [, count]) => sum + Number(count), 0);
}

const toBestEffort = (ecds: string): string => ecds.replace("bounded-loss", "best-effort");
const toOtherCode = (ecds: string): string =>
  toBestEffort(ecds).replace("filter.wasm", "enforce.wasm");
const toSpill = (ecds: string): string => ecds.replace('"cluster"', '"spill":true,"cluster"');

test.each([
  ["new settings", toBestEffort, (ecds: string) => ecds],
  ["new code", toOtherCode, (ecds: string) => ecds],
  ["new code, and spill", toOtherCode, toSpill],
])(
  "%s by extension discovery under load: a VM that ends leaves what it has to the next one",
  async (what, change, before) => {
    let ecds = "";
    const xds = await start((lds) => {
      const files = byExtensionDiscovery(lds);
      ecds = before(files["ecds.yaml"] ?? "");
      return { ...files, "ecds.yaml": ecds };
    });
    const { envoy, exporter } = xds;
    const load = traffic(xds, "extension");
    await more(load, 300);
    xds.put("ecds.yaml", change(ecds));
    await until(
      async () => (await xds.settings())?.["delivery"] === "best-effort",
      () => envoy.log().slice(-1500),
    );
    await more(load, 300);
    const paths = await load.stop();
    let counts = "";
    await until(
      async () => {
        const found = await envoy.stats("^wasmcustom\\.meshseal_(entries|receipted_entries)$");
        counts = JSON.stringify([...found]);
        const [made = 0, receipts = 0] = ["entries", "receipted_entries"].map((name) =>
          found.get(`wasmcustom.meshseal_${name}`),
        );
        return made > 0 && made === receipts;
      },
      () => `${counts}\n${envoy.log().slice(-3000)}`,
    );
    // What a seal counts is what was left: it came home all the same.
    const left = unreceipted(envoy.log());
    if (what === "new settings") expect(left).toBe(0);
    const log = join(exporter.dir, "envoy.log");
    writeFileSync(log, envoy.log());
    if (what === "new code, and spill") {
      const recovered = meshseal("recover", log, "--to", exporter.url, "--json");
      expect(recovered.status, recovered.stderr).toBe(0);
    }
    expect(await missing(xds, paths)).toEqual({ missing: [], gaps: 0 });
  },
  180_000,
);
