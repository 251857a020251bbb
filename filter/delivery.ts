/**
 * What happens to a request that cannot be recorded, per plugin and per route (docs/filter.md). A route says it in its
 * metadata, which costs a host call: it is asked for only where the answer matters.
 */
import { DELIVERY_BEST_EFFORT, DELIVERY_BOUNDED_LOSS, DELIVERY_ENFORCED } from "../record/fields";
import * as buffer from "./buffer";
import * as host from "./host";
import { isText, Text } from "./host";

const ROUTE = new Text("xds\0route_metadata\0filter_metadata\0meshseal\0delivery");
const BOUNDED_LOSS = new Text("bounded-loss");
const BEST_EFFORT = new Text("best-effort");
const ENFORCED = new Text("enforced");

/** The plugin's mode: what a route that says nothing has. */
export let plugin: u32 = DELIVERY_BOUNDED_LOSS;

export function configure(mode: string): void {
  plugin = modeOf(mode);
}

/** Returns the mode that a word of the configuration stands for, 0 for none. */
export function modeOf(word: string): u32 {
  if (word === "bounded-loss") return DELIVERY_BOUNDED_LOSS;
  if (word === "best-effort") return DELIVERY_BEST_EFFORT;
  return word === "enforced" ? DELIVERY_ENFORCED : 0;
}

/** The mode of the current stream's route. A word that is none leaves the plugin's. */
export function ofRoute(): u32 {
  if (!host.property(ROUTE.at, ROUTE.bytes)) return plugin;
  if (isText(host.data, host.size, ENFORCED)) return DELIVERY_ENFORCED;
  if (isText(host.data, host.size, BEST_EFFORT)) return DELIVERY_BEST_EFFORT;
  return isText(host.data, host.size, BOUNDED_LOSS) ? DELIVERY_BOUNDED_LOSS : plugin;
}

/** Best effort gives way from half a buffer on, so that the rest is there for the others. */
export function givesWay(): bool {
  return buffer.heldBytes() > buffer.size() / 2 && ofRoute() === DELIVERY_BEST_EFFORT;
}

/** A quarter of the buffer stays for the entries of refusals, and of requests that were let in before. */
export function hasPromisedRoom(): bool {
  return buffer.heldBytes() < (buffer.size() / 4) * 3;
}
