/**
 * What is the same for a whole connection, kept as encoded fields for 256 connections: a request copies them. Envoy never uses a connection's
 * id again while the process lives, so a slot never says anything of another connection.
 */
import {
  DIGEST_BYTES,
  F_DESTINATION_ADDRESS,
  F_DIRECTION,
  F_FILTER_CHAIN,
  F_LOCAL_PRINCIPAL,
  F_PEER_AUTH,
  F_PEER_CERTIFICATE,
  F_PEER_DNS,
  F_PEER_PRINCIPAL,
  F_PEER_SUBJECT,
  F_SERVER_NAME,
  F_TLS_VERSION,
  MAX_ADDRESS,
  MAX_NAME,
  MAX_PRINCIPAL,
  MAX_SERVER_NAME,
  MAX_SUBJECT,
  MAX_TLS_VERSION,
  PEER_MTLS,
  PEER_NONE,
  PEER_TUNNEL,
} from "../record/fields";
import * as entry from "./entry";
import { putBlock, putBytes, putUint } from "./entry";
import { hexValue } from "./hmac";
import * as host from "./host";
import { Text } from "./host";

const DESTINATION = new Text("destination\0address");
const MTLS = new Text("connection\0mtls");
const URI_SAN = new Text("connection\0uri_san_peer_certificate");
const CERTIFICATE = new Text("connection\0sha256_peer_certificate_digest");
const SUBJECT = new Text("connection\0subject_peer_certificate");
const DNS_SAN = new Text("connection\0dns_san_peer_certificate");
const LOCAL_URI_SAN = new Text("connection\0uri_san_local_certificate");
const TLS_VERSION = new Text("connection\0tls_version");
const SERVER_NAME = new Text("connection\0requested_server_name");
const DIRECTION = new Text("xds\0listener_direction");
const FILTER_CHAIN = new Text("xds\0filter_chain_name");
/** Where an Istio waypoint's outer listener leaves the peer of the tunnel's mutual TLS. */
const TUNNEL_PEER = new Text("filter_state\0io.istio.peer_principal");

// The parts of a slot, each a run of fields with ascending numbers: 21; 22 to 23; 35 to 36; 37 to 40; 54 to 55.
const ADDRESS = 0;
const PEER = 1;
const LISTENER = 2;
const CERTIFICATES = 3;
const TLS = 4;
const PARTS = 5;

// A slot: u64 id; for each part u16 end, u16 cut; then the bytes. And the peer's principal again, as offset and length.
const CONNECTIONS: usize = 256;
const SLOT: usize = 1024;
const ENDS_AT: usize = 8;
const PRINCIPAL_AT: usize = ENDS_AT + 4 * 5;
const BYTES_AT: usize = PRINCIPAL_AT + 4;
const SLOTS: usize = memory.data(256 * 1024, 16);
/** For a connection whose facts are longer than a slot: they are read anew for each request. */
const LARGE: usize = memory.data(8192, 16);
const RAW: usize = memory.data(32, 16);

let slot: usize = 0;
let part: usize = 0;
let cut: u32 = 0;

/** Forgets all connections: the configuration has changed. */
export function clear(): void {
  memory.fill(SLOTS, 0, CONNECTIONS * SLOT);
}

const ID = new Text("connection\0id");
/** Envoy numbers connections as they come. */
let newest: u64 = 0;

/** Tells if the current stream's connection is newer than all that had a request before. */
export function isNewest(): bool {
  if (!host.property(ID.at, ID.bytes) || host.size !== 8 || load<u64>(host.data) <= newest)
    return false;
  newest = load<u64>(host.data);
  return true;
}

/** Makes a connection's facts the ones that `put` writes. */
export function select(id: u64): void {
  if (id > newest) newest = id;
  slot = SLOTS + ((id as usize) & (CONNECTIONS - 1)) * SLOT;
  if (id !== 0 && load<u64>(slot) === id) return;
  slot = LARGE;
  readFacts();
  const bytes = BYTES_AT + load<u16>(LARGE + ENDS_AT + 4 * (PARTS - 1));
  if (id === 0 || bytes > SLOT) return;
  slot = SLOTS + ((id as usize) & (CONNECTIONS - 1)) * SLOT;
  memory.copy(slot, LARGE, bytes);
  store<u64>(slot, id);
}

/** Writes the fields of one part. */
function put(which: usize, first: u32): void {
  const ends = slot + ENDS_AT;
  const from: usize = which === 0 ? 0 : load<u16>(ends + 4 * (which - 1));
  const to: usize = load<u16>(ends + 4 * which);
  putBlock(slot + BYTES_AT + from, to - from, first, load<u16>(ends + 4 * which, 2));
}

export function putAddress(): void {
  put(ADDRESS, F_DESTINATION_ADDRESS);
}

export function putPeer(): void {
  put(PEER, F_PEER_PRINCIPAL);
}

export function putListener(): void {
  put(LISTENER, F_DIRECTION);
}

