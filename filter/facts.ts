/**
 * What Envoy knows of a request. A host call that returns data costs about a microsecond, whatever it returns, so there are
 * two: one CEL list for the attributes and one read of the header map. What is the same for a whole connection is
 * kept for 256 connections.
 */
import {
  F_AUTHORITY,
  F_BYTES_IN,
  F_BYTES_OUT,
  F_CODE_DETAILS,
  F_DESTINATION_ADDRESS,
  F_DURATION,
  F_FLAGS,
  F_METHOD,
  F_PATH,
  F_PEER_AUTH,
  F_PEER_PRINCIPAL,
  F_PROTOCOL,
  F_REQUEST_ID,
  F_ROUTE,
  F_SOURCE_ADDRESS,
  F_STATUS,
  F_UPSTREAM_ADDRESS,
  F_UPSTREAM_CLUSTER,
  F_USER_AGENT,
  KIND_REQUEST,
  MAX_ADDRESS,
  MAX_AUTHORITY,
  MAX_CODE_DETAILS,
  MAX_METHOD,
  MAX_NAME,
  MAX_PATH,
  MAX_PRINCIPAL,
  MAX_PROTOCOL,
  MAX_REQUEST_ID,
  MAX_USER_AGENT,
  PEER_MTLS,
  PEER_NONE,
} from "../record/fields";
import * as chain from "./chain";
import { FIELD_BYTES, putBytes, putUint } from "./entry";
import * as host from "./host";
import { isText, Text } from "./host";
import * as metrics from "./metrics";

// The attributes, in the order of the list. Envoy: source/extensions/filters/common/expr/context.h.
const DURATION = 0;
const REQUEST_BYTES = 1;
const RESPONSE_BYTES = 2;
const FLAGS = 3;
const CONNECTION = 4;
const PROTOCOL = 5;
const STATUS = 6;
const DETAILS = 7;
const ROUTE = 8;
const CLUSTER = 9;
const UPSTREAM = 10;
const COUNT = 11;

const PATHS: StaticArray<Text> = [
  new Text("request\0duration"),
  new Text("request\0total_size"),
  new Text("response\0total_size"),
  new Text("response\0flags"),
  new Text("connection\0id"),
  new Text("request\0protocol"),
  new Text("response\0code"),
  new Text("response\0code_details"),
  new Text("xds\0route_name"),
  new Text("xds\0cluster_name"),
  new Text("upstream\0address"),
];

// One absent attribute fails a whole list: has() for those that a proxied request may lack.
const LIST = new Text(
  "[request.duration, request.total_size, response.total_size, response.flags, connection.id, request.protocol, " +
    "response.code, response.code_details, xds.route_name, " +
    "xds.cluster_name, has(upstream.address) ? upstream.address : '']",
);
const EXPR_CREATE = new Text("expr_create");
const EXPR_EVALUATE = new Text("expr_evaluate");
const TOKEN: usize = memory.data(4, 4);
let hasList: bool = false;

/** Where each attribute's value lies and how long it is; u32.MAX_VALUE bytes if it is absent. */
const AT: StaticArray<usize> = new StaticArray<usize>(COUNT);
const BYTES: StaticArray<u32> = new StaticArray<u32>(COUNT);
const ABSENT: u32 = u32.MAX_VALUE;

// Headers, in the order in which their first occurrence is looked for.
const NAMES: StaticArray<Text> = [
  new Text(":method"),
  new Text(":path"),
  new Text(":authority"),
  new Text("x-request-id"),
  new Text("user-agent"),
];
const METHOD = 0;
const PATH = 1;
const AUTHORITY = 2;
const REQUEST_ID = 3;
const USER_AGENT = 4;
const HEADERS = 5;
const HEADER_AT: StaticArray<usize> = new StaticArray<usize>(HEADERS);
const HEADER_BYTES: StaticArray<u32> = new StaticArray<u32>(HEADERS);

// A connection's facts: id, then three values of at most LONGEST bytes behind their length, then whether it is mutual TLS.
const SOURCE = new Text("source\0address");
const DESTINATION = new Text("destination\0address");
const PRINCIPAL = new Text("connection\0uri_san_peer_certificate");
const MTLS = new Text("connection\0mtls");
const CONNECTIONS: usize = 256;
const LONGEST: usize = 252;
const SLOT: usize = 1024;
const SLOTS: usize = memory.data(256 * 1024, 16);
const VALUE_AT: usize = 16;
const VALUE_SLOT: usize = 256;

