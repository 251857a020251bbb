/** What tests of the filter in a real Envoy share: bootstraps with other settings, listener updates, requests, recovery. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer, type ServerResponse } from "node:http";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Agent, request } from "undici";
import { onTestFinished } from "vitest";
import {
  type Bootstrap,
  type Envoy,
  type EnvoyOptions,
  startEnvoy,
} from "../../scripts/demo/envoy.ts";

/** The Wasm filter's `config` in a listener. */
export function wasmOf(listener: Bootstrap): Bootstrap {
  const [{ filters }] = listener.filter_chains;
  const [{ typed_config: manager }] = filters;
  return manager.http_filters.find(({ name }: { name: string }) => name === "meshseal").typed_config
    .config;
}

export type Plugin = {
  readonly config?: Readonly<Record<string, unknown>>;
  /** Path of the module; build/filter.wasm if absent. */
  readonly module?: string;
  readonly policy?: string;
  readonly vmId?: string;
  /** Host variables that the VM may see. */
  readonly variables?: readonly string[];
};

/** Changes the plugin of a listener. */
export function plug(listener: Bootstrap, plugin: Plugin): void {
  const wasm = wasmOf(listener);
  if (plugin.config !== undefined) wasm.configuration.value = JSON.stringify(plugin.config);
  if (plugin.module !== undefined) wasm.vm_config.code.local.filename = plugin.module;
  if (plugin.policy !== undefined) wasm.failure_policy = plugin.policy;
  if (plugin.vmId !== undefined) wasm.vm_config.vm_id = plugin.vmId;
  if (plugin.variables !== undefined)
    wasm.vm_config.environment_variables = { host_env_keys: plugin.variables };
  if (plugin.module?.endsWith("filter.wasm") === false) {
    const allowed = wasm.capability_restriction_config.allowed_capabilities;
    for (const name of ["proxy_on_request_headers", "proxy_send_local_response"])
      allowed[name] = {};
  }
}

/** Moves the listener of a bootstrap into a file that Envoy watches, and returns how to replace it. */
export function byFile(bootstrap: Bootstrap, dir: string, port: number): (plugin: Plugin) => void {
  const [listener] = bootstrap.static_resources.listeners;
  bootstrap.static_resources.listeners = [];
  bootstrap.node = { id: "test", cluster: "test" };
  const path = join(dir, "listeners.json");
  bootstrap.dynamic_resources = {
    lds_config: { path_config_source: { path, watched_directory: { path: dir } } },
  };
  listener.address.socket_address.port_value = port;
  let version = 0;
  const write = (plugin: Plugin): void => {
    plug(listener, plugin);
    version++;
    const type = "type.googleapis.com/envoy.config.listener.v3.Listener";
    const resources = [{ "@type": type, ...listener }];
    writeFileSync(`${path}.new`, JSON.stringify({ version_info: String(version), resources }));
    renameSync(`${path}.new`, path);
  };
  write({});
  return write;
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((done) => server.once("listening", done));
  const address = server.address();
  await new Promise((done) => server.close(done));
  return typeof address === "object" && address !== null ? address.port : 0;
}

/** Starts an Envoy in a directory of its own, which is removed with it after the test. */
export async function testEnvoy(
  options: Omit<EnvoyOptions, "dir">,
  dir: string = testDir(),
): Promise<Envoy> {
  const envoy = await startEnvoy({ ...options, dir });
  onTestFinished(() => envoy.stop());
  return envoy;
}

export function testDir(): string {
  const dir = mkdtempSync(join(tmpdir(), "meshseal-lifecycle-"));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/** Sends `count` requests over some connections. Returns the statuses, 0 for no answer. */
export async function fire(port: number, path: string, count: number): Promise<number[]> {
  const agent = new Agent({ connections: 8 });
  const one = async (i: number): Promise<number> => {
    try {
      const answer = await request(`http://127.0.0.1:${port}${path}/${i}`, { dispatcher: agent });
      await answer.body.dump();
      return answer.statusCode;
    } catch {
      return 0;
    }
  };
  const statuses = await Promise.all(Array.from({ length: count }, (_, i) => one(i)));
  await agent.close();
  return statuses;
}

/** Waits until something holds. Throws with `what` if it takes longer than any loaded machine needs. */
export async function until(what: string, holds: () => Promise<boolean> | boolean): Promise<void> {
  const end = Date.now() + 60_000;
  while (Date.now() < end) {
    if (await holds()) return;
    await sleep(100);
  }
  throw new Error(`still not so after a minute: ${what}`);
}

/** Runs `meshseal` as a user does. */
export function meshseal(...args: string[]): {
  status: number | null;
  stdout: string;
  stderr: string;
} {
  const run = spawnSync(process.execPath, ["scripts/meshseal.mjs", ...args], { encoding: "utf8" });
  return { status: run.status, stdout: run.stdout, stderr: run.stderr };
}

/** What a proxy before the exporter does: an Envoy's 503, no answer, a foreign 500, a cut connection, or its work. */
export type Mode = "refuse" | "slow" | "wrong" | "cut" | "on";

export type Between = { readonly port: number; mode: Mode; readonly seen: Mode[] };

/** Starts a proxy before `target`, which goes with the test. */
export async function startBetween(target: string, mode: Mode): Promise<Between> {
  const held: ServerResponse[] = [];
  const server = createHttpServer((incoming, outgoing) => {
    const parts: Buffer[] = [];
    incoming.on("data", (part: Buffer) => parts.push(part));
    incoming.on("end", async () => {
      between.seen.push(between.mode);
      if (between.mode === "cut") return void incoming.socket.destroy();
      if (between.mode === "slow") return void held.push(outgoing);
      if (between.mode === "wrong") return void outgoing.writeHead(500).end("no");
      if (between.mode === "refuse") return void outgoing.writeHead(503).end();
      const { host: _, connection: __, ...headers } = incoming.headers;
      const body = Buffer.concat(parts);
      try {
        const answer = await request(`${target}${incoming.url}`, { method: "POST", headers, body });
        outgoing.writeHead(answer.statusCode, answer.headers).end(await answer.body.text());
      } catch {
        outgoing.writeHead(502).end();
      }
    });
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  const between: Between = { port: (server.address() as AddressInfo).port, mode, seen: [] };
  return between;
}
