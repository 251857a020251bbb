/**
 * The fields of an entry: numbers, names, types, limits, and the kinds that may carry them. Said once, here;
 * FORMAT.md explains them. Compiled by asc (the filter reads the constants) and by tsc (the exporter reads the table).
 *
 * A number is never used again for something else. Numbers 1 to 15 take one byte on the wire, 16 to 2047 two, so
 * what every request has comes first. Free for later: 60 to 79 and 94 to 99 facts of a request, 130 to 149 the filter's other
 * kinds, and the exporter's: 150 anchors, 160 peers, 170 verify_result, 180 hold and retention, 190 key, 200 finding and
 * refused, 210 coverage, reads and export.
 */

/** The version of this format, as `open` states it. */
export const FORMAT_VERSION: u32 = 1;

// Lengths in bytes.
export const CHAIN_BYTES: u32 = 16;
export const DIGEST_BYTES: u32 = 32;
export const SALT_BYTES: u32 = 16;
export const STREAM_ID_BYTES: u32 = 16;
/** An entry at most: the length in a C2SP entry bundle is a uint16. */
export const MAX_ENTRY_BYTES: u32 = 65_535;

// Kinds of entry. Below 16 the filter's, from 16 to 30 the exporter's: Field.kinds has a bit for each.
export const KIND_OPEN: u32 = 1;
export const KIND_REQUEST: u32 = 2;
export const KIND_REQUEST_START: u32 = 3;
export const KIND_CONNECTION: u32 = 4;
export const KIND_GAP: u32 = 5;
export const KIND_CONFIG: u32 = 6;
export const KIND_HEARTBEAT: u32 = 7;
export const KIND_SIGNATURE: u32 = 8;
export const KIND_CLOSE: u32 = 9;

// What a log writes about itself, on its own chain: running and reading the log leaves a log.
export const FIRST_OWN_KIND: u32 = 16;
export const LAST_OWN_KIND: u32 = 31;
export const KIND_ANCHORS: u32 = 16;
export const KIND_PEERS: u32 = 17;
export const KIND_VERIFY_RESULT: u32 = 18;
export const KIND_COVERAGE: u32 = 19;
export const KIND_READS: u32 = 20;
export const KIND_EXPORT: u32 = 21;
export const KIND_HOLD: u32 = 22;
export const KIND_RETENTION: u32 = 23;
export const KIND_KEY: u32 = 24;
export const KIND_FINDING: u32 = 25;
export const KIND_REFUSED: u32 = 26;
export const KIND_RECOVERED: u32 = 27;
export const KIND_SENDER: u32 = 28;

// The envelope: every entry has 1 to 6.
export const F_KIND: u32 = 1;
export const F_CHAIN: u32 = 2;
export const F_SEQ: u32 = 3;
export const F_PREV: u32 = 4;
export const F_TIME: u32 = 5;
export const F_SALT: u32 = 6;
export const F_CONFIG: u32 = 7;

