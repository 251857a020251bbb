/**
 * Signed notes: text with signatures below it, byte for byte as c2sp.org/signed-note has them.
 *
 *     <text, ends in a newline>
 *     <newline>
 *     — <key name> <base64 of (4-byte key id || signature)>      one line or more
 *
 * Ed25519 (type 0x01) is signed and verified here; lines of unknown keys are kept apart, never trusted.
 * The parser is as strict as Go's note.Open (golang.org/x/mod/sumdb/note).
 */
import { createPrivateKey, createPublicKey, type KeyObject, sign, verify } from "node:crypto";
import { equalBytes, sha256 } from "./merkle.ts";

/** Key type of a plain Ed25519 signature over the text (c2sp.org/signed-note). */
export const ED25519 = 0x01 as const;

/** A note with more than this many signature lines is refused, as in Go's note package. */
const MAX_SIGNATURES = 100;

/** A whole note is at most this long, in bytes. The format has no limit of its own. */
export const MAX_NOTE_BYTES = 1_048_576;

const KEY_ID_BYTES = 4;
const SEED_BYTES = 32;
const DASH = "— ";

/** A public key with its name: what `name+hex(id)+base64(type || key)` says. */
export type Verifier = {
  readonly name: string;
  readonly keyId: Uint8Array;
  readonly vkey: string;
  readonly verify: (text: Uint8Array, signature: Uint8Array) => boolean;
};

/** A private key with its name. */
export type Signer = {
  readonly name: string;
  readonly keyId: Uint8Array;
  readonly vkey: string;
  readonly sign: (text: Uint8Array) => Uint8Array;
};

export type NoteSignature = {
  readonly name: string;
  readonly keyId: Uint8Array;
  readonly signature: Uint8Array;
};

export type Note = { readonly text: string; readonly signatures: readonly NoteSignature[] };

/** An opened note: its text and which of the given keys signed it. */
export type OpenedNote = {
  readonly text: string;
  readonly verified: readonly NoteSignature[];
  readonly unknown: readonly NoteSignature[];
};

// DER of an Ed25519 PKCS#8 private key and SPKI public key up to the 32 key bytes. RFC 8410, section 10.
const PKCS8_PREFIX = Buffer.from("302e020100300506032b657004220420", "hex");
const SPKI_PREFIX = Buffer.from("302a300506032b6570032100", "hex");

/** Returns the key id SHA-256(name || 0x0A || type || key)[:4] (c2sp.org/signed-note). */
export function keyId(name: string, type: number, key: Uint8Array): Uint8Array {
  const input = Buffer.concat([Buffer.from(`${name}\n`), Uint8Array.of(type), key]);
  return sha256(input).subarray(0, KEY_ID_BYTES);
}

/** Returns whether `name` may name a key: not empty, no Unicode space, no plus sign. */
export function isKeyName(name: string): boolean {
  return name.length > 0 && !/[\s+\p{Cc}\u0085\p{Z}]/u.test(name) && name.isWellFormed();
}

/** A named key of some type, before it is told what it signs. */
export type NamedKey = {
  readonly name: string;
  readonly keyId: Uint8Array;
  readonly vkey: string;
  readonly key: KeyObject;
};

/** Returns a signer from a 32-byte Ed25519 seed. */
export function newSigner(name: string, seed: Uint8Array): Signer {
  const { key, ...named } = namedKey(name, ED25519, seed);
  return { ...named, sign: (text) => sign(null, text, key) };
}

/** Returns the private key of a 32-byte Ed25519 seed, named for a use of `type` (c2sp.org/signed-note). */
export function namedKey(name: string, type: number, seed: Uint8Array): NamedKey {
  if (!isKeyName(name))
    throw new RangeError(`key name ${JSON.stringify(name)} has a space or a plus sign`);
  if (seed.length !== SEED_BYTES)
    throw new RangeError(`seed has ${seed.length} bytes, not ${SEED_BYTES}`);
  const key = createPrivateKey({
    key: Buffer.concat([PKCS8_PREFIX, seed]),
    format: "der",
    type: "pkcs8",
  });
  const publicKey = rawPublicKey(createPublicKey(key));
  const id = keyId(name, type, publicKey);
  return { name, keyId: id, vkey: formatVkey(name, id, type, publicKey), key };
}

/** Returns `PRIVATE+KEY+name+id+base64`, the form every Go tool reads (golang.org/x/mod/sumdb/note). */
export function formatSkey(name: string, seed: Uint8Array, type: number = ED25519): string {
  const signer = namedKey(name, type, seed);
  const body = Buffer.concat([Uint8Array.of(type), seed]).toString("base64");
  return `PRIVATE+KEY+${name}+${Buffer.from(signer.keyId).toString("hex")}+${body}`;
}

/** Returns the signer in `skey`, or null unless it is exactly one well-formed private key. */
export function parseSkey(skey: string): Signer | null {
  const named = parseTypedSkey(skey, ED25519);
  if (named === null) return null;
  const { key, ...rest } = named;
  return { ...rest, sign: (text) => sign(null, text, key) };
}

/** Returns the private key of `type` in `skey`, or null unless it is exactly one well-formed one. */
export function parseTypedSkey(skey: string, type: number): NamedKey | null {
  const parts = /^PRIVATE\+KEY\+([^+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]+={0,2})$/.exec(skey);
  const [, name, hex, body] = parts ?? [];
  if (name === undefined || hex === undefined || body === undefined || !isKeyName(name))
    return null;
  const key = decodeBase64(body);
  if (key === null || key.length !== SEED_BYTES + 1 || key[0] !== type) return null;
  const named = namedKey(name, type, key.subarray(1));
  return Buffer.from(named.keyId).toString("hex") === hex ? named : null;
}

