/**
 * Envoy's attributes of a stream. A host call that returns data costs about a microsecond, whatever it returns, so they come
 * in one list of an expression (CEL). One that is absent fails a whole list: has() stands before those that requests often lack, and
 * where a list fails all the same, all are read one by one. Envoy: source/extensions/filters/common/expr/context.h.
 */
import { GROUP_CORE, GROUP_IDENTITY, GROUP_POLICY, GROUP_UPSTREAM } from "./config";
import * as host from "./host";
import { isText, Text } from "./host";
import * as metadata from "./metadata";
import { Pairs } from "./pairs";

export const DURATION = 0;
export const REQUEST_BYTES = 1;
export const RESPONSE_BYTES = 2;
export const FLAGS = 3;
export const CONNECTION = 4;
export const SOURCE = 5;
export const PROTOCOL = 6;
export const STATUS = 7;
export const DETAILS = 8;
export const ROUTE = 9;
export const ATTEMPTS = 10;
export const CLUSTER = 11;
export const UPSTREAM = 12;
export const UPSTREAM_TLS = 13;
export const UPSTREAM_PRINCIPAL = 14;
export const UPSTREAM_CERTIFICATE = 15;
const COUNT = 16;

/** An attribute as a single read names it, and for which groups it is read. */
class Attribute {
  path: Text;
  groups: u32;
  constructor(name: string, groups: u32) {
    this.path = new Text(name.replace(".", "\0"));
    this.groups = groups;
  }
}

// In the order of the numbers above.
const CORE: StaticArray<string> = [
  "request.duration",
  "request.total_size",
  "response.total_size",
  "response.flags",
  "connection.id",
  // Not a fact of the connection: the connection manager may take it from x-forwarded-for, request by request.
  "source.address",
  "request.protocol",
  "response.code",
  "response.code_details",
  "xds.route_name",
  "upstream.request_attempt_count",
];
const OF_UPSTREAM: StaticArray<string> = [
  "xds.cluster_name",
  "upstream.address",
  "upstream.tls_version",
  "upstream.uri_san_peer_certificate",
  "upstream.sha256_peer_certificate_digest",
];

/**
 * Lists in a list: a request that went to no upstream, or to one without TLS, costs one has() in place of three (350 ns each).
 * What is known of a request without an upstream's address is read apart: there are few of them.
 */
const UPSTREAM_ITEM =
  "has(upstream.address) ? [upstream.request_attempt_count, xds.cluster_name, upstream.address, " +
  "has(upstream.tls_version) ? [upstream.tls_version, " +
  optional("upstream.uri_san_peer_certificate") +
  ", " +
  optional("upstream.sha256_peer_certificate_digest") +
  "] : ''] : ''";
/** Envoy's reason where the route itself is the answer: such a route has no cluster. */
const DIRECT = new Text("direct_response");

function optional(name: string): string {
  return "has(" + name + ") ? " + name + " : ''";
}

const ATTRIBUTES: Attribute[] = [];
for (let i = 0; i < CORE.length; i++) ATTRIBUTES.push(new Attribute(CORE[i], GROUP_CORE));
for (let i = 0; i < OF_UPSTREAM.length; i++)
  ATTRIBUTES.push(new Attribute(OF_UPSTREAM[i], GROUP_UPSTREAM));

const METADATA_GROUPS: u32 = GROUP_IDENTITY | GROUP_POLICY;
const METADATA = new Text("metadata");
const EXPR_CREATE = new Text("expr_create");
const EXPR_EVALUATE = new Text("expr_evaluate");
const TOKEN: usize = memory.data(4, 4);
let hasList: bool = false;
let wanted: u32 = 0;
const LIST = new Pairs();
const UPSTREAM_LIST = new Pairs();
const TLS_LIST = new Pairs();

/** Where each attribute's value lies and how long it is; ABSENT bytes if it is not there. */
const AT: StaticArray<usize> = new StaticArray<usize>(COUNT);
const BYTES: StaticArray<u32> = new StaticArray<u32>(COUNT);
const ABSENT: u32 = u32.MAX_VALUE;

