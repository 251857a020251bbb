/**
 * Who is at the other end: the SPIFFE identity in a verified client certificate, or the one that the exporter's own
 * sidecar reports. SPIFFE-ID 1.0 section 2, X.509-SVID section 5; Envoy's `x-forwarded-client-cert` header.
 *
 * Certificates, headers and names are attacker-controlled. What cannot be read exactly is no identity.
 */
import type { IncomingHttpHeaders } from "node:http";
import type { Socket } from "node:net";
import { TLSSocket } from "node:tls";
import { SENDER_MTLS, SENDER_NONE, SENDER_XFCC } from "../../record/fields.ts";

/** A party by name and how the name is known: a SENDER_* value of record/fields.ts. */
export type Sender = { readonly name: string; readonly auth: number };

export const ANONYMOUS: Sender = { name: "", auth: SENDER_NONE };

/** SPIFFE-ID 1.0 section 2.1: lower-case trust domain, path of unreserved segments, 2048 bytes in all. */
const SPIFFE_ID = /^spiffe:\/\/[a-z0-9._-]{1,255}(\/[a-zA-Z0-9._-]+)*$/;
const DNS_NAME = /^[a-zA-Z0-9*]([a-zA-Z0-9.-]{0,252})$/;
const MAX_NAME_BYTES = 2048;
const MAX_XFCC_BYTES = 16_384;

/**
 * Returns the identity in a certificate's subjectAltName as Node prints it: its one SPIFFE URI, or `dns:NAME` for a certificate
 * that has no URI and one DNS name. Null if there is none or more than one. Node quotes names that hold a comma or a
 * quote, and a quoted name matches nothing here.
 */
export function nameInCertificate(subjectAltName: string | undefined): string | null {
  const names = (subjectAltName ?? "").split(", ");
  const uris = names.filter((name) => name.startsWith("URI:"));
  if (uris.length > 0) {
    const [uri = ""] = uris;
    return uris.length === 1 && isSpiffeId(uri.slice(4)) ? uri.slice(4) : null;
  }
  const dns = names.filter((name) => name.startsWith("DNS:"));
  const [only = ""] = dns;
  return dns.length === 1 && DNS_NAME.test(only.slice(4)) ? `dns:${only.slice(4)}` : null;
}

/**
 * Returns the SPIFFE ID of the newest element of an `x-forwarded-client-cert` header, or null. With `APPEND_FORWARD` or
 * `SANITIZE_SET`, which Istio's sidecars use, that element is written by the sidecar in front of us.
 */
export function nameInXfcc(header: string): string | null {
  if (header.length > MAX_XFCC_BYTES) return null;
  const elements = splitOutsideQuotes(header, ",");
  const parts = splitOutsideQuotes(elements?.at(-1) ?? "", ";");
  const uris = (parts ?? []).filter((part) => /^uri=/i.test(part.trim()));
  const [uri = ""] = uris;
  const name = uri.trim().slice(4);
  return uris.length === 1 && isSpiffeId(name) ? name : null;
}

/** Returns who sent a request. A header counts only where `trustXfcc` says so, and only from a sidecar on this machine. */
export function senderOf(socket: Socket, headers: IncomingHttpHeaders, trustXfcc: boolean): Sender {
  const known = bySocket.get(socket);
  const fromTls = known ?? senderOfSocket(socket);
  if (known === undefined) bySocket.set(socket, fromTls);
  if (fromTls.auth !== SENDER_NONE || !trustXfcc || !isLoopback(socket.remoteAddress)) {
    return fromTls;
  }
  const header = headers["x-forwarded-client-cert"];
  const name = typeof header === "string" ? nameInXfcc(header) : null;
  return name === null ? ANONYMOUS : { name, auth: SENDER_XFCC };
}

export function isLoopback(address: string | undefined): boolean {
  return address !== undefined && /^(127\.|::1$|::ffff:127\.)/.test(address);
}

/** A connection's certificate never changes: read once. */
const bySocket = new WeakMap<Socket, Sender>();

function senderOfSocket(socket: Socket): Sender {
  if (!(socket instanceof TLSSocket) || !socket.authorized) return ANONYMOUS;
  const name = nameInCertificate(socket.getPeerX509Certificate()?.subjectAltName);
  return name === null ? ANONYMOUS : { name, auth: SENDER_MTLS };
}

function isSpiffeId(name: string): boolean {
  return name.length <= MAX_NAME_BYTES && SPIFFE_ID.test(name) && !/\/\.{1,2}(\/|$)/.test(name);
}

/** Returns the parts of `text` between `separator`s that stand outside double quotes, or null where a quote is not closed. */
function splitOutsideQuotes(text: string, separator: string): string[] | null {
  const parts: string[] = [];
  let from = 0;
  let isQuoted = false;
  for (let at = 0; at < text.length; at++) {
    const c = text[at];
    if (isQuoted && c === "\\") at++;
    else if (c === '"') isQuoted = !isQuoted;
    else if (c === separator && !isQuoted) {
      parts.push(text.slice(from, at));
      from = at + 1;
    }
  }
  if (isQuoted) return null;
  parts.push(text.slice(from));
  return parts;
}
