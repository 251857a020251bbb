/**
 * RFC 3161 time stamps: the bytes that are asked for, and the whole verification of what comes back (RFC 3161 section 2.4.2, RFC 5652
 * section 5.4, RFC 5816). Pure. ASN.1 is read by @peculiar/asn1-*, signatures are checked by Node.
 *
 * Revocation is not looked at: a token is judged as its authority's certificates stood when it was made.
 */
import { createHash, verify, X509Certificate } from "node:crypto";
import {
  type Attribute,
  type CertificateSet,
  ContentInfo,
  SignedData,
  type SignerInfo,
} from "@peculiar/asn1-cms";
import { AsnConvert, OctetString } from "@peculiar/asn1-schema";
import { TimeStampResp, TSTInfo } from "@peculiar/asn1-tsp";
import {
  BasicConstraints,
  Certificate,
  ExtendedKeyUsage,
  type Extension,
} from "@peculiar/asn1-x509";

/** A response at most, in bytes: a token with a chain of four large certificates has 10,000. */
export const MAX_RESPONSE_BYTES = 65_536;
export const NONCE_BYTES = 8;

const SIGNED_DATA = "1.2.840.113549.1.7.2";
const TST_INFO = "1.2.840.113549.1.9.16.1.4";
const CONTENT_TYPE = "1.2.840.113549.1.9.3";
const MESSAGE_DIGEST = "1.2.840.113549.1.9.4";
const SIGNING_CERTIFICATE = "1.2.840.113549.1.9.16.2.12";
const SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47";
const EXTENDED_KEY_USAGE = "2.5.29.37";
const BASIC_CONSTRAINTS = "2.5.29.19";
const TIME_STAMPING = "1.3.6.1.5.5.7.3.8";
/** Extensions that may be critical: those that are looked at here, and two that say nothing about a time stamp. */
const UNDERSTOOD = [EXTENDED_KEY_USAGE, BASIC_CONSTRAINTS, "2.5.29.15", "2.5.29.32", "2.5.29.17"];

const HASHES: Readonly<Record<string, string>> = {
  "2.16.840.1.101.3.4.2.1": "sha256",
  "2.16.840.1.101.3.4.2.2": "sha384",
  "2.16.840.1.101.3.4.2.3": "sha512",
};
/** Signature algorithms with the hash they name; "" takes the digest algorithm's. */
const SIGNATURES: Readonly<Record<string, string>> = {
  "1.2.840.113549.1.1.1": "",
  "1.2.840.113549.1.1.11": "sha256",
  "1.2.840.113549.1.1.12": "sha384",
  "1.2.840.113549.1.1.13": "sha512",
  "1.2.840.10045.4.3.2": "sha256",
  "1.2.840.10045.4.3.3": "sha384",
  "1.2.840.10045.4.3.4": "sha512",
};
/** From the authority's certificate up to the root at most. */
const MAX_CHAIN = 8;
/** An accuracy that a token may leave out is taken as this, in milliseconds. */
const DEFAULT_ACCURACY_MS = 1000;

export type TimestampTrust = {
  readonly roots: readonly X509Certificate[];
  /** Policies that count; all if empty. */
  readonly policies: readonly string[];
};

export type Timestamp =
  | {
      /** `untrusted`: all is well, but the chain does not lead to a given root, or the policy does not count. */
      readonly status: "verified" | "untrusted";
      /** Unix milliseconds: the digest existed then, give or take the accuracy. */
      readonly time: number;
      readonly accuracyMs: number;
      readonly policy: string;
      readonly authority: string;
      readonly reason: string;
    }
  | { readonly status: "invalid"; readonly reason: string };

/** Returns a TimeStampReq for a SHA-256 digest, in DER, that asks for the certificates. The nonce's first bits must be 01. */
export function formatTimestampRequest(digest: Uint8Array, nonce: Uint8Array): Buffer {
  if (digest.length !== 32 || nonce.length !== NONCE_BYTES || (nonce[0] ?? 0) >> 6 !== 1) {
    throw new RangeError("a request has 32 bytes of digest, and 8 of a positive nonce");
  }
  return Buffer.concat([
    Buffer.from("30430201013031300d060960864801650304020105000420", "hex"),
    digest,
    Buffer.from("0208", "hex"),
    nonce,
    Buffer.from("0101ff", "hex"),
  ]);
}