// Facts of a request.
export const F_STATUS: u32 = 8;
export const F_METHOD: u32 = 9;
export const F_PATH: u32 = 10;
export const F_AUTHORITY: u32 = 11;
export const F_DURATION: u32 = 12;
export const F_BYTES_IN: u32 = 13;
export const F_BYTES_OUT: u32 = 14;
export const F_FLAGS: u32 = 15;
export const F_CODE_DETAILS: u32 = 16;
export const F_PROTOCOL: u32 = 17;
export const F_REQUEST_ID: u32 = 18;
export const F_USER_AGENT: u32 = 19;
export const F_SOURCE_ADDRESS: u32 = 20;
export const F_DESTINATION_ADDRESS: u32 = 21;
export const F_PEER_PRINCIPAL: u32 = 22;
export const F_PEER_AUTH: u32 = 23;
export const F_ROUTE: u32 = 24;
export const F_UPSTREAM_CLUSTER: u32 = 25;
export const F_UPSTREAM_ADDRESS: u32 = 26;
export const F_SOURCE_FORWARDED: u32 = 27;
export const F_ORIGINAL_PATH: u32 = 28;
export const F_ORIGINAL_AUTHORITY: u32 = 29;
export const F_PATH_TEMPLATE: u32 = 30;
export const F_PATH_VALUE: u32 = 31;
export const F_QUERY_KEY: u32 = 32;
export const F_CONTENT_TYPE: u32 = 33;
export const F_ANSWERED_BY: u32 = 34;
export const F_DIRECTION: u32 = 35;
export const F_FILTER_CHAIN: u32 = 36;
export const F_PEER_CERTIFICATE: u32 = 37;
export const F_PEER_SUBJECT: u32 = 38;
export const F_PEER_DNS: u32 = 39;
export const F_LOCAL_PRINCIPAL: u32 = 40;
export const F_USER_AUTH: u32 = 41;
export const F_USER_ISSUER: u32 = 42;
export const F_USER_SUBJECT: u32 = 43;
export const F_USER_SUBJECT_HASH: u32 = 44;
export const F_CLAIMED_PRINCIPAL: u32 = 45;
export const F_AUTH_SCHEME: u32 = 46;
export const F_DECISION: u32 = 47;
export const F_DENIED_BY: u32 = 48;
export const F_ALLOWED_BY: u32 = 49;
export const F_POLICY: u32 = 50;
export const F_POLICY_RULE: u32 = 51;
export const F_SHADOW: u32 = 52;
export const F_AUDIT: u32 = 53;
export const F_TLS_VERSION: u32 = 54;
export const F_SERVER_NAME: u32 = 55;
export const F_ATTEMPTS: u32 = 56;
export const F_UPSTREAM_PRINCIPAL: u32 = 57;
export const F_UPSTREAM_CERTIFICATE: u32 = 58;
export const F_UPSTREAM_TLS_VERSION: u32 = 59;
// What the build with all callbacks adds, and the listener's access logger.
export const F_STREAM_ID: u32 = 60;
export const F_REQUEST_DIGEST: u32 = 61;
export const F_RESPONSE_DIGEST: u32 = 62;
export const F_TRANSPORT_FAILURE: u32 = 63;
export const F_TERMINATION: u32 = 64;
export const F_UPSTREAM_FAILURE: u32 = 80;
export const F_TRACE_ID: u32 = 81;
export const F_SPAN_ID: u32 = 82;
export const F_TRACE_FLAGS: u32 = 83;
export const F_GRPC_STATUS: u32 = 84;
export const F_REQUEST_HEADER: u32 = 85;
export const F_REQUEST_HEADER_HASH: u32 = 86;
export const F_REQUEST_HEADER_PRESENT: u32 = 87;
export const F_RESPONSE_HEADER: u32 = 88;
export const F_RESPONSE_HEADER_HASH: u32 = 89;
export const F_RESPONSE_HEADER_PRESENT: u32 = 90;
export const F_HASH_KEY: u32 = 91;

// The rules in force: `open`, `config`.
export const F_POLICY_DIGEST: u32 = 92;
export const F_POLICY_NAME: u32 = 93;

// `open`: what made the chain.
export const F_FORMAT: u32 = 100;
export const F_NODE_ID: u32 = 101;
export const F_NODE_CLUSTER: u32 = 102;
export const F_POD: u32 = 103;
export const F_NAMESPACE: u32 = 104;
export const F_WORKLOAD: u32 = 105;
export const F_PLUGIN: u32 = 106;
export const F_PRODUCER: u32 = 107;
export const F_MODULE_DIGEST: u32 = 108;
export const F_CONFIG_DIGEST: u32 = 109;
export const F_KEY_ID: u32 = 110;
export const F_HEARTBEAT_MS: u32 = 111;
export const F_HINT: u32 = 112;
export const F_ABANDONED_CHAIN: u32 = 113;
export const F_ABANDONED_SEQ: u32 = 114;
export const F_ABANDONED_HEAD: u32 = 115;
export const F_ABANDONED_CAUSE: u32 = 116;
export const F_ABANDONED_COUNT: u32 = 117;

// `gap`: what was lost before it was chained.
export const F_GAP_COUNT: u32 = 120;
export const F_GAP_FROM: u32 = 121;
export const F_GAP_TO: u32 = 122;
export const F_GAP_CAUSE: u32 = 123;

// `heartbeat`.
export const F_RECEIPT: u32 = 125;

// More of `open`, `heartbeat` and `close`; `signature`.
export const F_SIGN_KEY: u32 = 130;
export const F_HINT_SEQ: u32 = 131;
export const F_SIGNATURE: u32 = 132;
export const F_STREAMS: u32 = 133;
export const F_STREAMS_WRITTEN: u32 = 134;
export const F_STREAMS_MISSED: u32 = 135;
export const F_STREAMS_REFUSED: u32 = 136;
export const F_DELIVERY: u32 = 137;

// `recovered`: a log took entries in that came out of an Envoy's own log.
export const F_RECOVERED_CHAIN: u32 = 140;
export const F_RECOVERED_SEQ: u32 = 141;
export const F_RECOVERED_COUNT: u32 = 142;
export const F_RECOVERED_PROOF: u32 = 143;