export function putCertificates(): void {
  put(CERTIFICATES, F_PEER_CERTIFICATE);
}

export function putTls(): void {
  put(TLS, F_TLS_VERSION);
}

/** Tells if the bytes are the peer's principal. */
export function isPrincipal(at: usize, bytes: u32): bool {
  const length: u32 = load<u16>(slot + PRINCIPAL_AT, 2);
  return (
    length > 0 &&
    length === bytes &&
    memory.compare(slot + BYTES_AT + load<u16>(slot + PRINCIPAL_AT), at, bytes) === 0
  );
}

// Facts are encoded with the entry's own functions, in place, while no entry is under way.

function readFacts(): void {
  const before = entry.at;
  entry.writeAt(LARGE + BYTES_AT);
  store<u32>(LARGE + PRINCIPAL_AT, 0);
  part = 0;
  cut = 0;
  keep(F_DESTINATION_ADDRESS, F_DESTINATION_ADDRESS, DESTINATION, MAX_ADDRESS);
  endPart();
  const isMutual = host.property(MTLS.at, MTLS.bytes) && host.size > 0 && load<u8>(host.data) !== 0;
  if (isMutual) keepPrincipal(URI_SAN);
  const isTunnel = !isMutual && keepPrincipal(TUNNEL_PEER);
  putUint(F_PEER_AUTH, isMutual ? PEER_MTLS : isTunnel ? PEER_TUNNEL : PEER_NONE);
  endPart();
  if (host.property(DIRECTION.at, DIRECTION.bytes) && host.size === 8) {
    const direction = load<u64>(host.data);
    if (direction > 0) putUint(F_DIRECTION, direction);
  }
  keep(F_FILTER_CHAIN, F_DIRECTION, FILTER_CHAIN, MAX_NAME);
  endPart();
  const isTls = host.property(TLS_VERSION.at, TLS_VERSION.bytes) && host.size > 0;
  if (isMutual) {
    keepDigest();
    keep(F_PEER_SUBJECT, F_PEER_CERTIFICATE, SUBJECT, MAX_SUBJECT);
    keep(F_PEER_DNS, F_PEER_CERTIFICATE, DNS_SAN, MAX_NAME);
  }
  if (isTls) keep(F_LOCAL_PRINCIPAL, F_PEER_CERTIFICATE, LOCAL_URI_SAN, MAX_PRINCIPAL);
  endPart();
  if (isTls) {
    keep(F_TLS_VERSION, F_TLS_VERSION, TLS_VERSION, MAX_TLS_VERSION);
    keep(F_SERVER_NAME, F_TLS_VERSION, SERVER_NAME, MAX_SERVER_NAME);
  }
  endPart();
  entry.writeAt(before);
}

function endPart(): void {
  const ends = LARGE + ENDS_AT + 4 * part;
  store<u16>(ends, (entry.at - (LARGE + BYTES_AT)) as u16);
  store<u16>(ends, cut as u16, 2);
  part++;
  cut = 0;
}

/** Writes an attribute that is there and not empty. */
function keep(number: u32, first: u32, path: Text, most: u32): bool {
  if (!host.property(path.at, path.bytes) || host.size === 0) return false;
  const bytes = host.size as u32;
  if (bytes > most) cut |= 1 << (number - first);
  putBytes(number, host.data, min(bytes, most), most);
  return true;
}

function keepPrincipal(path: Text): bool {
  if (!keep(F_PEER_PRINCIPAL, F_PEER_PRINCIPAL, path, MAX_PRINCIPAL)) return false;
  const bytes = min(host.size as u32, MAX_PRINCIPAL);
  store<u16>(LARGE + PRINCIPAL_AT, (entry.at - bytes - (LARGE + BYTES_AT)) as u16);
  store<u16>(LARGE + PRINCIPAL_AT, bytes as u16, 2);
  return true;
}

/** The certificate's digest comes as 64 hex digits. */
function keepDigest(): void {
  if (!host.property(CERTIFICATE.at, CERTIFICATE.bytes)) return;
  if (digestOf(host.data, host.size as u32, RAW))
    putBytes(F_PEER_CERTIFICATE, RAW, DIGEST_BYTES, DIGEST_BYTES);
}

/** Reads 64 hex digits. False if they are none. */
export function digestOf(from: usize, bytes: u32, to: usize): bool {
  return bytes === 2 * DIGEST_BYTES && readHex(from, DIGEST_BYTES, to);
}

/** Reads 2 * `bytes` hex digits. False if one is none. */
export function readHex(from: usize, bytes: u32, to: usize): bool {
  for (let i: usize = 0; i < (bytes as usize); i++) {
    const high = hexValue(load<u8>(from + 2 * i));
    const low = hexValue(load<u8>(from + 2 * i + 1));
    if (high < 0 || low < 0) return false;
    store<u8>(to + i, ((high << 4) | low) as u8);
  }
  return true;
}
