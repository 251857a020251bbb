/**
 * The dynamic metadata that other filters leave behind: RBAC's results, the verified JWT, ext_authz, and the hint that a policy wants the
 * request audited. It can only be written by filters, never by a client.
 */
import * as host from "./host";
import { isText, Text } from "./host";
import { Pairs } from "./pairs";

const RBAC = new Text("envoy.filters.http.rbac");
const JWT = new Text("envoy.filters.http.jwt_authn");
const EXT_AUTHZ = new Text("envoy.filters.http.ext_authz");
const COMMON = new Text("envoy.common");
const HINT = new Text("access_log_hint");
const ISSUER = new Text("iss");
const SUBJECT = new Text("sub");

const PREFIX = "metadata\0filter_metadata\0";
const RBAC_PATH = new Text(PREFIX + "envoy.filters.http.rbac");
const EXT_AUTHZ_PATH = new Text(PREFIX + "envoy.filters.http.ext_authz");
const HINT_PATH = new Text(PREFIX + "envoy.common\0access_log_hint");
let jwtKey = new Text("payload");
let payloadPath = new Text(PREFIX);
let issuerPath = new Text(PREFIX);
let subjectPath = new Text(PREFIX);

const NAMESPACES = new Pairs();
const KEYS = new Pairs();
const CLAIMS = new Pairs();

/** RBAC's map as pairs; 0 bytes where no RBAC filter left one. */
export let rbac: usize = 0;
export let rbacBytes: usize = 0;
export let hasExtAuthz: bool = false;
/** True if a policy with the action LOG matched: Istio's AUDIT. */
export let isAudited: bool = false;
/** True if jwt_authn verified a token and left its payload. */
export let isJwtVerified: bool = false;
export let issuer: usize = 0;
export let issuerBytes: u32 = 0;
export let subject: usize = 0;
export let subjectBytes: u32 = 0;

/** Takes up where the payload of a verified JWT lies: `payload_in_metadata`. */
export function prepare(key: string): void {
  const path = PREFIX + "envoy.filters.http.jwt_authn\0" + key;
  jwtKey = new Text(key);
  payloadPath = new Text(path);
  issuerPath = new Text(path + "\0iss");
  subjectPath = new Text(path + "\0sub");
}

function forget(): void {
  rbacBytes = 0;
  hasExtAuthz = false;
  isAudited = false;
  isJwtVerified = false;
  issuerBytes = 0;
  subjectBytes = 0;
}

/** Reads all of it, as the host serialises the map of namespaces. */
export function read(from: usize, bytes: usize): void {
  forget();
  if (!NAMESPACES.begin(from, bytes)) return;
  while (NAMESPACES.next()) {
    const name = NAMESPACES.key;
    const size = NAMESPACES.keyBytes;
    if (isText(name, size, RBAC)) {
      rbac = NAMESPACES.value;
      rbacBytes = NAMESPACES.valueBytes;
    } else if (isText(name, size, JWT)) readJwt(NAMESPACES.value, NAMESPACES.valueBytes);
    else if (isText(name, size, EXT_AUTHZ)) hasExtAuthz = true;
    else if (isText(name, size, COMMON)) readCommon(NAMESPACES.value, NAMESPACES.valueBytes);
  }
}

function readCommon(from: usize, bytes: usize): void {
  if (!KEYS.begin(from, bytes)) return;
  while (KEYS.next()) {
    if (isText(KEYS.key, KEYS.keyBytes, HINT)) isAudited = isTrue(KEYS.value, KEYS.valueBytes);
  }
}

function isTrue(at: usize, bytes: usize): bool {
  return bytes === 1 && load<u8>(at) === 1;
}

function readJwt(from: usize, bytes: usize): void {
  if (!KEYS.begin(from, bytes)) return;
  while (KEYS.next()) {
    if (!isText(KEYS.key, KEYS.keyBytes, jwtKey)) continue;
    isJwtVerified = true;
    if (!CLAIMS.begin(KEYS.value, KEYS.valueBytes)) continue;
    while (CLAIMS.next()) {
      if (isText(CLAIMS.key, CLAIMS.keyBytes, ISSUER)) {
        issuer = CLAIMS.value;
        issuerBytes = CLAIMS.valueBytes as u32;
      } else if (isText(CLAIMS.key, CLAIMS.keyBytes, SUBJECT)) {
        subject = CLAIMS.value;
        subjectBytes = CLAIMS.valueBytes as u32;
      }
    }
  }
}

/** Reads it by single attributes: where the host cannot serialise all of it, as with a null in a JWT's claims. */
export function readOneByOne(): void {
  forget();
  if (host.property(RBAC_PATH.at, RBAC_PATH.bytes)) {
    rbac = host.data;
    rbacBytes = host.size;
  }
  hasExtAuthz = host.property(EXT_AUTHZ_PATH.at, EXT_AUTHZ_PATH.bytes);
  isAudited = host.property(HINT_PATH.at, HINT_PATH.bytes) && isTrue(host.data, host.size);
  if (host.property(issuerPath.at, issuerPath.bytes)) {
    issuer = host.data;
    issuerBytes = host.size as u32;
  }
  if (host.property(subjectPath.at, subjectPath.bytes)) {
    subject = host.data;
    subjectBytes = host.size as u32;
  }
  isJwtVerified =
    issuerBytes > 0 || subjectBytes > 0 || host.property(payloadPath.at, payloadPath.bytes);
}
