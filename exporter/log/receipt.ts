/**
 * Receipts: the log's signed word that it holds a chain up to a seq durably. FORMAT.md section 5. A signed note whose
 * text is
 *
 *     meshseal/v1/receipt
 *     <origin>
 *     <chain, 32 hex digits>
 *     <next seq, decimal>
 *     <head: digest of the entry before it, 64 hex digits>
 *     <size of the newest checkpoint, decimal>
 *     <base64 of its root>
 *
 * The first line keeps it apart from a checkpoint, which the same key signs: no log may take that origin.
 */
import { parseDecimal } from "./checkpoint.ts";
import { HASH_BYTES } from "./merkle.ts";
import { decodeBase64, openNote, type Signer, signNote, type Verifier } from "./note.ts";

export const RECEIPT_LABEL = "meshseal/v1/receipt" as const;

export type Receipt = {
  readonly origin: string;
  /** 32 hex digits. */
  readonly chain: string;
  /** Entries of the chain the log holds: 0 to nextSeq - 1. At least 1. */
  readonly nextSeq: number;
  /** 64 hex digits: the digest of entry nextSeq - 1. */
  readonly head: string;
  readonly treeSize: number;
  readonly treeRoot: Uint8Array;
};

/** Returns the receipt as a note signed by `signer`, whose name is the origin. */
export function signReceipt(receipt: Receipt, signer: Signer): string {
  return signNote(formatReceipt(receipt), [signer]);
}

/** Returns the text of a receipt, without its signature. */
export function formatReceipt(receipt: Receipt): string {
  const root = Buffer.from(receipt.treeRoot).toString("base64");
  return `${RECEIPT_LABEL}\n${receipt.origin}\n${receipt.chain}\n${receipt.nextSeq}\n${receipt.head}\n${receipt.treeSize}\n${root}\n`;
}

/** Returns the receipt in `text`, or null unless it is exactly one in canonical form. Verifies no signature. */
export function parseReceipt(text: string): Receipt | null {
  const [label, origin, chain, nextText, head, sizeText, rootText, last, ...rest] =
    text.split("\n");
  if (label !== RECEIPT_LABEL || last !== "" || rest.length > 0) return null;
  if (origin === undefined || origin === "" || origin === RECEIPT_LABEL) return null;
  if (chain === undefined || !/^[0-9a-f]{32}$/.test(chain)) return null;
  if (head === undefined || !/^[0-9a-f]{64}$/.test(head)) return null;
  const nextSeq = parseDecimal(nextText ?? "");
  const treeSize = parseDecimal(sizeText ?? "");
  const treeRoot = decodeBase64(rootText ?? "");
  if (nextSeq === null || nextSeq === 0 || treeSize === null) return null;
  if (treeRoot === null || treeRoot.length !== HASH_BYTES) return null;
  return { origin, chain, nextSeq, head, treeSize, treeRoot };
}

/** Opens a signed receipt. Returns null if it is malformed or none of `logs` that is named in it signed it. */
export function openReceipt(bytes: Uint8Array, ...logs: readonly Verifier[]): Receipt | null {
  const note = openNote(bytes, logs);
  const receipt = note === null ? null : parseReceipt(note.text);
  if (note === null || receipt === null) return null;
  return note.verified.some(({ name }) => name === receipt.origin) ? receipt : null;
}
