/**
 * Cosignatures: a witness's word that a checkpoint is the largest consistent tree it has seen of that origin, and when.
 * Byte for byte as c2sp.org/tlog-cosignature has them, for Ed25519 (type 0x04). Signed is
 *
 *     cosignature/v1
 *     time <Unix seconds, decimal>
 *     <the whole text of the checkpoint>
 *
 * and the signature in the note's line is uint64 time || 64 bytes.
 */
import { sign, verify } from "node:crypto";
import {
  type NamedKey,
  type NoteSignature,
  namedKey,
  parseTypedSkey,
  parseTypedVkey,
  type Signer,
  type Verifier,
} from "./note.ts";

/** Key type of a timestamped Ed25519 cosignature (c2sp.org/signed-note). */
export const COSIGNATURE = 0x04 as const;

const TIME_BYTES = 8;
const SIGNATURE_BYTES = TIME_BYTES + 64;

/** Returns the verifier in a witness's `vkey`, or null unless it is exactly one well-formed key of type 0x04. */
export function parseCosignerVkey(vkey: string): Verifier | null {
  const named = parseTypedVkey(vkey, COSIGNATURE);
  if (named === null) return null;
  const { key, ...rest } = named;
  return {
    ...rest,
    verify: (text, signature) => {
      const time = timeOf(signature);
      if (time === null) return false;
      return verify(null, message(time, text), key, signature.subarray(TIME_BYTES));
    },
  };
}

/** Returns a cosigner that takes its time from `now`, Unix time in seconds. */
export function newCosigner(name: string, seed: Uint8Array, now: () => number): Signer {
  return cosigner(namedKey(name, COSIGNATURE, seed), now);
}

/** Returns the cosigner in `skey`, or null. */
export function parseCosignerSkey(skey: string, now: () => number): Signer | null {
  const named = parseTypedSkey(skey, COSIGNATURE);
  return named === null ? null : cosigner(named, now);
}

/** Returns when a cosignature was made, in Unix seconds. Requires one that was verified. */
export function cosignedAt({ signature }: NoteSignature): number {
  return timeOf(signature) ?? 0;
}

function cosigner({ key, ...named }: NamedKey, now: () => number): Signer {
  return {
    ...named,
    sign: (text) => {
      const time = now();
      const prefix = Buffer.alloc(TIME_BYTES);
      prefix.writeBigUInt64BE(BigInt(time));
      return Buffer.concat([prefix, sign(null, message(time, text), key)]);
    },
  };
}

function message(time: number, text: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(`cosignature/v1\ntime ${time}\n`), text]);
}

/** Returns the time in a signature, or null where that is no cosignature of ours to read: length, 0, or beyond 2^53 - 1. */
function timeOf(signature: Uint8Array): number | null {
  if (signature.length !== SIGNATURE_BYTES) return null;
  const time = Number(Buffer.from(signature.subarray(0, TIME_BYTES)).readBigUInt64BE());
  return Number.isSafeInteger(time) && time > 0 ? time : null;
}
