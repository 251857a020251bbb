/** Certificates of time stamp authorities, as settings and policies give them. Apart from what reads time stamps, which is slow to load. */
import { X509Certificate } from "node:crypto";

/** Returns the certificates in PEM text. Throws where there is none. */
export function parseCertificates(pem: string): X509Certificate[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g);
  if (blocks === null) throw new Error("there is no certificate in it");
  return blocks.map((block) => new X509Certificate(block));
}