/** Prepares the list for some groups, once a configuration. Where Envoy cannot, attributes are read one by one. */
export function prepare(groups: u32): void {
  wanted = groups;
  hasList = false;
  for (let i = 0; i < COUNT; i++) unchecked((BYTES[i] = ABSENT));
  let list = "[" + CORE.slice(0, ATTEMPTS).join(", ") + ", ";
  list += (groups & GROUP_UPSTREAM) !== 0 ? UPSTREAM_ITEM : CORE[ATTEMPTS];
  list += (groups & METADATA_GROUPS) !== 0 ? ", metadata]" : "]";
  const text = new Text(list);
  if (!host.foreign(EXPR_CREATE.at, EXPR_CREATE.bytes, text.at, text.bytes) || host.size !== 4)
    return;
  store<u32>(TOKEN, load<u32>(host.data));
  hasList = true;
}

/** Reads the attributes of the current stream, and its dynamic metadata. */
export function read(): void {
  if (hasList && host.foreign(EXPR_EVALUATE.at, EXPR_EVALUATE.bytes, TOKEN, 4) && readList())
    return;
  for (let i = 0; i < COUNT; i++) readOne(i);
  if ((wanted & METADATA_GROUPS) === 0) return;
  const isThere = more(METADATA);
  metadata.read(host.data, isThere ? host.size : 0);
}

function readOne(which: i32): void {
  const attribute = unchecked(ATTRIBUTES[which]);
  if ((attribute.groups & wanted) === 0) return;
  const isThere = more(attribute.path);
  unchecked((AT[which] = host.data));
  unchecked((BYTES[which] = isThere ? (host.size as u32) : ABSENT));
}

function readList(): bool {
  if (!LIST.begin(host.data, host.size)) return false;
  for (let i = 0; i < ATTEMPTS; i++) if (!take(LIST, i)) return false;
  if ((wanted & GROUP_UPSTREAM) === 0) {
    if (!take(LIST, ATTEMPTS)) return false;
  } else if (!readUpstream()) return false;
  if ((wanted & METADATA_GROUPS) === 0) return true;
  if (!LIST.next()) return false;
  metadata.read(LIST.key, LIST.keyBytes);
  return true;
}

function readUpstream(): bool {
  for (let i = ATTEMPTS; i < COUNT; i++) unchecked((BYTES[i] = ABSENT));
  if (!LIST.next()) return false;
  if (LIST.keyBytes === 0) {
    if (isText(at(DETAILS), bytes(DETAILS), DIRECT)) return true;
    readOne(ATTEMPTS);
    readOne(CLUSTER);
    return true;
  }
  if (!UPSTREAM_LIST.begin(LIST.key, LIST.keyBytes)) return false;
  for (let i = ATTEMPTS; i <= UPSTREAM; i++) if (!take(UPSTREAM_LIST, i)) return false;
  if (!UPSTREAM_LIST.next()) return false;
  TLS_LIST.begin(UPSTREAM_LIST.key, UPSTREAM_LIST.keyBytes);
  for (let i = UPSTREAM_TLS; i < COUNT && TLS_LIST.next(); i++) keep(TLS_LIST, i);
  return true;
}

function take(list: Pairs, which: i32): bool {
  if (!list.next()) return false;
  keep(list, which);
  return true;
}

function keep(list: Pairs, which: i32): void {
  unchecked((AT[which] = list.key));
  unchecked((BYTES[which] = list.keyBytes as u32));
}

/** Reads one more attribute; false if it is absent. It is then in host.data. */
export function more(path: Text): bool {
  return host.property(path.at, path.bytes);
}

export function isNumber(which: i32): bool {
  return unchecked(BYTES[which]) === 8;
}

/** Returns a number, or 0 where it is absent. */
export function number(which: i32): u64 {
  return isNumber(which) ? load<u64>(unchecked(AT[which])) : 0;
}

export function at(which: i32): usize {
  return unchecked(AT[which]);
}

/** Returns a text's bytes, 0 where it is absent. */
export function bytes(which: i32): u32 {
  const length = unchecked(BYTES[which]);
  return length === ABSENT ? 0 : length;
}
