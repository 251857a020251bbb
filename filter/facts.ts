/**
 * What is written of a request: the groups that the configuration names, field by field in ascending order. Two host calls give nearly all of
 * it (attributes.ts, headers.ts); more are made only where something in these says that there is more to know.
 */
import {
  ANSWERED_BY_NOBODY,
  ANSWERED_BY_PROXY,
  ANSWERED_BY_UPSTREAM,
  F_ANSWERED_BY,
  F_ATTEMPTS,
  F_AUTHORITY,
  F_BYTES_IN,
  F_BYTES_OUT,
  F_CODE_DETAILS,
  F_CONTENT_TYPE,
  F_DURATION,
  F_FLAGS,
  F_GRPC_STATUS,
  F_METHOD,
  F_ORIGINAL_AUTHORITY,
  F_ORIGINAL_PATH,
  F_PATH,
  F_PATH_TEMPLATE,
  F_PROTOCOL,
  F_REQUEST_HEADER,
  F_REQUEST_ID,
  F_RESPONSE_HEADER,
  F_ROUTE,
  F_SOURCE_ADDRESS,
  F_SOURCE_FORWARDED,
  F_STATUS,
  F_UPSTREAM_ADDRESS,
  F_UPSTREAM_CERTIFICATE,
  F_UPSTREAM_CLUSTER,
  F_UPSTREAM_FAILURE,
  F_UPSTREAM_PRINCIPAL,
  F_UPSTREAM_TLS_VERSION,
  F_USER_AGENT,
  KIND_REQUEST,
  MAX_ADDRESS,
  MAX_AUTHORITY,
  MAX_CODE_DETAILS,
  MAX_CONTENT_TYPE,
  MAX_METHOD,
  MAX_NAME,
  MAX_PATH,
  MAX_PRINCIPAL,
  MAX_PROTOCOL,
  MAX_REQUEST_ID,
  MAX_TLS_VERSION,
  MAX_USER_AGENT,
} from "../record/fields";
import * as attributes from "./attributes";
import * as chain from "./chain";
import {
  Config,
  GROUP_CORE,
  GROUP_GRPC,
  GROUP_HEADERS,
  GROUP_IDENTITY,
  GROUP_POLICY,
  GROUP_TLS,
  GROUP_TRACE,
  GROUP_UPSTREAM,
} from "./config";
import * as connections from "./connections";
import { beginFacts, holdFacts, putBytes, putFacts, putUint } from "./entry";
import * as fates from "./fates";
import * as hash from "./hash";
import * as headers from "./headers";
import { Headers } from "./headers";
import * as host from "./host";
import { isText, Text } from "./host";
import * as identity from "./identity";
import * as link from "./link";
import * as metadata from "./metadata";
import * as path from "./path";
import * as policy from "./policy";
import * as streams from "./streams";
import * as trace from "./trace";

const VIA_UPSTREAM = new Text("via_upstream");
const GRPC = new Text("application/grpc");
/** Reasons why an answer that had begun did not end. */
const ENDED_EARLY: StaticArray<Text> = [
  new Text("upstream_reset_after_response_started"),
  new Text("downstream_"),
  new Text("http2."),
];
const GRPC_STATUS = new Text("response\0grpc_status");
const FAILURE = new Text("upstream\0transport_failure_reason");

const REQUEST = new Headers(host.REQUEST_HEADERS, F_REQUEST_HEADER, headers.KNOWN);
const RESPONSE = new Headers(host.RESPONSE_HEADERS, F_RESPONSE_HEADER, 0);

let groups: u32 = 0;
let auditGroups: u32 = 0;
let hasQueryKeys: bool = false;
const DIGEST: usize = memory.data(32, 16);

/** Takes up a configuration. */
export function prepare(config: Config): void {
  groups = GROUP_CORE | config.groups;
  auditGroups = config.auditGroups;
  hasQueryKeys = config.queryKeys;
  metadata.prepare(config.jwtKey);
  // Who may be audited has to be known before it is.
  attributes.prepare(groups | auditGroups | (auditGroups !== 0 ? GROUP_POLICY : 0));
  connections.clear();
  REQUEST.prepare(config.requestHeaders);
  RESPONSE.prepare(config.responseHeaders);
  hash.prepare(config.hashKey);
  identity.prepare(config.jwtSubject);
  path.prepare(config.paths, config.hidesIds);
}