// `anchors`: the newest proofs by outsiders, one after the other in each field.
export const F_ANCHOR: u32 = 150;
export const F_ANCHOR_SIZE: u32 = 151;
export const F_ANCHOR_TIME: u32 = 152;
export const F_ANCHOR_PROOF: u32 = 153;

// `peers`: the other logs of the deployment as they were last seen, one after the other in each field.
export const F_PEER_ORIGIN: u32 = 160;
export const F_PEER_KEY: u32 = 161;
export const F_PEER_CHECKPOINT: u32 = 162;
// `verify_result`: what the log found when it re-read its own files.
export const F_VERIFY_SIZE: u32 = 170;
export const F_VERIFY_PASSES: u32 = 171;
export const F_VERIFY_OLDEST: u32 = 172;
export const F_VERIFY_FOUND: u32 = 173;
export const F_VERIFY_FINDING: u32 = 174;

// `peers`: a chain that another log began goes on here.
export const F_TAKEN_UP: u32 = 175;

// `retention`: entries below an index may be pruned from here on. What stands for them has this digest (FORMAT.md section 6).
export const F_RETENTION_INDEX: u32 = 180;
export const F_RETENTION_DIGEST: u32 = 181;
export const F_RETENTION_BEFORE: u32 = 182;

// `hold`: entries that may not be pruned, by name; or such a hold's end.
export const F_HOLD_NAME: u32 = 183;
export const F_HOLD_ACTION: u32 = 184;
export const F_HOLD_FROM: u32 = 185;
export const F_HOLD_TO: u32 = 186;
export const F_HOLD_REASON: u32 = 187;

// `anchors`: when an outsider first saw how much of the log, one after the other in each field.
export const F_OUTSIDE_FROM: u32 = 210;
export const F_OUTSIDE_SIZE: u32 = 211;
export const F_OUTSIDE_TIME: u32 = 212;

// `key`: the log's keys have changed. The first is the one that receipts are signed with.
export const F_KEY: u32 = 190;
export const F_KEY_STATEMENT: u32 = 191;

// `sender`: who sent the first batch of a chain, and is therefore the only one who may send more.
export const F_SENDER_CHAIN: u32 = 195;
export const F_SENDER_NAME: u32 = 196;
export const F_SENDER_AUTH: u32 = 197;

// `refused`: batches that were not taken in, a cause at a time.
export const F_REFUSED_CAUSE: u32 = 200;
export const F_REFUSED_COUNT: u32 = 201;
export const F_REFUSED_DIGEST: u32 = 202;

/** Field numbers whose value was cut to its limit. The last number of all, so that a writer knows it in time. */
export const F_CUT: u32 = 2047;

// Values of F_PEER_AUTH and F_USER_AUTH: how an identity is known. A header alone is never more than claimed.
export const PEER_NONE: u32 = 0;
export const PEER_MTLS: u32 = 1;
export const USER_JWT_VERIFIED: u32 = 2;
export const USER_CLAIMED: u32 = 3;
export const PEER_TUNNEL: u32 = 4;

// Values of F_ANSWERED_BY.
export const ANSWERED_BY_NOBODY: u32 = 0;
export const ANSWERED_BY_UPSTREAM: u32 = 1;
export const ANSWERED_BY_PROXY: u32 = 2;

// Values of F_DECISION.
export const DECISION_ALLOWED: u32 = 1;
export const DECISION_DENIED: u32 = 2;
export const DECISION_NOTHING_ALLOWED: u32 = 3;
export const DECISION_ERROR: u32 = 4;

// Values of F_DENIED_BY and F_ALLOWED_BY: the engine.
export const ENGINE_RBAC: u32 = 1;
export const ENGINE_EXT_AUTHZ: u32 = 2;
export const ENGINE_JWT: u32 = 3;
export const ENGINE_RATE_LIMIT: u32 = 4;
export const ENGINE_MESHSEAL: u32 = 5;
export const ENGINE_FAULT: u32 = 6;
export const ENGINE_CSRF: u32 = 7;

// Values of F_SENDER_AUTH: how the sender's name is known.
export const SENDER_NONE: u32 = 0;
export const SENDER_MTLS: u32 = 1;
export const SENDER_XFCC: u32 = 2;
export const SENDER_MAC: u32 = 3;

// Values of F_GAP_CAUSE.
export const GAP_BUFFER_FULL: u32 = 1;
export const GAP_HOST_FAILED: u32 = 2;
export const GAP_BEST_EFFORT: u32 = 3;

