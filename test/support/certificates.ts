/** Certificates for tests: an authority, and leaves with SPIFFE URIs or DNS names, valid for an hour. ECDSA P-256. */
import "reflect-metadata";
import { webcrypto } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as x509 from "@peculiar/x509";

x509.cryptoProvider.set(webcrypto as unknown as Parameters<typeof x509.cryptoProvider.set>[0]);

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const HOUR_MS = 3_600_000;
const usages: KeyUsage[] = ["sign", "verify"];

type KeyUsage = "sign" | "verify";
type KeyPair = webcrypto.CryptoKeyPair;

/** PEM text of a certificate and its PKCS#8 key. */
export type Pair = { readonly cert: string; readonly key: string };

export type Authority = Pair & {
  /** Returns a certificate for these names; `commonName` stands in the subject. */
  readonly issue: (names: LeafNames, commonName?: string, validity?: Validity) => Promise<Pair>;
};

export type LeafNames = { readonly uris?: readonly string[]; readonly dns?: readonly string[] };

export type Validity = { readonly notBefore: Date; readonly notAfter: Date };

/** Returns a new authority. */
export async function makeAuthority(commonName = "authority"): Promise<Authority> {
  const keys = await generate();
  const cert = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serial(),
    name: `CN=${commonName}`,
    ...validity(),
    keys,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new x509.BasicConstraintsExtension(true, 1, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign, true),
    ],
  });
  return {
    ...(await toPair(cert, keys)),
    issue: async ({ uris = [], dns = [] }, name = "leaf", valid = validity()) => {
      const leafKeys = await generate();
      const names = [
        ...uris.map((value) => ({ type: "url" as const, value })),
        ...dns.map((value) => ({ type: "dns" as const, value })),
      ];
      const leaf = await x509.X509CertificateGenerator.create({
        serialNumber: serial(),
        subject: `CN=${name}`,
        issuer: cert.subject,
        ...valid,
        publicKey: leafKeys.publicKey,
        signingKey: keys.privateKey,
        signingAlgorithm: ALGORITHM,
        extensions: [
          new x509.BasicConstraintsExtension(false),
          new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
          new x509.ExtendedKeyUsageExtension([
            x509.ExtendedKeyUsage.serverAuth,
            x509.ExtendedKeyUsage.clientAuth,
          ]),
          new x509.SubjectAlternativeNameExtension(names),
        ],
      });
      return toPair(leaf, leafKeys);
    },
  };
}

/** Writes `<name>.crt` and `<name>.key` into `dir`; returns their paths. */
export function writePair(dir: string, name: string, { cert, key }: Pair): Pair {
  mkdirSync(dir, { recursive: true });
  const paths = { cert: join(dir, `${name}.crt`), key: join(dir, `${name}.key`) };
  writeFileSync(paths.cert, cert);
  writeFileSync(paths.key, key);
  return paths;
}

function generate(): Promise<KeyPair> {
  return webcrypto.subtle.generateKey(ALGORITHM, true, usages) as Promise<KeyPair>;
}

function validity(): { notBefore: Date; notAfter: Date } {
  return { notBefore: new Date(Date.now() - HOUR_MS), notAfter: new Date(Date.now() + HOUR_MS) };
}

function serial(): string {
  // The first bit stays clear: a serial number is positive.
  return `01${Buffer.from(webcrypto.getRandomValues(new Uint8Array(15))).toString("hex")}`;
}

async function toPair(cert: x509.X509Certificate, { privateKey }: KeyPair): Promise<Pair> {
  const der = Buffer.from(await webcrypto.subtle.exportKey("pkcs8", privateKey));
  const body = der.toString("base64").replaceAll(/.{1,64}/g, "$&\n");
  return {
    cert: `${cert.toString("pem")}\n`,
    key: `-----BEGIN PRIVATE KEY-----\n${body}-----END PRIVATE KEY-----\n`,
  };
}
