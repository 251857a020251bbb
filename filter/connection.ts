/**
 * The entry of a connection that never became HTTP, as an access logger at the listener sees it: TLS that failed, a network filter that
 * refused, bytes that no codec can read, nothing at all. What became HTTP is written by the filter, or by the access logger at the connection manager.
 */
import {
  F_BYTES_IN,
  F_BYTES_OUT,
  F_CLAIMED_PRINCIPAL,
  F_DURATION,
  F_FLAGS,
  F_PEER_AUTH,
  F_SOURCE_ADDRESS,
  F_TERMINATION,
  F_TRANSPORT_FAILURE,
  KIND_CONNECTION,
  MAX_ADDRESS,
  MAX_CODE_DETAILS,
  MAX_NAME,
  MAX_PRINCIPAL,
  PEER_NONE,
} from "../record/fields";
import * as chain from "./chain";
import * as connections from "./connections";
import { beginFacts, holdFacts, putBytes, putFacts, putUint } from "./entry";
import * as fates from "./fates";
import * as host from "./host";
import { Text } from "./host";
import * as link from "./link";
import * as metadata from "./metadata";
import * as metrics from "./metrics";
import * as policy from "./policy";

const DETAILS = new Text("response\0code_details");
const PROTOCOL = new Text("request\0protocol");
const DURATION = new Text("request\0duration");
const REQUEST_BYTES = new Text("request\0total_size");
const RESPONSE_BYTES = new Text("response\0total_size");
const FLAGS = new Text("response\0flags");
const SOURCE = new Text("source\0address");
const URI_SAN = new Text("connection\0uri_san_peer_certificate");
const FAILURE = new Text("connection\0transport_failure_reason");
const TERMINATION = new Text("connection\0termination_details");

/** True for a stream of the connection manager: it has a reason for its status. A connection has none. */
export function isRequest(): bool {
  return host.property(DETAILS.at, DETAILS.bytes);
}

/** Writes the entry, or counts it as missing. Returns the time, or 0 for a connection that became HTTP. */
export function record(): u64 {
  if (host.property(PROTOCOL.at, PROTOCOL.bytes)) return 0;
  const now = chain.time();
  // An id of 0 is in no cache.
  connections.select(0);
  metadata.read(0, 0);
  const isFailed = host.property(FAILURE.at, FAILURE.bytes) && host.size > 0;
  const failure = host.data;
  const failureBytes = isFailed ? (host.size as u32) : 0;
  const isEnded = host.property(TERMINATION.at, TERMINATION.bytes) && host.size > 0;
  const termination = host.data;
  const terminationBytes = isEnded ? (host.size as u32) : 0;
  beginFacts();
  if (host.property(DURATION.at, DURATION.bytes) && host.size === 8) {
    const nanos = load<i64>(host.data);
    putUint(F_DURATION, nanos > 0 ? (nanos as u64) / 1000 : 0);
  }
  putNumber(F_BYTES_IN, REQUEST_BYTES);
  putNumber(F_BYTES_OUT, RESPONSE_BYTES);
  putNumber(F_FLAGS, FLAGS);
  putText(F_SOURCE_ADDRESS, SOURCE, MAX_ADDRESS);
  connections.putAddress();
  // A certificate that came with a handshake that failed proves nothing.
  if (isFailed) putUint(F_PEER_AUTH, PEER_NONE);
  else connections.putPeer();
  connections.putListener();
  if (isFailed) putText(F_CLAIMED_PRINCIPAL, URI_SAN, MAX_PRINCIPAL);
  else connections.putCertificates();
  policy.put(termination, terminationBytes);
  connections.putTls();
  if (isFailed) putBytes(F_TRANSPORT_FAILURE, failure, failureBytes, MAX_NAME);
  if (isEnded) putBytes(F_TERMINATION, termination, terminationBytes, MAX_CODE_DETAILS);
  if (!chain.beginRequest(KIND_CONNECTION, holdFacts(), now)) {
    fates.miss(now);
    return now;
  }
  putFacts();
  link.finish();
  metrics.requests.add(1);
  return now;
}

function putNumber(number: u32, path: Text): void {
  if (host.property(path.at, path.bytes) && host.size === 8) putUint(number, load<u64>(host.data));
}

function putText(number: u32, path: Text, most: u32): void {
  if (host.property(path.at, path.bytes) && host.size > 0)
    putBytes(number, host.data, host.size as u32, most);
}