/** Prepares the list, once a configuration. Where Envoy cannot, attributes are read one by one. */
export function prepare(): void {
  hasList = false;
  if (!host.foreign(EXPR_CREATE.at, EXPR_CREATE.bytes, LIST.at, LIST.bytes) || host.size !== 4)
    return;
  store<u32>(TOKEN, load<u32>(host.data));
  hasList = true;
}

/** Writes the entry of the request whose stream is current, or counts it as missing. Returns the time. */
export function record(): u64 {
  const now = chain.time();
  readAttributes();
  readHeaders();
  const slot = connection(readUint(CONNECTION));
  const path = pathBytes();
  let bytes: usize = 24 * FIELD_BYTES + path + VALUE_SLOT * 3;
  for (let i = 0; i < COUNT; i++) if (unchecked(BYTES[i]) !== ABSENT) bytes += unchecked(BYTES[i]);
  for (let i = 0; i < HEADERS; i++) {
    if (i !== PATH && unchecked(HEADER_BYTES[i]) !== ABSENT)
      bytes += min(unchecked(HEADER_BYTES[i]), MAX_AUTHORITY);
  }
  // Values are cut to their limits, so this bound is never too small, and never beyond the limit of an entry.
  if (!chain.beginRequest(KIND_REQUEST, min(bytes, 24_000), now)) {
    chain.miss(now);
    return now;
  }
  putNumber(F_STATUS, STATUS);
  putHeader(F_METHOD, METHOD, MAX_METHOD);
  if (unchecked(HEADER_BYTES[PATH]) !== ABSENT)
    putBytes(F_PATH, unchecked(HEADER_AT[PATH]), path, MAX_PATH);
  putHeader(F_AUTHORITY, AUTHORITY, MAX_AUTHORITY);
  if (unchecked(BYTES[DURATION]) === 8) {
    const nanos = load<i64>(unchecked(AT[DURATION]));
    putUint(F_DURATION, nanos > 0 ? (nanos as u64) / 1000 : 0);
  }
  putNumber(F_BYTES_IN, REQUEST_BYTES);
  putNumber(F_BYTES_OUT, RESPONSE_BYTES);
  putNumber(F_FLAGS, FLAGS);
  putText(F_CODE_DETAILS, DETAILS, MAX_CODE_DETAILS);
  putText(F_PROTOCOL, PROTOCOL, MAX_PROTOCOL);
  putHeader(F_REQUEST_ID, REQUEST_ID, MAX_REQUEST_ID);
  putHeader(F_USER_AGENT, USER_AGENT, MAX_USER_AGENT);
  putValue(F_SOURCE_ADDRESS, slot, 0, MAX_ADDRESS);
  putValue(F_DESTINATION_ADDRESS, slot, 1, MAX_ADDRESS);
  putValue(F_PEER_PRINCIPAL, slot, 2, MAX_PRINCIPAL);
  const hasPrincipal = load<u32>(slot + VALUE_AT + 2 * VALUE_SLOT) > 0;
  putUint(F_PEER_AUTH, hasPrincipal && load<u8>(slot + 8) !== 0 ? PEER_MTLS : PEER_NONE);
  putText(F_ROUTE, ROUTE, MAX_NAME);
  putText(F_UPSTREAM_CLUSTER, CLUSTER, MAX_NAME);
  putText(F_UPSTREAM_ADDRESS, UPSTREAM, MAX_ADDRESS);
  chain.finish();
  metrics.requests.add(1);
  return now;
}

function readAttributes(): void {
  if (hasList && host.foreign(EXPR_EVALUATE.at, EXPR_EVALUATE.bytes, TOKEN, 4) && readList())
    return;
  for (let i = 0; i < COUNT; i++) {
    const path = unchecked(PATHS[i]);
    const isThere = host.property(path.at, path.bytes);
    unchecked((AT[i] = host.data));
    unchecked((BYTES[i] = isThere ? (host.size as u32) : ABSENT));
  }
}

