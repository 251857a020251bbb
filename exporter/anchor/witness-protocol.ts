/** The bytes of c2sp.org/tlog-witness: what a log asks, and how a witness judges it. Pure. */
import { type Checkpoint, parseCheckpoint, parseDecimal } from "../log/checkpoint.ts";
import { emptyRoot, equalBytes, HASH_BYTES, verifyConsistency } from "../log/merkle.ts";
import {
  decodeBase64,
  openNote,
  parseNote,
  parseSignatureLine,
  type Verifier,
} from "../log/note.ts";

export const ADD_CHECKPOINT = "add-checkpoint" as const;
export const SIZE_TYPE = "text/x.tlog.size" as const;
/** A request at most: 63 hashes, and a note with many long signatures. */
export const MAX_REQUEST_BYTES = 65_536;
const MAX_PROOF = 63;

/** Returns the body of an add-checkpoint request. */
export function formatRequest(oldSize: number, proof: readonly Uint8Array[], note: Buffer): Buffer {
  const hashes = proof.map((hash) => `${Buffer.from(hash).toString("base64")}\n`);
  return Buffer.concat([Buffer.from(`old ${oldSize}\n${hashes.join("")}\n`), note]);
}

/** Returns the lines in a witness's answer that `verifier` made for `text`; all others are ignored. */
export function readAnswer(body: string, text: string, verifier: Verifier): string[] {
  const lines: string[] = [];
  for (const line of body.split("\n")) {
    const signature = parseSignatureLine(line);
    if (signature === null || signature.name !== verifier.name) continue;
    if (!equalBytes(signature.keyId, verifier.keyId)) continue;
    if (verifier.verify(Buffer.from(text), signature.signature)) lines.push(`${line}\n`);
  }
  return lines;
}

/** The newest checkpoint that a witness has cosigned for an origin. */
export type Held = Pick<Checkpoint, "size" | "root">;

export type Judgement =
  | {
      readonly status: 200;
      readonly checkpoint: Checkpoint;
      readonly text: string;
      /** The lines of the log's own keys that verified: no other is ever stored. */
      readonly signatures: readonly string[];
    }
  | {
      readonly status: 400 | 403 | 404 | 409 | 422;
      readonly message: string;
      /** The size that the witness holds, with 409. */
      readonly heldSize?: number;
      /** To be kept, with the log it is about: the checkpoint is signed by it. */
      readonly evidence?: Evidence;
    };

/** `fork`: two roots for one size, which only the log's key can have made. `unproved`: a proof is missing that anyone may have left out. */
export type Evidence = {
  readonly kind: "fork" | "unproved";
  readonly origin: string;
  /** Of the checkpoint, so that the same one is kept once. */
  readonly text: string;
};

type Refusal = Extract<Judgement, { readonly message: string }>;

/**
 * Judges an add-checkpoint request. `logs` are the keys that are known, any number an origin; `held` gives what was
 * cosigned last. The order of the checks is the specification's.
 */
export function judge(
  body: Buffer,
  logs: readonly Verifier[],
  held: (origin: string) => Held | null,
): Judgement {
  const request = parseRequest(body);
  if (request === null) return refusal(400, "malformed request");
  const { oldSize, proof, note } = request;
  const parsed = parseNote(note);
  const checkpoint = parseCheckpoint(parsed?.text ?? "");
  if (parsed === null || checkpoint === null) return refusal(400, "malformed checkpoint");
  const { origin, size, root } = checkpoint;
  const keys = logs.filter(({ name }) => name === origin);
  if (keys.length === 0) return refusal(404, "unknown log");
  const opened = openNote(note, keys);
  if (opened === null) return refusal(403, "not signed by the log");
  if (oldSize > size) return refusal(400, "old is larger than the checkpoint");
  const before = held(origin) ?? { size: 0, root: emptyRoot() };
  const isFork = size === before.size && !equalBytes(root, before.root);
  const fork = { kind: "fork", origin, text: parsed.text } as const;
  if (oldSize !== before.size) {
    const message = `the last checkpoint had ${before.size} leaves`;
    return { ...refusal(409, message, isFork ? fork : undefined), heldSize: before.size };
  }
  if (isFork) return refusal(422, "another root at the same size", fork);
  if (size === before.size || oldSize === 0) {
    if (proof.length > 0) return refusal(422, "no proof is wanted here");
  } else if (!verifyConsistency(oldSize, size, before.root, root, proof)) {
    return refusal(422, "the proof does not verify", { ...fork, kind: "unproved" });
  }
  const own = opened.verified.map(
    ({ name, keyId, signature }) =>
      `— ${name} ${Buffer.concat([keyId, signature]).toString("base64")}\n`,
  );
  return { status: 200, checkpoint, text: parsed.text, signatures: [...new Set(own)] };
}

function refusal(status: Refusal["status"], message: string, evidence?: Evidence): Refusal {
  return { status, message, ...(evidence === undefined ? {} : { evidence }) };
}

function parseRequest(body: Buffer): { oldSize: number; proof: Uint8Array[]; note: Buffer } | null {
  if (body.length > MAX_REQUEST_BYTES) return null;
  const end = body.indexOf("\n\n");
  if (end < 0) return null;
  const [first = "", ...lines] = body.subarray(0, end).toString("latin1").split("\n");
  const oldSize = first.startsWith("old ") ? parseDecimal(first.slice(4)) : null;
  if (oldSize === null || lines.length > MAX_PROOF) return null;
  const proof: Uint8Array[] = [];
  for (const line of lines) {
    const hash = decodeBase64(line);
    if (hash === null || hash.length !== HASH_BYTES) return null;
    proof.push(hash);
  }
  return { oldSize, proof, note: body.subarray(end + 2) };
}