// Values of F_DELIVERY: what happens to a request that cannot be recorded.
export const DELIVERY_BOUNDED_LOSS: u32 = 1;
export const DELIVERY_BEST_EFFORT: u32 = 2;
export const DELIVERY_ENFORCED: u32 = 3;

// Values of F_RECOVERED_PROOF: what shows that the entries are the maker's.
export const RECOVERED_LINKS: u32 = 0;
export const RECOVERED_MAC: u32 = 1;

// Values of F_HOLD_ACTION.
export const HOLD_PLACED: u32 = 1;
export const HOLD_LIFTED: u32 = 2;

// Values of F_ABANDONED_CAUSE: the refusal that ended the chain before.
export const ABANDONED_MALFORMED: u32 = 1;
export const ABANDONED_FORK: u32 = 2;
export const ABANDONED_HOLE: u32 = 3;
export const ABANDONED_ROLLBACK: u32 = 4;
export const ABANDONED_TOO_LARGE: u32 = 5;

// Limits of values that come from the network, in bytes. What is longer is cut and listed in F_CUT.
export const MAX_METHOD: u32 = 64;
export const MAX_PATH: u32 = 8192;
export const MAX_AUTHORITY: u32 = 1024;
export const MAX_CODE_DETAILS: u32 = 1024;
export const MAX_PROTOCOL: u32 = 32;
export const MAX_REQUEST_ID: u32 = 256;
export const MAX_USER_AGENT: u32 = 1024;
export const MAX_ADDRESS: u32 = 256;
export const MAX_PRINCIPAL: u32 = 2048;
export const MAX_NAME: u32 = 512;
export const MAX_RECEIPT: u32 = 4096;
export const MAX_CONTENT_TYPE: u32 = 128;
export const MAX_SUBJECT: u32 = 1024;
export const MAX_SCHEME: u32 = 32;
export const MAX_TLS_VERSION: u32 = 16;
export const MAX_SERVER_NAME: u32 = 256;
export const MAX_HEADER: u32 = 4096;
export const MAX_HASHED_HEADER: u32 = 256;
export const MAX_KEY_NAME: u32 = 64;
/** HMAC-SHA-256 in entries: its first 16 bytes. */
export const HASH_BYTES: u32 = 16;
export const TRACE_BYTES: u32 = 16;
export const SPAN_BYTES: u32 = 8;
// How often a repeated fact may stand in one entry.
export const MAX_PATH_VALUES: u32 = 16;
export const MAX_QUERY_KEYS: u32 = 32;
export const MAX_ENGINES: u32 = 8;
export const MAX_SHADOWS: u32 = 4;
export const MAX_HEADERS: u32 = 32;
export const MAX_POLICIES: u32 = 16;
/** An ECDSA signature over P-256 in DER takes at most 72. */
export const MAX_SIGNATURE: u32 = 128;
/** Chains that one `open` can hint at. */
export const MAX_HINTS: u32 = 64;
/** Keys that a log can have at a time, and digests in one `refused`. */
export const MAX_KEYS: u32 = 16;
export const MAX_REFUSED_DIGESTS: u32 = 32;
/** Steps in one `anchors`: an outsider every few seconds. */
export const MAX_STEPS: u32 = 64;
/** Anchors in one `anchors`, peers in one `peers`. */
export const MAX_ANCHORS: u32 = 32;
export const MAX_PEERS: u32 = 16;
export const MAX_PEER_CHECKPOINT: u32 = 2048;
export const MAX_VERIFY_FINDINGS: u32 = 16;

/** A varint of at most 2^53 - 1. */
export const TYPE_UINT: u32 = 0;
/** A length and that many bytes. */
export const TYPE_BYTES: u32 = 2;

/** What is known of one field number. */
export class Field {
  number: u32;
  name: string;
  /** TYPE_UINT or TYPE_BYTES: also protobuf's wire type. */
  type: u32;
  /** Bytes at least and at most; 0 for TYPE_UINT. */
  min: u32;
  max: u32;
  /** How often it may stand in one entry. */
  times: u32;
  /** A bit for each kind that may carry it: 1 << kind. */
  kinds: u32;

  constructor(number: u32, name: string, type: u32, min: u32, max: u32, times: u32, kinds: u32) {
    this.number = number;
    this.name = name;
    this.type = type;
    this.min = min;
    this.max = max;
    this.times = times;
    this.kinds = kinds;
  }
}