/** A CEL list comes as header pairs: u32 count, count times (u32 length, u32 0), each value behind it with two NULs. */
function readList(): bool {
  const from = host.data;
  const to = from + host.size;
  if (host.size < 4 + 8 * COUNT || load<u32>(from) !== COUNT) return false;
  let value = from + 4 + 8 * COUNT;
  for (let i: usize = 0; i < (COUNT as usize); i++) {
    const bytes = load<u32>(from + 4 + 8 * i);
    if (value > to || (bytes as usize) > to - value) return false;
    unchecked((AT[i as i32] = value));
    unchecked((BYTES[i as i32] = bytes));
    value += (bytes as usize) + 2;
  }
  return true;
}

function readHeaders(): void {
  for (let i = 0; i < HEADERS; i++) unchecked((HEADER_BYTES[i] = ABSENT));
  if (!host.headerPairs(host.REQUEST_HEADERS) || host.size < 4) return;
  const from = host.data;
  const to = from + host.size;
  const count = load<u32>(from) as usize;
  if (count > (host.size - 4) / 8) return;
  let value = from + 4 + 8 * count;
  for (let i: usize = 0; i < count; i++) {
    const keyBytes = load<u32>(from + 4 + 8 * i) as usize;
    const bytes = load<u32>(from + 8 + 8 * i) as usize;
    const key = value;
    if (key > to || keyBytes > to - key || bytes + 2 > to - key - keyBytes) return;
    value = key + keyBytes + 1;
    // Only names of these lengths: most headers are told apart by that alone.
    if (keyBytes === 5 || keyBytes === 7 || keyBytes === 10 || keyBytes === 12) {
      for (let h = 0; h < HEADERS; h++) {
        if (unchecked(HEADER_BYTES[h]) === ABSENT && isText(key, keyBytes, unchecked(NAMES[h]))) {
          unchecked((HEADER_AT[h] = value));
          unchecked((HEADER_BYTES[h] = bytes as u32));
        }
      }
    }
    value += bytes + 1;
  }
}

/** Bytes of the path before the query. */
function pathBytes(): u32 {
  const bytes = unchecked(HEADER_BYTES[PATH]);
  if (bytes === ABSENT) return 0;
  const at = unchecked(HEADER_AT[PATH]);
  for (let i: u32 = 0; i < bytes; i++) {
    const c = load<u8>(at + i);
    if (c === 0x3f || c === 0x23) return i;
    if (i > MAX_PATH) return i;
  }
  return bytes;
}

/** Returns the slot that holds the facts of a connection. */
function connection(id: u64): usize {
  const slot = SLOTS + ((id as usize) & (CONNECTIONS - 1)) * SLOT;
  if (id !== 0 && load<u64>(slot) === id) return slot;
  store<u64>(slot, id);
  keepValue(slot, 0, SOURCE);
  keepValue(slot, 1, DESTINATION);
  keepValue(slot, 2, PRINCIPAL);
  store<u8>(
    slot + 8,
    host.property(MTLS.at, MTLS.bytes) && host.size > 0 ? load<u8>(host.data) : 0,
  );
  return slot;
}

function keepValue(slot: usize, which: usize, path: Text): void {
  const to = slot + VALUE_AT + which * VALUE_SLOT;
  const isThere = host.property(path.at, path.bytes);
  const bytes = isThere ? host.size : 0;
  store<u32>(to, bytes as u32);
  memory.copy(to + 4, host.data, min(bytes, LONGEST));
}

function putValue(number: u32, slot: usize, which: usize, most: u32): void {
  const from = slot + VALUE_AT + which * VALUE_SLOT;
  const bytes = load<u32>(from);
  if (bytes > 0) putBytes(number, from + 4, bytes, min(most, LONGEST as u32));
}

function readUint(which: i32): u64 {
  return unchecked(BYTES[which]) === 8 ? load<u64>(unchecked(AT[which])) : 0;
}

function putNumber(number: u32, which: i32): void {
  if (unchecked(BYTES[which]) === 8) putUint(number, load<u64>(unchecked(AT[which])));
}

function putText(number: u32, which: i32, most: u32): void {
  const bytes = unchecked(BYTES[which]);
  if (bytes !== ABSENT && bytes > 0) putBytes(number, unchecked(AT[which]), bytes, most);
}

function putHeader(number: u32, which: i32, most: u32): void {
  const bytes = unchecked(HEADER_BYTES[which]);
  if (bytes !== ABSENT) putBytes(number, unchecked(HEADER_AT[which]), bytes, most);
}
