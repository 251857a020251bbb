/**
 * The logs whose chains are taken up here (FORMAT.md 5.5): a file of verifier keys, one a line. A chain whose exporter is gone
 * goes on at any other that knows that exporter's key, from the next seq of the receipt that its proxy holds.
 */
import { readFileSync } from "node:fs";
import { MeshsealError } from "../errors.ts";
import { parseNote, parseVkey, type Verifier } from "../log/note.ts";
import { openReceipt, parseReceipt, type Receipt } from "../log/receipt.ts";

const MAX_ORIGINS = 10_000;

export type Origins = ReadonlyMap<string, readonly Verifier[]>;

/** Reads the file. Empty lines and lines that begin with # say nothing. Throws MeshsealError that names the line. */
export function readOrigins(path: string): Origins {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new MeshsealError(`--origins ${path}: ${error instanceof Error ? error.message : error}`);
  }
  return parseOrigins(text, path);
}

export function parseOrigins(text: string, path: string): Origins {
  const origins = new Map<string, Verifier[]>();
  const lines = text.split("\n");
  if (lines.length > MAX_ORIGINS) throw new MeshsealError(`--origins ${path}: too many lines`);
  for (const [i, line] of lines.entries()) {
    const vkey = line.trim();
    if (vkey === "" || vkey.startsWith("#")) continue;
    const verifier = parseVkey(vkey);
    if (verifier === null) {
      throw new MeshsealError(
        `--origins ${path}: line ${i + 1} is no verifier key (name+hash+base64).`,
      );
    }
    origins.set(verifier.name, [...(origins.get(verifier.name) ?? []), verifier]);
  }
  return origins;
}

/** Returns the receipt in `note` if one of `origins` signed it, or null. */
export function openForeignReceipt(note: Uint8Array, origins: Origins): Receipt | null {
  const parsed = parseNote(note);
  const claimed = parsed === null ? null : parseReceipt(parsed.text);
  for (const verifier of origins.get(claimed?.origin ?? "") ?? []) {
    const receipt = openReceipt(note, verifier);
    if (receipt !== null) return receipt;
  }
  return null;
}
