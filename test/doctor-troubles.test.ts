/** What doctor says of troubles that need an Envoy or an exporter of their own: no right to write, no entries, old certificates, wrong clocks. */
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { request } from "undici";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { runChecks } from "../exporter/doctor/check.ts";
import { type MeshFlags, meshChecks } from "../exporter/doctor/mesh.ts";
import { startUpstream, type Upstream } from "../scripts/demo/upstream.ts";
import { init } from "../scripts/manifests.ts";
import { makeAuthority } from "./support/certificates.ts";
import { type Exporter, type ExporterOptions, startExporter } from "./support/exporter.ts";
import { type RunningEnvoy, runEnvoy, until } from "./support/run-envoy.ts";

const HOUR_MS = 3_600_000;

let upstream: Upstream;
beforeAll(async () => {
  upstream = await startUpstream();
});
afterAll(() => upstream.stop());

function scratch(): string {
  const dir = mkdtempSync(join(tmpdir(), "meshseal-troubles-"));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

async function exporterWith(options: ExporterOptions): Promise<Exporter> {
  const exporter = await startExporter(options);
  onTestFinished(async () => {
    await exporter.stop();
  });
  return exporter;
}

/** An Envoy as init writes it, with one change, after `count` requests. */
async function envoyWith(
  exporter: Exporter,
  count: number,
  change: (text: string) => string = (text) => text,
): Promise<RunningEnvoy> {
  const dir = scratch();
  await init([
    "envoy",
    "--upstream",
    `127.0.0.1:${upstream.port}`,
    "--exporter",
    exporter.address,
    "--listen",
    "127.0.0.1:0",
    "--admin",
    "127.0.0.1:0",
    "--out",
    dir,
  ]);
  const file = join(dir, "envoy.yaml");
  writeFileSync(`${file}.new`, change(readFileSync(file, "utf8")));
  renameSync(`${file}.new`, file);
  const envoy = await runEnvoy(file, dir);
  onTestFinished(async () => {
    await envoy.stop();
  });
  let address: string | undefined;
  await until(
    async () => {
      [address] = await envoy.listeners();
      return address !== undefined;
    },
    () => envoy.log(),
  );
  for (let i = 0; i < count; i++) {
    const answer = await request(`http://${address}/cart/${i}`);
    await answer.body.dump();
    expect(answer.statusCode).toBe(200);
  }
  return envoy;
}

async function diagnose(flags: MeshFlags): Promise<Record<string, string>> {
  const results = await runChecks(await meshChecks({ watchMs: 5000, ...flags }));
  return Object.fromEntries(
    results.map(({ name, status, message }) => [name, `${status}: ${message}`]),
  );
}

async function page(answer: RequestListener): Promise<string> {
  const server = createServer(answer);
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  onTestFinished(() => {
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

test("an exporter that lets this proxy not write", async () => {
  const dir = scratch();
  const access = join(dir, "access.json");
  writeFileSync(access, JSON.stringify({ write: ["spiffe://cluster.local/ns/shop/*"] }));
  const exporter = await exporterWith({ args: ["--access", access] });
  const envoy = await envoyWith(exporter, 3);
  const said = await diagnose({ envoy: envoy.admin, exporter: exporter.url });
  expect(said["batches are receipted"]).toMatch(
    /^bad: meshseal: \d+ entries wait: the exporter answers 403/,
  );
  expect(said["every request is an entry"]).toMatch(/^good/);
});

test("no entries though Envoy counts requests", async () => {
  const exporter = await exporterWith({});
  const envoy = await envoyWith(exporter, 3, (text) => {
    const changed = text.replace(/ *proxy_on_log: \{\}\n/, "");
    expect(changed).not.toBe(text);
    return changed;
  });
  const said = await diagnose({ envoy: envoy.admin });
  expect(said["every request is an entry"]).toMatch(
    /^bad: Envoy counted 3 requests, and the filter (made no entry|none)/,
  );
  expect(said["capabilities"]).toContain("lacks proxy_on_log");
});

test.each([
  ["that has ended", -2 * HOUR_MS, -HOUR_MS, /^bad: it ended on .*no proxy sends any more/],
  ["that has not begun", HOUR_MS, 2 * HOUR_MS, /^bad: it begins only on .*is a clock wrong/],
  ["that ends soon", -HOUR_MS, 30 * HOUR_MS, /^warning: it ends in 1\.[23] days/],
])("an exporter's certificate %s", async (_what, from, to, sentence) => {
  const dir = scratch();
  const authority = await makeAuthority();
  const now = Date.now();
  const { cert, key } = await authority.issue({ dns: ["localhost"] }, "exporter", {
    notBefore: new Date(now + from),
    notAfter: new Date(now + to),
  });
  const files = { cert, key, ca: authority.cert };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text);
  const tls = ["--tls-cert", join(dir, "cert"), "--tls-key", join(dir, "key")];
  const exporter = await exporterWith({ args: tls });
  const said = await diagnose({
    exporter: `https://${exporter.address.replace("127.0.0.1", "localhost")}`,
    ca: join(dir, "ca"),
  });
  expect(said["the exporter's certificate"]).toMatch(sentence);
});

test.each([
  [90_000, /^bad: it is \d+ s ahead of this machine's/],
  [-90_000, /^bad: it is \d+ s behind this machine's/],
  [-20_000, /^warning: it is \d+\.\d s behind this machine's/],
])("clocks that are off by %d ms", async (off, sentence) => {
  // Pages as an Envoy and an exporter with such a clock would give them.
  const url = await page((asked, answer) => {
    answer.sendDate = false;
    answer.setHeader("date", new Date(Date.now() + off).toUTCString());
    const isReady = asked.url === "/readyz";
    answer.end(
      isReady ? JSON.stringify({ reasons: [], timeMs: Date.now() + off }) : '{"state":"LIVE"}',
    );
  });
  const said = await diagnose({ envoy: url, exporter: url });
  expect(said["Envoy's clock"]).toMatch(sentence);
  expect(said["the exporter's clock"]).toMatch(sentence);
});
