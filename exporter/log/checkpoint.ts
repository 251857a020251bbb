/**
 * Checkpoints: the signed size and root of a tree, byte for byte as c2sp.org/tlog-checkpoint has them.
 *
 *     <origin>
 *     <tree size, decimal>
 *     <base64 of the 32-byte root>
 *
 * Extension lines are refused: we never write one, and witnesses reject them.
 */
import { HASH_BYTES } from "./merkle.ts";
import { decodeBase64, openNote, type Signer, signNote, type Verifier } from "./note.ts";

export type Checkpoint = {
  readonly origin: string;
  /** Leaves in the tree, below 2^53. */
  readonly size: number;
  readonly root: Uint8Array;
};

/** Returns the text of a checkpoint, without signatures. */
export function formatCheckpoint(checkpoint: Checkpoint): string {
  const root = Buffer.from(checkpoint.root).toString("base64");
  return `${checkpoint.origin}\n${checkpoint.size}\n${root}\n`;
}

/** Returns the checkpoint in `text`, or null unless it is exactly one in canonical form. */
export function parseCheckpoint(text: string): Checkpoint | null {
  const [origin, sizeText, rootText, last, ...rest] = text.split("\n");
  if (origin === undefined || sizeText === undefined || rootText === undefined) return null;
  if (last !== "" || rest.length > 0 || origin === "") return null;
  const size = parseDecimal(sizeText);
  const root = decodeBase64(rootText);
  if (size === null || root === null || root.length !== HASH_BYTES) return null;
  return { origin, size, root };
}

/** Returns the signed note of a checkpoint. The origin must be the name of the first signer's key. */
export function signCheckpoint(checkpoint: Checkpoint, signers: readonly Signer[]): string {
  if (signers[0]?.name !== checkpoint.origin) {
    throw new RangeError(`origin ${checkpoint.origin} is not the key's name ${signers[0]?.name}`);
  }
  return signNote(formatCheckpoint(checkpoint), signers);
}

/**
 * Opens a signed checkpoint. Returns null if the note is malformed, if a signature by one of `logs` does not verify or
 * there is none, or if the origin is not the name of the key that signed.
 */
export function openCheckpoint(bytes: Uint8Array, ...logs: readonly Verifier[]): Checkpoint | null {
  const note = openNote(bytes, logs);
  if (note === null) return null;
  const checkpoint = parseCheckpoint(note.text);
  if (checkpoint === null) return null;
  return note.verified.some(({ name }) => name === checkpoint.origin) ? checkpoint : null;
}

/** Returns the number in canonical ASCII decimal, at most 2^53 - 1, or null. */
export function parseDecimal(text: string): number | null {
  if (!/^(0|[1-9][0-9]{0,15})$/.test(text)) return null;
  const value = Number(text);
  return Number.isSafeInteger(value) ? value : null;
}