const ALL: u32 = 0x1fff03fe; // 1 to 9 and 16 to 28
const REQUESTS: u32 = 0x1c; // request, request_start, connection
const OPEN: u32 = 0x02;
const GAP: u32 = 0x20;
const CONFIG: u32 = 0x40;
const HEARTBEAT: u32 = 0x80;
const SIGNATURE: u32 = 0x100;
/** heartbeat, close */
const COUNTS: u32 = 0x280;
const RECOVERED: u32 = 0x0800_0000;
const ANCHORS: u32 = 0x0001_0000;
const PEERS: u32 = 0x0002_0000;
const VERIFY_RESULT: u32 = 0x0004_0000;
const HOLD: u32 = 0x0040_0000;
const RETENTION: u32 = 0x0080_0000;
const KEY: u32 = 0x0100_0000;
const REFUSED: u32 = 0x0400_0000;
const SENDER: u32 = 0x1000_0000;

function uint(number: u32, name: string, kinds: u32): Field {
  return new Field(number, name, TYPE_UINT, 0, 0, 1, kinds);
}

function bytes(number: u32, name: string, max: u32, kinds: u32): Field {
  return new Field(number, name, TYPE_BYTES, 0, max, 1, kinds);
}

function fixed(number: u32, name: string, length: u32, kinds: u32): Field {
  return new Field(number, name, TYPE_BYTES, length, length, 1, kinds);
}

function many(number: u32, name: string, max: u32, times: u32, kinds: u32): Field {
  return new Field(number, name, TYPE_BYTES, 0, max, times, kinds);
}

function hashes(number: u32, name: string, times: u32, kinds: u32): Field {
  return new Field(number, name, TYPE_BYTES, HASH_BYTES, HASH_BYTES, times, kinds);
}

