/**
 * Entries of a Rekor v2 log (sigstore/rekor-tiles, api/openapi and docs): a hashedrekord says that somebody signed a SHA-256 digest, and comes
 * back with its leaf's bytes, an inclusion proof and a checkpoint in C2SP form. Rekor v2 states no time.
 *
 * Pure. Whoever sent the bytes may have meant harm: one schema, limits on all of it.
 */
import { z } from "zod";
import { parseCheckpoint } from "../log/checkpoint.ts";
import { HASH_BYTES, leafHash, verifyInclusion } from "../log/merkle.ts";
import { decodeBase64, openNote, type Verifier } from "../log/note.ts";

/** A proof at most: a body of some kilobytes, 63 hashes, a checkpoint with cosignatures. */
export const MAX_REKOR_BYTES = 262_144;
const MAX_HASHES = 63;

const base64 = z
  .string()
  .max(65_536)
  .transform((text, context) => {
    const bytes = decodeBase64(text);
    if (bytes === null) context.addIssue("is no base64");
    return bytes ?? new Uint8Array();
  });

/** protobuf's JSON form has 64-bit numbers as strings. */
const index = z.string().regex(/^(0|[1-9]\d{0,15})$/);

const EntrySchema = z.object({
  inclusionProof: z.object({
    logIndex: index,
    treeSize: index,
    hashes: z.array(base64).max(MAX_HASHES).default([]),
    checkpoint: z.object({ envelope: z.string().max(65_536) }),
  }),
  canonicalizedBody: base64,
});

const BodySchema = z.object({
  apiVersion: z.literal("0.0.2"),
  kind: z.literal("hashedrekord"),
  spec: z.object({
    hashedRekordV002: z.object({
      data: z.object({ algorithm: z.literal("SHA2_256"), digest: base64 }),
    }),
  }),
});

export type RekorVerdict =
  | {
      /** `untrusted`: all fits together, and none of the given keys is of that log. */
      readonly status: "verified" | "untrusted";
      readonly origin: string;
      readonly index: number;
      readonly treeSize: number;
      /** The log's checkpoint, with whatever cosignatures it has. */
      readonly checkpoint: Buffer;
    }
  | { readonly status: "invalid"; readonly reason: string };

/** Returns the body of a request that has `digest` entered, signed in DER by a P-256 key (SPKI). */
export function formatRekorRequest(
  digest: Uint8Array,
  signature: Uint8Array,
  spki: Uint8Array,
): string {
  const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");
  return JSON.stringify({
    hashedRekordRequestV002: {
      digest: text(digest),
      signature: {
        content: text(signature),
        verifier: {
          publicKey: { rawBytes: text(spki) },
          keyDetails: "PKIX_ECDSA_P256_SHA_256",
        },
      },
    },
  });
}

/** Judges an entry, as Rekor answers it, that must be about `digest`. `keys` are of Rekor logs. */
export function verifyRekor(
  bytes: Buffer,
  digest: Uint8Array,
  keys: readonly Verifier[],
): RekorVerdict {
  if (bytes.length > MAX_REKOR_BYTES) return invalid("it is too long");
  const entry = EntrySchema.safeParse(jsonOf(bytes));
  if (!entry.success) return invalid("it is no entry of Rekor v2");
  const { inclusionProof, canonicalizedBody } = entry.data;
  const body = BodySchema.safeParse(jsonOf(Buffer.from(canonicalizedBody)));
  if (!body.success) return invalid("its body is no hashedrekord 0.0.2");
  if (!Buffer.from(body.data.spec.hashedRekordV002.data.digest).equals(digest)) {
    return invalid("it is about other bytes");
  }
  const checkpoint = Buffer.from(inclusionProof.checkpoint.envelope);
  const split = checkpoint.lastIndexOf("\n\n");
  const claimed = parseCheckpoint(checkpoint.toString("utf8", 0, Math.max(0, split + 1)));
  if (claimed === null) return invalid("its checkpoint cannot be read");
  const { origin, size, root } = claimed;
  const at = Number(inclusionProof.logIndex);
  if (Number(inclusionProof.treeSize) !== size) return invalid("its tree is not its checkpoint's");
  if (inclusionProof.hashes.some((hash) => hash.length !== HASH_BYTES))
    return invalid("its proof has something else than hashes");
  if (!verifyInclusion(at, size, leafHash(canonicalizedBody), inclusionProof.hashes, root)) {
    return invalid("it is not in the tree of its checkpoint");
  }
  const own = keys.filter(({ name }) => name === origin);
  const found = { origin, index: at, treeSize: size, checkpoint };
  if (own.length === 0) return { ...found, status: "untrusted" };
  if (openNote(checkpoint, own) === null)
    return invalid(`its checkpoint is not signed by ${origin} with a given key`);
  return { ...found, status: "verified" };
}

function invalid(reason: string): RekorVerdict {
  return { status: "invalid", reason };
}

function jsonOf(bytes: Buffer): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    return undefined;
  }
}
