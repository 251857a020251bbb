/** The plain filter: one entry for each request, made when its stream ends. The exports are Proxy-Wasm 0.2.1. */
import { proxy_set_tick_period_milliseconds } from "@solo-io/proxy-runtime/assembly/imports";
import "./abort";
import * as buffer from "./buffer";
import * as chain from "./chain";
import { parseConfig, problem } from "./config";
import * as facts from "./facts";
import * as host from "./host";
import * as metrics from "./metrics";
import * as outbox from "./outbox";
import { sha256 } from "./sha256";

/** The newest root context: the one that sends. */
let root: u32 = 0;

export function proxy_abi_version_0_2_1(): void {}

export function proxy_on_memory_allocate(bytes: usize): usize {
  return host.allocate(bytes);
}

export function proxy_on_vm_start(_root: u32, _bytes: u32): u32 {
  return 1;
}

export function proxy_on_context_create(_context: u32, _parent: u32): void {}

/** Runs several times, also in VMs that are thrown away: nothing is opened or sent here. */
export function proxy_on_configure(context: u32, bytes: u32): u32 {
  host.begin();
  if (!host.configuration(bytes)) {
    host.log(host.ERROR, "meshseal: the configuration cannot be read");
    return 0;
  }
  const config = parseConfig();
  if (config === null) {
    host.log(host.ERROR, "meshseal: configuration refused: " + problem);
    return 0;
  }
  sha256(host.data, bytes, chain.CONFIG_DIGEST);
  metrics.define();
  buffer.resize(config.bufferBytes);
  chain.configure(config);
  outbox.configure(config, context);
  facts.prepare();
  if (proxy_set_tick_period_milliseconds(config.tickMs) !== host.OK) {
    host.log(
      host.ERROR,
      "meshseal: the host gives no ticks: allow proxy_set_tick_period_milliseconds",
    );
    return 0;
  }
  root = context;
  return 1;
}

export function proxy_on_log(_context: u32): void {
  host.begin();
  outbox.poke(facts.record());
}

export function proxy_on_tick(context: u32): void {
  // An older root ticks on until its listener has drained.
  if (context !== root) return;
  host.begin();
  const now = chain.time();
  chain.tick(now);
  outbox.send(now);
}

export function proxy_on_http_call_response(
  _context: u32,
  token: u32,
  headers: u32,
  _body: u32,
  _trailers: u32,
): void {
  host.begin();
  outbox.answered(token, headers, chain.time());
}

export function proxy_on_done(context: u32): u32 {
  if (context === root) chain.seal("seal");
  return 1;
}

export function proxy_on_delete(_context: u32): void {}