/** Verifies a TimeStampResp for a SHA-256 digest; the nonce too, where it is still known. */
export function verifyTimestamp(
  response: Uint8Array,
  digest: Uint8Array,
  trust: TimestampTrust,
  nonce?: Uint8Array,
): Timestamp {
  try {
    return new Token(response, digest, nonce).judge(trust);
  } catch (error) {
    // The parsers throw errors of many classes; what they cannot read is no token.
    return { status: "invalid", reason: error instanceof Error ? error.message : String(error) };
  }
}

class Token {
  readonly #info: TSTInfo;
  readonly #signer: X509Certificate;
  readonly #signerFields: Certificate;
  readonly #certificates: readonly X509Certificate[];

  /** Throws where the token is not for this digest and nonce, or its signature does not verify. */
  constructor(response: Uint8Array, digest: Uint8Array, nonce: Uint8Array | undefined) {
    must(response.length <= MAX_RESPONSE_BYTES, "the response is too long");
    must(isOneElement(response), "the response has bytes that do not belong to it");
    const { status, timeStampToken } = AsnConvert.parse(response, TimeStampResp);
    must(status.status === 0 || status.status === 1, `the authority refused: ${status.status}`);
    must(timeStampToken !== undefined, "the response holds no token");
    const content = AsnConvert.parse(AsnConvert.serialize(timeStampToken), ContentInfo);
    must(content.contentType === SIGNED_DATA, "the token is no signed data");
    const signed = AsnConvert.parse(content.content, SignedData);
    const { eContentType, eContent } = signed.encapContentInfo;
    must(eContentType === TST_INFO, "what is signed is no time stamp");
    const bytes = Buffer.from(eContent?.single?.buffer ?? new ArrayBuffer(0));
    this.#info = AsnConvert.parse(bytes, TSTInfo);
    this.#checkInfo(digest, nonce);
    const [signerInfo, ...more] = signed.signerInfos;
    must(signerInfo !== undefined && more.length === 0, "the token must have one signer");
    const fields = certificatesOf(signed.certificates);
    this.#certificates = fields.map(toX509);
    const attributes = signerInfo.signedAttrs ?? [];
    checkAttributes(attributes, bytes, signerInfo);
    const at = this.#certificates.findIndex((certificate) => isNamed(attributes, certificate));
    const [signer, signerFields] = [this.#certificates[at], fields[at]];
    must(
      signer !== undefined && signerFields !== undefined,
      "the signing certificate is not there",
    );
    this.#signer = signer;
    this.#signerFields = signerFields;
    checkIdentifier(signerInfo, signerFields);
    checkSignature(signerInfo, signedAttributes(Buffer.from(content.content)), signer);
  }

  judge({ roots, policies }: TimestampTrust): Timestamp {
    const { policy, genTime, accuracy } = this.#info;
    const time = genTime.getTime();
    const given = accuracy && accuracy.seconds * 1000 + (accuracy.millis ?? 0);
    const reason =
      this.#usageFault() ||
      this.#chainFault(roots, time) ||
      (policies.length > 0 && !policies.includes(policy)
        ? `its policy ${policy} does not count`
        : "");
    return {
      status: reason === "" ? "verified" : "untrusted",
      time,
      accuracyMs: given ?? DEFAULT_ACCURACY_MS,
      policy,
      authority: this.#signer.subject.replaceAll("\n", ", "),
      reason,
    };
  }

  #checkInfo(digest: Uint8Array, nonce: Uint8Array | undefined): void {
    const { version, messageImprint, genTime } = this.#info;
    must(version === 1, `version ${version} of a time stamp`);
    must(HASHES[messageImprint.hashAlgorithm.algorithm] === "sha256", "it is for another hash");
    must(isEqual(messageImprint.hashedMessage.buffer, digest), "it is for other bytes");
    must(Number.isFinite(genTime.getTime()), "it has no time");
    if (nonce === undefined) return;
    must(
      this.#info.nonce !== undefined && isEqual(this.#info.nonce, nonce),
      "its nonce is another",
    );
  }

  /** RFC 3161, section 2.3: the certificate is for time stamping alone, and says so critically. */
  #usageFault(): string {
    const found = extension(this.#signerFields, EXTENDED_KEY_USAGE);
    if (found === undefined) return "its certificate is not for time stamping";
    const usage = AsnConvert.parse(found.extnValue.buffer, ExtendedKeyUsage);
    const isAlone = usage.length === 1 && usage[0] === TIME_STAMPING;
    if (!isAlone) return "its certificate is not for time stamping alone";
    return found.critical ? "" : "its certificate's extended key usage is not critical";
  }