/** Returns the verifier in `vkey`, or null unless it is exactly one well-formed Ed25519 key. */
export function parseVkey(vkey: string): Verifier | null {
  const named = parseTypedVkey(vkey, ED25519);
  if (named === null) return null;
  const { key, ...rest } = named;
  return { ...rest, verify: (text, signature) => verify(null, text, key, signature) };
}

/** Returns the Ed25519 public key for a use of `type` in `vkey`, or null unless it is exactly one well-formed one. */
export function parseTypedVkey(vkey: string, type: number): NamedKey | null {
  const parts = /^([^+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/]+={0,2})$/.exec(vkey);
  const [, name, hex, body] = parts ?? [];
  if (name === undefined || hex === undefined || body === undefined || !isKeyName(name))
    return null;
  const typed = decodeBase64(body);
  if (typed === null || typed.length !== 33 || typed[0] !== type) return null;
  const id = keyId(name, type, typed.subarray(1));
  if (Buffer.from(id).toString("hex") !== hex) return null;
  const key = createPublicKey({
    key: Buffer.concat([SPKI_PREFIX, typed.subarray(1)]),
    format: "der",
    type: "spki",
  });
  return { name, keyId: id, vkey, key };
}

/** Returns the note `text` signed by each of `signers`. Requires that `text` ends in a newline. */
export function signNote(text: string, signers: readonly Signer[]): string {
  if (!isText(text))
    throw new RangeError("note text must be UTF-8, end in a newline and hold no control bytes");
  const lines = signers.map((signer) => {
    const signature = Buffer.concat([signer.keyId, signer.sign(Buffer.from(text))]);
    return `${DASH}${signer.name} ${signature.toString("base64")}\n`;
  });
  return `${text}\n${lines.join("")}`;
}

/** Returns the note with `lines` below it, each in the place of an older one by the same key. */
export function addLines(note: string, lines: readonly string[]): string {
  const split = note.lastIndexOf("\n\n") + 2;
  const keyOf = (line: string): string => {
    const signature = parseSignatureLine(line.replace(/\n$/, ""));
    return signature === null
      ? ""
      : `${signature.name} ${Buffer.from(signature.keyId).toString("hex")}`;
  };
  const all = new Map(
    [...note.slice(split).split(/(?<=\n)/), ...lines].map((line) => [keyOf(line), line]),
  );
  return note.slice(0, split) + [...all.values()].join("");
}

/** Returns the note in `bytes`, or null unless it is exactly one well-formed note. Verifies nothing. */
export function parseNote(bytes: Uint8Array): Note | null {
  if (bytes.length > MAX_NOTE_BYTES) return null;
  let whole: string;
  try {
    whole = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
  if (!isText(whole)) return null;
  // The text itself may hold blank lines, so the last one splits (c2sp.org/signed-note).
  const split = whole.lastIndexOf("\n\n");
  if (split < 0) return null;
  const text = whole.slice(0, split + 1);
  const lines = whole.slice(split + 2).split("\n");
  if (lines.pop() !== "" || lines.length === 0 || lines.length > MAX_SIGNATURES) return null;
  const signatures: NoteSignature[] = [];
  for (const line of lines) {
    const parsed = parseSignatureLine(line);
    if (parsed === null) return null;
    signatures.push(parsed);
  }
  return { text, signatures };
}

/** Returns the signature in one line without its newline, or null. */
export function parseSignatureLine(line: string): NoteSignature | null {
  if (!line.startsWith(DASH)) return null;
  const [name, body, ...rest] = line.slice(DASH.length).split(" ");
  if (name === undefined || body === undefined || rest.length > 0 || !isKeyName(name)) return null;
  const bytes = decodeBase64(body);
  if (bytes === null || bytes.length < KEY_ID_BYTES + 1) return null;
  return { name, keyId: bytes.subarray(0, KEY_ID_BYTES), signature: bytes.subarray(KEY_ID_BYTES) };
}

/**
 * Opens a note against `verifiers`. Returns null if it is malformed, if any line of a given key does
 * not verify, or if no given key signed it (c2sp.org/signed-note, "Verifying").
 */
export function openNote(bytes: Uint8Array, verifiers: readonly Verifier[]): OpenedNote | null {
  const note = parseNote(bytes);
  if (note === null) return null;
  const text = Buffer.from(note.text);
  const verified: NoteSignature[] = [];
  const unknown: NoteSignature[] = [];
  for (const signature of note.signatures) {
    const verifier = verifiers.find(
      (v) => v.name === signature.name && equalBytes(v.keyId, signature.keyId),
    );
    if (verifier === undefined) {
      unknown.push(signature);
    } else if (verifier.verify(text, signature.signature)) {
      verified.push(signature);
    } else {
      return null;
    }
  }
  return verified.length > 0 ? { text: note.text, verified, unknown } : null;
}

/** Returns the bytes of standard padded base64, or null unless `text` is their one canonical form. */
export function decodeBase64(text: string): Uint8Array | null {
  const bytes = Buffer.from(text, "base64");
  // Node ignores bad characters and spare bits; only the canonical form comes back the same.
  return bytes.toString("base64") === text ? bytes : null;
}

function formatVkey(name: string, id: Uint8Array, type: number, publicKey: Uint8Array): string {
  const body = Buffer.concat([Uint8Array.of(type), publicKey]).toString("base64");
  return `${name}+${Buffer.from(id).toString("hex")}+${body}`;
}

function rawPublicKey(key: KeyObject): Uint8Array {
  return key.export({ format: "der", type: "spki" }).subarray(SPKI_PREFIX.length);
}

function isText(text: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the format forbids exactly these
  return text.endsWith("\n") && text.isWellFormed() && !/[\x00-\x09\x0b-\x1f]/.test(text);
}
