/**
 * The callbacks that all builds share: configuration, ticks, answers, the end. The exports are Proxy-Wasm 0.2.1. What
 * Envoy does when is in docs/filter.md.
 */
import { proxy_set_tick_period_milliseconds } from "@solo-io/proxy-runtime/assembly/imports";
import { DIGEST_BYTES } from "../record/fields";
import * as buffer from "./buffer";
import * as chain from "./chain";
import { Config, parseConfig, problem } from "./config";
import * as connection from "./connection";
import * as connections from "./connections";
import * as delivery from "./delivery";
import * as facts from "./facts";
import * as heir from "./heir";
import * as host from "./host";
import * as metrics from "./metrics";
import * as outbox from "./outbox";
import * as seal from "./seal";
import { sha256 } from "./sha256";
import * as signer from "./signer";
import * as streams from "./streams";
import * as watch from "./watch";

/** A root context: a configuration of the plugin, with its digest, in use or draining. */
class Root {
  context: u32;
  config: Config;
  digest: usize = heap.alloc(DIGEST_BYTES);
  constructor(context: u32, config: Config) {
    this.context = context;
    this.config = config;
  }
}

/** Those of this VM that live, the one in force last: it sends. */
const MAX_ROOTS: i32 = 64;
const ROOTS: StaticArray<Root> = new StaticArray<Root>(MAX_ROOTS);
let roots: i32 = 0;

/** Changes to a root that was there before, since the newest came. What a change takes of the memory is never given back. */
const MOST_RETURNS: i32 = 64;
let returns: i32 = 0;

let settings: Config = new Config();

/** True in the build that can refuse a request. */
let canEnforce: bool = false;

export function enforces(): void {
  canEnforce = true;
}

export function proxy_abi_version_0_2_1(): void {}

export function proxy_on_memory_allocate(bytes: usize): usize {
  return host.allocate(bytes);
}

export function proxy_on_vm_start(_root: u32, _bytes: u32): u32 {
  return 1;
}

/** Runs several times, also in VMs that are thrown away: nothing is opened or sent here. */
export function proxy_on_configure(context: u32, bytes: u32): u32 {
  host.begin();
  if (!host.configuration(bytes)) return refuse("the configuration cannot be read");
  const config = parseConfig();
  if (config === null) return refuse("configuration refused: " + problem);
  if (config.delivery === "enforced" && !canEnforce) {
    return refuse('configuration refused: delivery: "enforced" needs the module enforce.wasm');
  }
  if (!canEnforce && watch.isWanted(config)) {
    return refuse(
      "configuration refused: requestStart, bodyDigests and idHeader need the module enforce.wasm",
    );
  }
  const root = new Root(context, config);
  sha256(host.data, bytes, root.digest);
  if (proxy_set_tick_period_milliseconds(config.tickMs) !== host.OK) {
    return refuse("the host gives no ticks: allow proxy_set_tick_period_milliseconds");
  }
  metrics.define();
  forget(context);
  if (roots === MAX_ROOTS) forget(unchecked(ROOTS[0]).context);
  unchecked((ROOTS[roots++] = root));
  returns = 0;
  useLast();
  return 1;
}

/** Takes up the configuration of the last root. */
function useLast(): void {
  const root = unchecked(ROOTS[roots - 1]);
  const config = root.config;
  memory.copy(chain.CONFIG_DIGEST, root.digest, DIGEST_BYTES);
  buffer.resize(config.bufferBytes);
  metrics.bufferBytes.set(buffer.size() as i64);
  signer.configure(config.batchKey, config.signKeyId, config.signKey);
  if (config.signKey !== "" && !signer.canSign) {
    host.log(
      host.WARN,
      "meshseal: this host cannot sign with the given key: batches are not signed",
    );
  }
  delivery.configure(config.delivery);
  chain.configure(config);
  outbox.configure(config);
  facts.prepare(config);
  watch.prepare(config);
  settings = config;
  outbox.useRoot(root.context);
}

/**
 * Envoy tells nobody when a configuration is put back while the root that had it still drains: it takes that root up again. A stream of
 * it on a connection that is newer than all before does. `context` is the stream's root, or none.
 */
function noteRoot(context: u32): void {
  if (roots < 2 || context === unchecked(ROOTS[roots - 1]).context) return;
  const at = placeOf(context);
  if (at < 0 || returns === MOST_RETURNS || !connections.isNewest()) return;
  const root = unchecked(ROOTS[at]);
  forget(context);
  unchecked((ROOTS[roots++] = root));
  returns++;
  useLast();
}

export function proxy_on_context_create(_context: u32, root: u32): void {
  if (roots < 2) return;
  host.begin();
  noteRoot(root);
}

function refuse(why: string): u32 {
  host.log(host.ERROR, "meshseal: " + why);
  return 0;
}

/** Where a root is on the list; -1 if it is not. */
function placeOf(context: u32): i32 {
  for (let i = 0; i < roots; i++) if (unchecked(ROOTS[i]).context === context) return i;
  return -1;
}

/** Takes a root off the list. Returns false if it was not on it. */
function forget(context: u32): bool {
  const at = placeOf(context);
  if (at < 0) return false;
  for (let i = at + 1; i < roots; i++) unchecked((ROOTS[i - 1] = ROOTS[i]));
  roots--;
  return true;
}

export function proxy_on_log(context: u32): void {
  host.begin();
  // An access logger's context is its root; a filter's is its stream.
  noteRoot(context);
  if (settings.atListener && !connection.isRequest()) {
    const now = connection.record();
    if (now !== 0) outbox.poke(now);
    return;
  }
  streams.select(context);
  outbox.poke(facts.record());
  streams.close();
}

export function proxy_on_tick(context: u32): void {
  // An older root ticks on until its listener has drained.
  if (roots === 0 || context !== unchecked(ROOTS[roots - 1]).context) return;
  host.begin();
  const now = chain.time();
  chain.tick(now);
  outbox.send(now);
  heir.tick(now);
  const oldest = chain.oldestTime();
  metrics.unreceiptedMs.set(now > oldest && oldest !== 0 ? (((now - oldest) / 1000) as i64) : 0);
  metrics.flush();
}

export function proxy_on_http_call_response(
  _context: u32,
  token: u32,
  headers: u32,
  _body: u32,
  _trailers: u32,
): void {
  host.begin();
  const now = chain.time();
  outbox.answered(token, headers, now);
  heir.answered(token, headers, now);
  metrics.flush();
}

/**
 * A root that ends hands over to the newest one left. The last one leaves the chain's last word in Envoy's log, and what no receipt
 * covers to the VMs that come after this one.
 */
export function proxy_on_done(context: u32): u32 {
  if (!forget(context)) return 1;
  host.begin();
  const now = chain.time();
  if (roots > 0) {
    if (context === outbox.root) useLast();
    outbox.rootEnded(context, now);
    heir.rootEnded(context);
    return 1;
  }
  if (settings.spill) {
    chain.close(now);
    chain.sign(now);
  }
  seal.write("seal");
  chain.note(now, true);
  seal.leave(settings.spill, settings.batchBytes);
  heir.leave();
  metrics.flush();
  return 1;
}
