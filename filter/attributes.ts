/**
 * Envoy's attributes of a stream. A host call that returns data costs about a microsecond, whatever it returns, so they come
 * in one list of an expression (CEL). One that is absent fails a whole list: has() stands before those that requests often lack, and
 * where a list fails all the same, all are read one by one. Envoy: source/extensions/filters/common/expr/context.h.
 */
import { GROUP_CORE, GROUP_IDENTITY, GROUP_POLICY, GROUP_UPSTREAM } from "./config";
import * as host from "./host";
import { Text } from "./host";
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

/** An attribute: how it is named by parts, how it stands in the list, and for which groups it is read. */
class Attribute {
  path: Text;
  item: string;
  groups: u32;
  constructor(path: string, item: string, groups: u32) {
    this.path = new Text(path);
    this.item = item;
    this.groups = groups;
  }
}

function plain(path: string, name: string, groups: u32): Attribute {
  return new Attribute(path, name, groups);
}

function optional(path: string, name: string, groups: u32): Attribute {
  return new Attribute(path, "has(" + name + ") ? " + name + " : ''", groups);
}

const ATTRIBUTES: StaticArray<Attribute> = [
  plain("request\0duration", "request.duration", GROUP_CORE),
  plain("request\0total_size", "request.total_size", GROUP_CORE),
  plain("response\0total_size", "response.total_size", GROUP_CORE),
  plain("response\0flags", "response.flags", GROUP_CORE),
  plain("connection\0id", "connection.id", GROUP_CORE),
  // Not a fact of the connection: the connection manager may take it from x-forwarded-for, request by request.
  plain("source\0address", "source.address", GROUP_CORE),
  plain("request\0protocol", "request.protocol", GROUP_CORE),
  plain("response\0code", "response.code", GROUP_CORE),
  plain("response\0code_details", "response.code_details", GROUP_CORE),
  plain("xds\0route_name", "xds.route_name", GROUP_CORE),
  plain("upstream\0request_attempt_count", "upstream.request_attempt_count", GROUP_CORE),
  optional("xds\0cluster_name", "xds.cluster_name", GROUP_UPSTREAM),
  optional("upstream\0address", "upstream.address", GROUP_UPSTREAM),
  optional("upstream\0tls_version", "upstream.tls_version", GROUP_UPSTREAM),
  optional(
    "upstream\0uri_san_peer_certificate",
    "upstream.uri_san_peer_certificate",
    GROUP_UPSTREAM,
  ),
  optional(
    "upstream\0sha256_peer_certificate_digest",
    "upstream.sha256_peer_certificate_digest",
    GROUP_UPSTREAM,
  ),
];

const METADATA_GROUPS: u32 = GROUP_IDENTITY | GROUP_POLICY;
const EXPR_CREATE = new Text("expr_create");
const EXPR_EVALUATE = new Text("expr_evaluate");
const TOKEN: usize = memory.data(4, 4);
let hasList: bool = false;
let wanted: u32 = 0;
const LIST = new Pairs();

/** Where each attribute's value lies and how long it is; ABSENT bytes if it is not there. */
const AT: StaticArray<usize> = new StaticArray<usize>(COUNT);
const BYTES: StaticArray<u32> = new StaticArray<u32>(COUNT);
const ABSENT: u32 = u32.MAX_VALUE;

/** Prepares the list for some groups, once a configuration. Where Envoy cannot, attributes are read one by one. */
export function prepare(groups: u32): void {
  wanted = groups;
  hasList = false;
  let list = "";
  for (let i = 0; i < COUNT; i++) {
    unchecked((BYTES[i] = ABSENT));
    const attribute = unchecked(ATTRIBUTES[i]);
    if ((attribute.groups & groups) === 0) continue;
    list += (list === "" ? "[" : ", ") + attribute.item;
  }
  list += (groups & METADATA_GROUPS) !== 0 ? ", metadata.filter_metadata]" : "]";
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
  for (let i = 0; i < COUNT; i++) {
    const attribute = unchecked(ATTRIBUTES[i]);
    if ((attribute.groups & wanted) === 0) continue;
    const isThere = host.property(attribute.path.at, attribute.path.bytes);
    unchecked((AT[i] = host.data));
    unchecked((BYTES[i] = isThere ? (host.size as u32) : ABSENT));
  }
  if ((wanted & METADATA_GROUPS) !== 0) metadata.readOneByOne();
}

function readList(): bool {
  if (!LIST.begin(host.data, host.size)) return false;
  for (let i = 0; i < COUNT; i++) {
    if ((unchecked(ATTRIBUTES[i]).groups & wanted) === 0) continue;
    if (!LIST.next()) return false;
    unchecked((AT[i] = LIST.key));
    unchecked((BYTES[i] = LIST.keyBytes as u32));
  }
  if ((wanted & METADATA_GROUPS) === 0) return true;
  if (!LIST.next()) return false;
  metadata.read(LIST.key, LIST.keyBytes);
  return true;
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