/** Writes the entry of the request whose stream is current, at its end or, as a `request_start`, when it begins, or counts it as missing. Returns the time. */
export function record(kind: u32 = KIND_REQUEST): u64 {
  const now = chain.time();
  attributes.read();
  REQUEST.read();
  const wanted = groups | (metadata.isAudited ? auditGroups : 0);
  if ((wanted & GROUP_HEADERS) !== 0 && RESPONSE.isWanted) RESPONSE.read();
  connections.select(attributes.number(attributes.CONNECTION));
  hash.begin();
  path.begin();
  beginFacts();
  putFactsOf(wanted, kind === KIND_REQUEST);
  if (!chain.beginRequest(kind, holdFacts(), now)) {
    fates.miss(now);
    return now;
  }
  putFacts();
  link.finish();
  if (kind === KIND_REQUEST) fates.write();
  return now;
}

/** Fields 8 to 91. */
function putFactsOf(wanted: u32, isOver: bool): void {
  const isUpstream = (wanted & GROUP_UPSTREAM) !== 0;
  putNumber(F_STATUS, attributes.STATUS);
  REQUEST.put(F_METHOD, headers.METHOD, MAX_METHOD);
  const pathBytes = putPath();
  REQUEST.put(F_AUTHORITY, headers.AUTHORITY, MAX_AUTHORITY);
  if (attributes.isNumber(attributes.DURATION)) {
    const nanos = attributes.number(attributes.DURATION) as i64;
    putUint(F_DURATION, nanos > 0 ? (nanos as u64) / 1000 : 0);
  }
  putNumber(F_BYTES_IN, attributes.REQUEST_BYTES);
  putNumber(F_BYTES_OUT, attributes.RESPONSE_BYTES);
  putNumber(F_FLAGS, attributes.FLAGS);
  putText(F_CODE_DETAILS, attributes.DETAILS, MAX_CODE_DETAILS);
  putText(F_PROTOCOL, attributes.PROTOCOL, MAX_PROTOCOL);
  REQUEST.put(F_REQUEST_ID, headers.REQUEST_ID, MAX_REQUEST_ID);
  REQUEST.put(F_USER_AGENT, headers.USER_AGENT, MAX_USER_AGENT);
  putText(F_SOURCE_ADDRESS, attributes.SOURCE, MAX_ADDRESS);
  connections.putAddress();
  if ((wanted & GROUP_IDENTITY) !== 0) connections.putPeer();
  putText(F_ROUTE, attributes.ROUTE, MAX_NAME);
  if (isUpstream) {
    putText(F_UPSTREAM_CLUSTER, attributes.CLUSTER, MAX_NAME);
    putText(F_UPSTREAM_ADDRESS, attributes.UPSTREAM, MAX_ADDRESS);
  }
  putCore(pathBytes, isOver);
  if ((wanted & GROUP_IDENTITY) !== 0) {
    connections.putCertificates();
    identity.put(REQUEST);
  }
  if ((wanted & GROUP_POLICY) !== 0)
    policy.put(attributes.at(attributes.DETAILS), attributes.bytes(attributes.DETAILS));
  if ((wanted & GROUP_TLS) !== 0) connections.putTls();
  if (isUpstream) putUpstream();
  streams.put();
  if (isUpstream) putFailure();
  if ((wanted & GROUP_TRACE) !== 0) trace.put(REQUEST);
  if ((wanted & GROUP_GRPC) !== 0) putGrpc();
  if ((wanted & GROUP_HEADERS) !== 0) {
    REQUEST.putListed();
    if (RESPONSE.isWanted) RESPONSE.putListed();
  }
  hash.putKey();
}

/** Writes the path, and returns how long it is without the query. */
function putPath(): u32 {
  if (!REQUEST.has(headers.PATH)) return 0;
  const bytes = path.lengthOf(REQUEST.at(headers.PATH), REQUEST.bytes(headers.PATH));
  path.render(REQUEST.at(headers.PATH), bytes);
  putBytes(F_PATH, path.at, path.bytes, MAX_PATH);
  return bytes;
}

/** Fields 27 to 36. */
function putCore(pathBytes: u32, isOver: bool): void {
  // An address out of a header has port 0, which no connection has.
  const source = attributes.at(attributes.SOURCE);
  const sourceBytes = attributes.bytes(attributes.SOURCE);
  if (sourceBytes > 2 && load<u16>(source + sourceBytes - 2) === 0x303a)
    putUint(F_SOURCE_FORWARDED, 1);
  const isRewritten = putOriginal(pathBytes);
  if (path.isTemplate) putUint(F_PATH_TEMPLATE, 1);
  path.putValues();
  if (hasQueryKeys) {
    const which = isRewritten ? headers.ORIGINAL_PATH : headers.PATH;
    const bytes = REQUEST.bytes(which);
    const before = isRewritten ? path.lengthOf(REQUEST.at(which), bytes) : pathBytes;
    path.putQueryKeys(REQUEST.at(which) + before, bytes - before);
  }
  if (REQUEST.has(headers.CONTENT_TYPE)) putContentType();
  if (isOver) putUint(F_ANSWERED_BY, answeredBy());
  connections.putListener();
}

