/**
 * The dynamic metadata that other filters leave behind: RBAC's results, the verified JWT, ext_authz, and the hint that a policy wants the
 * request audited. It can only be written by filters, never by a client.
 */
import { isText, Text } from "./host";
import { Entries, STRUCT, TEXT } from "./message";

const RBAC = new Text("envoy.filters.http.rbac");
const JWT = new Text("envoy.filters.http.jwt_authn");
const EXT_AUTHZ = new Text("envoy.filters.http.ext_authz");
const COMMON = new Text("envoy.common");
const HINT = new Text("access_log_hint");
const ISSUER = new Text("iss");
const SUBJECT = new Text("sub");

let jwtKey = new Text("payload");

const NAMESPACES = new Entries();
const KEYS = new Entries();
const CLAIMS = new Entries();

/** RBAC's Struct; 0 bytes where no RBAC filter left one. */
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
  jwtKey = new Text(key);
}

function forget(): void {
  rbacBytes = 0;
  hasExtAuthz = false;
  isAudited = false;
  isJwtVerified = false;
  issuerBytes = 0;
  subjectBytes = 0;
}

/** Reads a serialised envoy.config.core.v3.Metadata. */
export function read(from: usize, bytes: usize): void {
  forget();
  NAMESPACES.begin(from, bytes);
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
  KEYS.begin(from, bytes);
  while (KEYS.next()) if (isText(KEYS.key, KEYS.keyBytes, HINT)) isAudited = KEYS.isTrue();
}

function readJwt(from: usize, bytes: usize): void {
  KEYS.begin(from, bytes);
  while (KEYS.next()) {
    if (!isText(KEYS.key, KEYS.keyBytes, jwtKey)) continue;
    isJwtVerified = true;
    KEYS.open(STRUCT);
    CLAIMS.begin(KEYS.value, KEYS.valueBytes);
    while (CLAIMS.next()) {
      if (isText(CLAIMS.key, CLAIMS.keyBytes, ISSUER)) {
        CLAIMS.open(TEXT);
        issuer = CLAIMS.value;
        issuerBytes = CLAIMS.valueBytes as u32;
      } else if (isText(CLAIMS.key, CLAIMS.keyBytes, SUBJECT)) {
        CLAIMS.open(TEXT);
        subject = CLAIMS.value;
        subjectBytes = CLAIMS.valueBytes as u32;
      }
    }
  }
}