  #chainFault(roots: readonly X509Certificate[], time: number): string {
    if (roots.length === 0) return "no root was given";
    const isRoot = (certificate: X509Certificate): boolean =>
      roots.some((root) => root.raw.equals(certificate.raw));
    let at = this.#signer;
    for (let depth = 0; depth < MAX_CHAIN; depth++) {
      const fault = certificateFault(at, time, depth);
      if (fault !== "") return fault;
      if (isRoot(at)) return "";
      const issuer = [...roots, ...this.#certificates].find(
        (other) => !other.raw.equals(at.raw) && at.checkIssued(other) && at.verify(other.publicKey),
      );
      if (issuer === undefined)
        return `its chain ends at ${oneLine(at.subject)}, which is no given root`;
      at = issuer;
    }
    return "its chain is too long";
  }
}

/** What is wrong with a certificate at its place in the chain; the signer's is at 0. */
function certificateFault(certificate: X509Certificate, time: number, depth: number): string {
  const name = oneLine(certificate.subject);
  const [from, to] = [Date.parse(certificate.validFrom), Date.parse(certificate.validTo)];
  if (!(from <= time && time <= to)) return `${name} was not valid at that time`;
  const fields = AsnConvert.parse(certificate.raw, Certificate);
  for (const { extnID, critical } of fields.tbsCertificate.extensions ?? []) {
    if (critical && !UNDERSTOOD.includes(extnID))
      return `${name} has a critical extension ${extnID}`;
  }
  if (depth === 0) return "";
  const found = extension(fields, BASIC_CONSTRAINTS);
  const constraints = found && AsnConvert.parse(found.extnValue.buffer, BasicConstraints);
  if (!constraints?.cA || !certificate.ca) return `${name} is no authority of certificates`;
  // Authorities between this one and the signer.
  const { pathLenConstraint } = constraints;
  if (pathLenConstraint !== undefined && depth - 1 > pathLenConstraint)
    return `${name} allows no such long chain`;
  return "";
}

function checkAttributes(
  attributes: readonly Attribute[],
  content: Buffer,
  signer: SignerInfo,
): void {
  const hash = HASHES[signer.digestAlgorithm.algorithm];
  must(hash !== undefined, `the hash ${signer.digestAlgorithm.algorithm} is not taken`);
  const type = attributeOf(attributes, CONTENT_TYPE);
  must(
    type !== undefined && isEqual(type, Buffer.from("060b2a864886f70d0109100104", "hex")),
    "its content type differs",
  );
  const digest = attributeOf(attributes, MESSAGE_DIGEST);
  must(digest !== undefined, "it has no message digest");
  const found = AsnConvert.parse(digest, OctetString).buffer;
  must(isEqual(found, createHash(hash).update(content).digest()), "what is signed was changed");
}

function checkIdentifier({ sid }: SignerInfo, { tbsCertificate }: Certificate): void {
  const named = sid.issuerAndSerialNumber;
  if (named === undefined) return;
  const isSame =
    isEqual(named.serialNumber, Buffer.from(tbsCertificate.serialNumber)) &&
    isEqual(
      AsnConvert.serialize(named.issuer),
      Buffer.from(AsnConvert.serialize(tbsCertificate.issuer)),
    );
  must(isSame, "the signer's identifier names another certificate");
}

function checkSignature(
  { signatureAlgorithm, digestAlgorithm, signature }: SignerInfo,
  attributes: Buffer,
  { publicKey }: X509Certificate,
): void {
  const named = SIGNATURES[signatureAlgorithm.algorithm];
  must(named !== undefined, `the signature algorithm ${signatureAlgorithm.algorithm} is not taken`);
  const hash = named === "" ? HASHES[digestAlgorithm.algorithm] : named;
  const isGood = verify(hash, attributes, publicKey, Buffer.from(signature.buffer));
  must(isGood, "its signature does not verify");
}

/**
 * Returns the bytes that the one signer of a SignedData has signed: its attributes as they stand, since encoding them anew could
 * differ. Signed is a SET OF, sent is [0] IMPLICIT: only the tag differs (RFC 5652, section 5.4).
 */
