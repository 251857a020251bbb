/** Who the user is, and what headers claim. Only what the proxy verified itself is more than a claim. */
import {
  F_AUTH_SCHEME,
  F_CLAIMED_PRINCIPAL,
  F_USER_AUTH,
  F_USER_ISSUER,
  F_USER_SUBJECT,
  F_USER_SUBJECT_HASH,
  MAX_NAME,
  MAX_PRINCIPAL,
  MAX_SCHEME,
  PEER_NONE,
  USER_CLAIMED,
  USER_JWT_VERIFIED,
} from "../record/fields";
import { KEEP_HASH, KEEP_PLAIN } from "./config";
import * as connections from "./connections";
import { putBytes, putUint } from "./entry";
import * as hash from "./hash";
import { AUTHORIZATION, CLIENT_CERT, Headers } from "./headers";
import { Text } from "./host";
import * as metadata from "./metadata";

/** Schemes that may be written down: of anything else the first word may be the secret itself. */
const SCHEMES: StaticArray<Text> = [
  new Text("Bearer"),
  new Text("Basic"),
  new Text("Digest"),
  new Text("DPoP"),
  new Text("Negotiate"),
  new Text("NTLM"),
  new Text("AWS4-HMAC-SHA256"),
  new Text("GNAP"),
  new Text("HOBA"),
  new Text("Mutual"),
  new Text("PrivateToken"),
  new Text("SCRAM-SHA-256"),
  new Text("vapid"),
];
const OTHER = new Text("other");

let subjectKeep: u32 = KEEP_HASH;

export function prepare(jwtSubject: u32): void {
  subjectKeep = jwtSubject;
}

export function put(request: Headers): void {
  const isClaimed = request.has(AUTHORIZATION);
  putUint(
    F_USER_AUTH,
    metadata.isJwtVerified ? USER_JWT_VERIFIED : isClaimed ? USER_CLAIMED : PEER_NONE,
  );
  if (metadata.isJwtVerified) {
    if (metadata.issuerBytes > 0)
      putBytes(F_USER_ISSUER, metadata.issuer, metadata.issuerBytes, MAX_NAME);
    if (metadata.subjectBytes > 0) {
      if (subjectKeep === KEEP_PLAIN)
        putBytes(F_USER_SUBJECT, metadata.subject, metadata.subjectBytes, MAX_NAME);
      else if (subjectKeep === KEEP_HASH)
        hash.put(F_USER_SUBJECT_HASH, metadata.subject, metadata.subjectBytes);
    }
  }
  if (request.has(CLIENT_CERT)) putClaimed(request.at(CLIENT_CERT), request.bytes(CLIENT_CERT));
  if (isClaimed) putScheme(request.at(AUTHORIZATION), request.bytes(AUTHORIZATION));
}

function putScheme(at: usize, bytes: u32): void {
  for (let i = 0; i < SCHEMES.length; i++) {
    const scheme = unchecked(SCHEMES[i]);
    if (bytes <= scheme.bytes || load<u8>(at + scheme.bytes) !== 0x20) continue;
    if (isSameWord(at, scheme)) return putBytes(F_AUTH_SCHEME, scheme.at, scheme.bytes, MAX_SCHEME);
  }
  putBytes(F_AUTH_SCHEME, OTHER.at, OTHER.bytes, MAX_SCHEME);
}

/** Compares without regard to the case of letters: RFC 9110, section 11.1. */
function isSameWord(at: usize, word: Text): bool {
  for (let i: usize = 0; i < (word.bytes as usize); i++) {
    const a = load<u8>(at + i);
    const b = load<u8>(word.at + i);
    const isLetter = (b | 0x20) >= 0x61 && (b | 0x20) <= 0x7a;
    if (isLetter ? (a | 0x20) !== (b | 0x20) : a !== b) return false;
  }
  return true;
}

/**
 * x-forwarded-client-cert: elements with commas between, pairs with semicolons between, values that may be quoted. Writes the last URI
 * that is not the peer's own: the last element is the nearest hop's, and may be this proxy's word on its own peer.
 */
function putClaimed(from: usize, size: u32): void {
  const to = from + size;
  let found: usize = 0;
  let foundBytes: u32 = 0;
  let here = from;
  while (here < to) {
    const key = here;
    let isQuoted = false;
    while (here < to) {
      const c = load<u8>(here);
      if (isQuoted && c === 0x5c) here++;
      else if (c === 0x22) isQuoted = !isQuoted;
      else if (!isQuoted && (c === 0x2c || c === 0x3b)) break;
      here++;
    }
    if (here > to) here = to;
    if (here - key > 4 && isUri(key)) {
      let value = key + 4;
      let end = here;
      if (end - value >= 2 && load<u8>(value) === 0x22 && load<u8>(end - 1) === 0x22) {
        value++;
        end--;
      }
      const length = (end - value) as u32;
      if (length > 0 && !connections.isPrincipal(value, length)) {
        found = value;
        foundBytes = length;
      }
    }
    here++;
  }
  if (foundBytes > 0) putBytes(F_CLAIMED_PRINCIPAL, found, foundBytes, MAX_PRINCIPAL);
}

function isUri(at: usize): bool {
  return (load<u32>(at) & 0xffdfdfdf) === 0x3d495255; // "URI=", of any case
}