/** Writes what the client sent, where the proxy rewrote it. */
function putOriginal(pathBytes: u32): bool {
  let isRewritten = false;
  if (REQUEST.has(headers.ORIGINAL_PATH)) {
    const at = REQUEST.at(headers.ORIGINAL_PATH);
    const bytes = path.lengthOf(at, REQUEST.bytes(headers.ORIGINAL_PATH));
    const isSame = bytes === pathBytes && memory.compare(at, REQUEST.at(headers.PATH), bytes) === 0;
    if (!isSame) {
      path.render(at, bytes);
      putBytes(F_ORIGINAL_PATH, path.at, path.bytes, MAX_PATH);
      isRewritten = true;
    }
  }
  const at = REQUEST.at(headers.ORIGINAL_HOST);
  const bytes = REQUEST.bytes(headers.ORIGINAL_HOST);
  const isSameHost =
    bytes === REQUEST.bytes(headers.AUTHORITY) &&
    memory.compare(at, REQUEST.at(headers.AUTHORITY), bytes) === 0;
  if (REQUEST.has(headers.ORIGINAL_HOST) && !isSameHost)
    putBytes(F_ORIGINAL_AUTHORITY, at, bytes, MAX_AUTHORITY);
  return isRewritten;
}

function putContentType(): void {
  const at = REQUEST.at(headers.CONTENT_TYPE);
  const size = REQUEST.bytes(headers.CONTENT_TYPE);
  let bytes: u32 = 0;
  while (bytes < size && load<u8>(at + bytes) !== 0x3b) bytes++;
  while (bytes > 0 && load<u8>(at + bytes - 1) === 0x20) bytes--;
  putBytes(F_CONTENT_TYPE, at, bytes, MAX_CONTENT_TYPE);
}

/** The reason says so in the usual case. What the proxy answers of its own to a request that it had sent on is an error. */
function answeredBy(): u32 {
  const details = attributes.at(attributes.DETAILS);
  const bytes = attributes.bytes(attributes.DETAILS);
  if (isText(details, bytes, VIA_UPSTREAM)) return ANSWERED_BY_UPSTREAM;
  const status = attributes.number(attributes.STATUS);
  if (status === 0) return ANSWERED_BY_NOBODY;
  if (attributes.number(attributes.ATTEMPTS) === 0) return ANSWERED_BY_PROXY;
  if (status < 400) return ANSWERED_BY_UPSTREAM;
  for (let i = 0; i < ENDED_EARLY.length; i++) {
    const reason = unchecked(ENDED_EARLY[i]);
    if (bytes >= reason.bytes && memory.compare(details, reason.at, reason.bytes) === 0)
      return ANSWERED_BY_UPSTREAM;
  }
  return ANSWERED_BY_PROXY;
}

/** Fields 56 to 59. */
function putUpstream(): void {
  const attempts = attributes.number(attributes.ATTEMPTS);
  if (attempts > 0) putUint(F_ATTEMPTS, attempts);
  putText(F_UPSTREAM_PRINCIPAL, attributes.UPSTREAM_PRINCIPAL, MAX_PRINCIPAL);
  const digest = attributes.at(attributes.UPSTREAM_CERTIFICATE);
  if (connections.digestOf(digest, attributes.bytes(attributes.UPSTREAM_CERTIFICATE), DIGEST))
    putBytes(F_UPSTREAM_CERTIFICATE, DIGEST, 32, 32);
  putText(F_UPSTREAM_TLS_VERSION, attributes.UPSTREAM_TLS, MAX_TLS_VERSION);
}

/** Field 80. */
function putFailure(): void {
  const attempts = attributes.number(attributes.ATTEMPTS);
  const isFailed = attempts > 0 && attributes.number(attributes.FLAGS) !== 0;
  if (isFailed && attributes.more(FAILURE) && host.size > 0)
    putBytes(F_UPSTREAM_FAILURE, host.data, host.size as u32, MAX_NAME);
}

/** Envoy makes a gRPC status up for other requests too: it is read for gRPC only. */
function putGrpc(): void {
  const isGrpc =
    REQUEST.bytes(headers.CONTENT_TYPE) >= GRPC.bytes &&
    memory.compare(REQUEST.at(headers.CONTENT_TYPE), GRPC.at, GRPC.bytes) === 0;
  if (isGrpc && attributes.more(GRPC_STATUS) && host.size === 8)
    putUint(F_GRPC_STATUS, load<u64>(host.data));
}

function putNumber(number: u32, which: i32): void {
  if (attributes.isNumber(which)) putUint(number, attributes.number(which));
}

function putText(number: u32, which: i32, most: u32): void {
  const bytes = attributes.bytes(which);
  if (bytes > 0) putBytes(number, attributes.at(which), bytes, most);
}