function signedAttributes(signedData: Buffer): Buffer {
  const signer = childrenOf(childrenOf(signedData).at(-1) ?? Buffer.alloc(0))[0];
  const attributes = Buffer.from(childrenOf(signer ?? Buffer.alloc(0))[3] ?? []);
  must(attributes[0] === 0xa0, "it has no signed attributes");
  attributes[0] = 0x31;
  return attributes;
}

/**
 * Tells if the signed attributes bind this certificate by its hash (RFC 5035): the first ESSCertID counts, in SHA-256 unless it names
 * another hash, or the older form in SHA-1.
 */
function isNamed(attributes: readonly Attribute[], { raw }: X509Certificate): boolean {
  const v2 = attributeOf(attributes, SIGNING_CERTIFICATE_V2);
  const v1 = attributeOf(attributes, SIGNING_CERTIFICATE);
  const value = v2 ?? v1;
  if (value === undefined) return false;
  // SEQUENCE { SEQUENCE OF { SEQUENCE { [algorithm], OCTET STRING, ... } } }: down to the first ESSCertID.
  const first = inner(inner(inner(Buffer.from(value))));
  const algorithm =
    v2 !== undefined && first[0] === 0x30 ? first.subarray(0, lengthOf(first)) : null;
  const at = algorithm?.length ?? 0;
  const hash = v2 === undefined ? "sha1" : algorithm === null ? "sha256" : hashIn(algorithm);
  if (hash === undefined || first[at] !== 0x04) return false;
  const rest = first.subarray(at);
  return inner(rest.subarray(0, lengthOf(rest))).equals(createHash(hash).update(raw).digest());
}

/** Returns the hash that an AlgorithmIdentifier's bytes name. */
function hashIn(algorithm: Buffer): string | undefined {
  const oids = {
    "608648016503040201": "sha256",
    "608648016503040202": "sha384",
    "608648016503040203": "sha512",
  };
  const oid = inner(algorithm);
  const hex = inner(oid.subarray(0, lengthOf(oid))).toString("hex");
  return Object.entries(oids).find(([known]) => known === hex)?.[1];
}

/** Returns the bytes of a DER element, header included. Throws where they are not all there. */
function lengthOf(der: Buffer): number {
  const first = der[1] ?? 0;
  const more = first < 0x80 ? 0 : first & 0x7f;
  must(first !== 0x80 && more <= 3 && der.length >= 2 + more, "malformed DER");
  const length = 2 + more + (more === 0 ? first : der.readUIntBE(2, more));
  must(length <= der.length, "malformed DER");
  return length;
}

/** Returns the content of a DER element. */
function inner(der: Buffer): Buffer {
  const length = lengthOf(der);
  const first = der[1] ?? 0;
  return der.subarray(2 + (first < 0x80 ? 0 : first & 0x7f), length);
}

/** Returns the elements in a DER element. */
function childrenOf(der: Buffer): Buffer[] {
  const children: Buffer[] = [];
  for (let rest = inner(der); rest.length > 0; ) {
    const child = rest.subarray(0, lengthOf(rest));
    children.push(child);
    rest = rest.subarray(child.length);
  }
  return children;
}

function isOneElement(der: Uint8Array): boolean {
  return der.length > 2 && der[0] === 0x30 && lengthOf(Buffer.from(der)) === der.length;
}

function certificatesOf(set: CertificateSet | undefined): Certificate[] {
  return [...(set ?? [])].flatMap(({ certificate }) =>
    certificate === undefined ? [] : [certificate],
  );
}

function toX509(certificate: Certificate): X509Certificate {
  return new X509Certificate(Buffer.from(AsnConvert.serialize(certificate)));
}

function extension({ tbsCertificate }: Certificate, oid: string): Extension | undefined {
  return tbsCertificate.extensions?.find(({ extnID }) => extnID === oid);
}

/** Returns the one value of an attribute; two of them would be two answers. */
function attributeOf(attributes: readonly Attribute[], oid: string): ArrayBuffer | undefined {
  const found = attributes.filter(({ attrType }) => attrType === oid);
  must(
    found.length <= 1 && (found[0]?.attrValues.length ?? 1) === 1,
    `attribute ${oid} stands twice`,
  );
  return found[0]?.attrValues[0];
}

function isEqual(a: ArrayBuffer, b: Uint8Array): boolean {
  return Buffer.compare(Buffer.from(a), b) === 0;
}

function oneLine(subject: string): string {
  return subject.replaceAll("\n", ", ");
}

function must(holds: boolean, reason: string): asserts holds {
  if (!holds) throw new Error(reason);
}