/** Returns every field, in ascending order of number. A function, so that asc leaves it out of the module. */
export function fieldTable(): Field[] {
  return [
    uint(F_KIND, "kind", ALL),
    fixed(F_CHAIN, "chain", CHAIN_BYTES, ALL),
    uint(F_SEQ, "seq", ALL),
    fixed(F_PREV, "prev", DIGEST_BYTES, ALL),
    uint(F_TIME, "time", ALL),
    fixed(F_SALT, "salt", SALT_BYTES, ALL),
    uint(F_CONFIG, "config", ALL),
    uint(F_STATUS, "status", REQUESTS),
    bytes(F_METHOD, "method", MAX_METHOD, REQUESTS),
    bytes(F_PATH, "path", MAX_PATH, REQUESTS),
    bytes(F_AUTHORITY, "authority", MAX_AUTHORITY, REQUESTS),
    uint(F_DURATION, "duration", REQUESTS),
    uint(F_BYTES_IN, "bytes_in", REQUESTS),
    uint(F_BYTES_OUT, "bytes_out", REQUESTS),
    uint(F_FLAGS, "flags", REQUESTS),
    bytes(F_CODE_DETAILS, "code_details", MAX_CODE_DETAILS, REQUESTS),
    bytes(F_PROTOCOL, "protocol", MAX_PROTOCOL, REQUESTS),
    bytes(F_REQUEST_ID, "request_id", MAX_REQUEST_ID, REQUESTS),
    bytes(F_USER_AGENT, "user_agent", MAX_USER_AGENT, REQUESTS),
    bytes(F_SOURCE_ADDRESS, "source_address", MAX_ADDRESS, REQUESTS),
    bytes(F_DESTINATION_ADDRESS, "destination_address", MAX_ADDRESS, REQUESTS),
    bytes(F_PEER_PRINCIPAL, "peer_principal", MAX_PRINCIPAL, REQUESTS),
    uint(F_PEER_AUTH, "peer_auth", REQUESTS),
    bytes(F_ROUTE, "route", MAX_NAME, REQUESTS),
    bytes(F_UPSTREAM_CLUSTER, "upstream_cluster", MAX_NAME, REQUESTS),
    bytes(F_UPSTREAM_ADDRESS, "upstream_address", MAX_ADDRESS, REQUESTS),
    uint(F_SOURCE_FORWARDED, "source_forwarded", REQUESTS),
    bytes(F_ORIGINAL_PATH, "original_path", MAX_PATH, REQUESTS),
    bytes(F_ORIGINAL_AUTHORITY, "original_authority", MAX_AUTHORITY, REQUESTS),
    uint(F_PATH_TEMPLATE, "path_template", REQUESTS),
    hashes(F_PATH_VALUE, "path_value", MAX_PATH_VALUES, REQUESTS),
    many(F_QUERY_KEY, "query_key", MAX_KEY_NAME, MAX_QUERY_KEYS, REQUESTS),
    bytes(F_CONTENT_TYPE, "content_type", MAX_CONTENT_TYPE, REQUESTS),
    uint(F_ANSWERED_BY, "answered_by", REQUESTS),
    uint(F_DIRECTION, "direction", REQUESTS),
    bytes(F_FILTER_CHAIN, "filter_chain", MAX_NAME, REQUESTS),
    fixed(F_PEER_CERTIFICATE, "peer_certificate", DIGEST_BYTES, REQUESTS),
    bytes(F_PEER_SUBJECT, "peer_subject", MAX_SUBJECT, REQUESTS),
    bytes(F_PEER_DNS, "peer_dns", MAX_NAME, REQUESTS),
    bytes(F_LOCAL_PRINCIPAL, "local_principal", MAX_PRINCIPAL, REQUESTS),
    uint(F_USER_AUTH, "user_auth", REQUESTS),
    bytes(F_USER_ISSUER, "user_issuer", MAX_NAME, REQUESTS),
    bytes(F_USER_SUBJECT, "user_subject", MAX_NAME, REQUESTS),
    fixed(F_USER_SUBJECT_HASH, "user_subject_hash", HASH_BYTES, REQUESTS),
    bytes(F_CLAIMED_PRINCIPAL, "claimed_principal", MAX_PRINCIPAL, REQUESTS),
    bytes(F_AUTH_SCHEME, "auth_scheme", MAX_SCHEME, REQUESTS),
    uint(F_DECISION, "decision", REQUESTS),
    uint(F_DENIED_BY, "denied_by", REQUESTS),
    new Field(F_ALLOWED_BY, "allowed_by", TYPE_UINT, 0, 0, MAX_ENGINES, REQUESTS),
    bytes(F_POLICY, "policy", MAX_NAME, REQUESTS),
    uint(F_POLICY_RULE, "policy_rule", REQUESTS),
    many(F_SHADOW, "shadow", MAX_NAME, MAX_SHADOWS, REQUESTS),
    uint(F_AUDIT, "audit", REQUESTS),
    bytes(F_TLS_VERSION, "tls_version", MAX_TLS_VERSION, REQUESTS),
    bytes(F_SERVER_NAME, "server_name", MAX_SERVER_NAME, REQUESTS),
    uint(F_ATTEMPTS, "attempts", REQUESTS),
    bytes(F_UPSTREAM_PRINCIPAL, "upstream_principal", MAX_PRINCIPAL, REQUESTS),
    fixed(F_UPSTREAM_CERTIFICATE, "upstream_certificate", DIGEST_BYTES, REQUESTS),
    bytes(F_UPSTREAM_TLS_VERSION, "upstream_tls_version", MAX_TLS_VERSION, REQUESTS),
    fixed(F_STREAM_ID, "stream_id", STREAM_ID_BYTES, REQUESTS),
    fixed(F_REQUEST_DIGEST, "request_digest", DIGEST_BYTES, REQUESTS),
    fixed(F_RESPONSE_DIGEST, "response_digest", DIGEST_BYTES, REQUESTS),
    bytes(F_TRANSPORT_FAILURE, "transport_failure", MAX_NAME, REQUESTS),
    bytes(F_TERMINATION, "termination", MAX_CODE_DETAILS, REQUESTS),
    bytes(F_UPSTREAM_FAILURE, "upstream_failure", MAX_NAME, REQUESTS),
    fixed(F_TRACE_ID, "trace_id", TRACE_BYTES, REQUESTS),
    fixed(F_SPAN_ID, "span_id", SPAN_BYTES, REQUESTS),
    uint(F_TRACE_FLAGS, "trace_flags", REQUESTS),
    uint(F_GRPC_STATUS, "grpc_status", REQUESTS),
    many(F_REQUEST_HEADER, "request_header", MAX_HEADER, MAX_HEADERS, REQUESTS),
    many(F_REQUEST_HEADER_HASH, "request_header_hash", MAX_HASHED_HEADER, MAX_HEADERS, REQUESTS),
    many(F_REQUEST_HEADER_PRESENT, "request_header_present", MAX_KEY_NAME, MAX_HEADERS, REQUESTS),
    many(F_RESPONSE_HEADER, "response_header", MAX_HEADER, MAX_HEADERS, REQUESTS),
    many(F_RESPONSE_HEADER_HASH, "response_header_hash", MAX_HASHED_HEADER, MAX_HEADERS, REQUESTS),
    many(F_RESPONSE_HEADER_PRESENT, "response_header_present", MAX_KEY_NAME, MAX_HEADERS, REQUESTS),
    bytes(F_HASH_KEY, "hash_key", MAX_KEY_NAME, REQUESTS),
    new Field(
      F_POLICY_DIGEST,
      "policy_digest",
      TYPE_BYTES,
      DIGEST_BYTES,
      DIGEST_BYTES,
      MAX_POLICIES,
      OPEN | CONFIG,
    ),
    bytes(F_POLICY_NAME, "policy_name", MAX_NAME, CONFIG),
    uint(F_FORMAT, "format", OPEN),
    bytes(F_NODE_ID, "node_id", MAX_NAME, OPEN),
    bytes(F_NODE_CLUSTER, "node_cluster", MAX_NAME, OPEN),
    bytes(F_POD, "pod", MAX_NAME, OPEN),
    bytes(F_NAMESPACE, "namespace", MAX_NAME, OPEN),
    bytes(F_WORKLOAD, "workload", MAX_NAME, OPEN),
    bytes(F_PLUGIN, "plugin", MAX_NAME, OPEN),
    bytes(F_PRODUCER, "producer", MAX_NAME, OPEN),
    fixed(F_MODULE_DIGEST, "module_digest", DIGEST_BYTES, OPEN),
    fixed(F_CONFIG_DIGEST, "config_digest", DIGEST_BYTES, OPEN | CONFIG),
    bytes(F_KEY_ID, "key_id", MAX_NAME, OPEN),
    uint(F_HEARTBEAT_MS, "heartbeat_ms", OPEN),
    new Field(F_HINT, "hint", TYPE_BYTES, CHAIN_BYTES, CHAIN_BYTES, MAX_HINTS, OPEN),
    fixed(F_ABANDONED_CHAIN, "abandoned_chain", CHAIN_BYTES, OPEN),
    uint(F_ABANDONED_SEQ, "abandoned_seq", OPEN),
    fixed(F_ABANDONED_HEAD, "abandoned_head", DIGEST_BYTES, OPEN),
    uint(F_ABANDONED_CAUSE, "abandoned_cause", OPEN),
    uint(F_ABANDONED_COUNT, "abandoned_count", OPEN),
    uint(F_GAP_COUNT, "gap_count", GAP),
    uint(F_GAP_FROM, "gap_from", GAP),
    uint(F_GAP_TO, "gap_to", GAP),
    uint(F_GAP_CAUSE, "gap_cause", GAP),
    bytes(F_RECEIPT, "receipt", MAX_RECEIPT, HEARTBEAT),
    bytes(F_SIGN_KEY, "sign_key", MAX_NAME, OPEN),
    new Field(F_HINT_SEQ, "hint_seq", TYPE_UINT, 0, 0, MAX_HINTS, OPEN),
    bytes(F_SIGNATURE, "signature", MAX_SIGNATURE, SIGNATURE),
    uint(F_STREAMS, "streams", COUNTS),
    uint(F_STREAMS_WRITTEN, "streams_written", COUNTS),
    uint(F_STREAMS_MISSED, "streams_missed", COUNTS),
    uint(F_STREAMS_REFUSED, "streams_refused", COUNTS),
    uint(F_DELIVERY, "delivery", OPEN),
    fixed(F_RECOVERED_CHAIN, "recovered_chain", CHAIN_BYTES, RECOVERED),
    uint(F_RECOVERED_SEQ, "recovered_seq", RECOVERED),
    uint(F_RECOVERED_COUNT, "recovered_count", RECOVERED),
    uint(F_RECOVERED_PROOF, "recovered_proof", RECOVERED),
    new Field(F_ANCHOR, "anchor", TYPE_BYTES, 0, MAX_NAME, MAX_ANCHORS, ANCHORS),
    new Field(F_ANCHOR_SIZE, "anchor_size", TYPE_UINT, 0, 0, MAX_ANCHORS, ANCHORS),
    new Field(F_ANCHOR_TIME, "anchor_time", TYPE_UINT, 0, 0, MAX_ANCHORS, ANCHORS),
    new Field(
      F_ANCHOR_PROOF,
      "anchor_proof",
      TYPE_BYTES,
      DIGEST_BYTES,
      DIGEST_BYTES,
      MAX_ANCHORS,
      ANCHORS,
    ),
    new Field(F_PEER_ORIGIN, "peer_origin", TYPE_BYTES, 0, MAX_NAME, MAX_PEERS, PEERS),
    new Field(F_PEER_KEY, "peer_key", TYPE_BYTES, 0, MAX_NAME, MAX_PEERS, PEERS),
    new Field(
      F_PEER_CHECKPOINT,
      "peer_checkpoint",
      TYPE_BYTES,
      0,
      MAX_PEER_CHECKPOINT,
      MAX_PEERS,
      PEERS,
    ),
    uint(F_VERIFY_SIZE, "verify_size", VERIFY_RESULT),
    uint(F_VERIFY_PASSES, "verify_passes", VERIFY_RESULT),
    uint(F_VERIFY_OLDEST, "verify_oldest", VERIFY_RESULT),
    uint(F_VERIFY_FOUND, "verify_found", VERIFY_RESULT),
    new Field(
      F_VERIFY_FINDING,
      "verify_finding",
      TYPE_BYTES,
      0,
      MAX_NAME,
      MAX_VERIFY_FINDINGS,
      VERIFY_RESULT,
    ),
    bytes(F_TAKEN_UP, "taken_up", MAX_RECEIPT, PEERS),
    uint(F_RETENTION_INDEX, "retention_index", RETENTION),
    fixed(F_RETENTION_DIGEST, "retention_digest", DIGEST_BYTES, RETENTION),
    uint(F_RETENTION_BEFORE, "retention_before", RETENTION),
    bytes(F_HOLD_NAME, "hold_name", MAX_NAME, HOLD),
    uint(F_HOLD_ACTION, "hold_action", HOLD),
    uint(F_HOLD_FROM, "hold_from", HOLD),
    uint(F_HOLD_TO, "hold_to", HOLD),
    bytes(F_HOLD_REASON, "hold_reason", MAX_NAME, HOLD),
    new Field(F_KEY, "key", TYPE_BYTES, 0, MAX_NAME, MAX_KEYS, KEY),
    bytes(F_KEY_STATEMENT, "key_statement", MAX_RECEIPT, KEY),
    fixed(F_SENDER_CHAIN, "sender_chain", CHAIN_BYTES, SENDER),
    bytes(F_SENDER_NAME, "sender_name", MAX_PRINCIPAL, SENDER),
    uint(F_SENDER_AUTH, "sender_auth", SENDER),
    bytes(F_REFUSED_CAUSE, "refused_cause", MAX_NAME, REFUSED),
    uint(F_REFUSED_COUNT, "refused_count", REFUSED),
    new Field(
      F_REFUSED_DIGEST,
      "refused_digest",
      TYPE_BYTES,
      DIGEST_BYTES,
      DIGEST_BYTES,
      MAX_REFUSED_DIGESTS,
      REFUSED,
    ),
    new Field(F_OUTSIDE_FROM, "outside_from", TYPE_UINT, 0, 0, MAX_STEPS, ANCHORS),
    new Field(F_OUTSIDE_SIZE, "outside_size", TYPE_UINT, 0, 0, MAX_STEPS, ANCHORS),
    new Field(F_OUTSIDE_TIME, "outside_time", TYPE_UINT, 0, 0, MAX_STEPS, ANCHORS),
    new Field(F_CUT, "cut", TYPE_UINT, 0, 0, 64, ALL),
  ];
}

/** Returns the name of a kind, or "" for a number that this version does not know. */
export function kindName(kind: u32): string {
  if (kind === KIND_OPEN) return "open";
  if (kind === KIND_REQUEST) return "request";
  if (kind === KIND_REQUEST_START) return "request_start";
  if (kind === KIND_CONNECTION) return "connection";
  if (kind === KIND_GAP) return "gap";
  if (kind === KIND_CONFIG) return "config";
  if (kind === KIND_HEARTBEAT) return "heartbeat";
  if (kind === KIND_SIGNATURE) return "signature";
  if (kind === KIND_CLOSE) return "close";
  if (kind === KIND_ANCHORS) return "anchors";
  if (kind === KIND_PEERS) return "peers";
  if (kind === KIND_VERIFY_RESULT) return "verify_result";
  if (kind === KIND_COVERAGE) return "coverage";
  if (kind === KIND_READS) return "reads";
  if (kind === KIND_EXPORT) return "export";
  if (kind === KIND_HOLD) return "hold";
  if (kind === KIND_RETENTION) return "retention";
  if (kind === KIND_KEY) return "key";
  if (kind === KIND_FINDING) return "finding";
  if (kind === KIND_REFUSED) return "refused";
  if (kind === KIND_RECOVERED) return "recovered";
  if (kind === KIND_SENDER) return "sender";
  return "";
}
