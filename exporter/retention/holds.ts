/**
 * The holds in force, as the exporter remembers them between starts: a note beside the texts of retention, signed by the log's key, so that
 * who can write files and has no key can take none away. It says up to which entry it counts, and the entries behind that are read
 * again: an older one that is put back hides nothing.
 *
 *     meshseal/v1/holds
 *     <origin>
 *     <entries that it counts>
 *     <JSON, one line>
 */
import { z } from "zod";
import { bytesOf, type Entry, uintOf } from "../../record/codec.ts";
import {
  F_HOLD_ACTION,
  F_HOLD_FROM,
  F_HOLD_NAME,
  F_HOLD_REASON,
  F_HOLD_TO,
  HOLD_PLACED,
  KIND_HOLD,
} from "../../record/fields.ts";
import { parseDecimal } from "../log/checkpoint.ts";
import { openNote, type Signer, signNote, type Verifier } from "../log/note.ts";
import type { HeldRange } from "../log/retention.ts";

export type Hold = HeldRange & {
  readonly reason: string;
  /** Up to which entry the bundles in it have a legal hold; buckets only. */
  readonly appliedTo: number;
};

export type Holds = Map<string, Hold>;

export const HOLDS_FILE = "holds";
export const MAX_HOLDS = 1000;

/** What people call a hold: it stands in commands, paths and logs. */
export const HOLD_NAME: RegExp = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

const LABEL = "meshseal/v1/holds";

const index = z.int().min(0);
const Schema = z.array(
  z.strictObject({
    name: z.string().max(512),
    from: index,
    to: index.nullable(),
    reason: z.string().max(512),
    appliedTo: index,
  }),
);

/** Returns the note over `holds`, which follow from the first `size` entries. */
export function signHolds(holds: Holds, size: number, signer: Signer): Buffer {
  const list = [...holds].map(([name, hold]) => ({ name, ...hold }));
  // JSON has no line breaks of its own; control characters are escaped.
  const text = `${LABEL}\n${signer.name}\n${size}\n${JSON.stringify(list)}\n`;
  return Buffer.from(signNote(text, [signer]));
}

/** Returns what a note says that one of `logs` signed, or null. */
export function openHolds(
  bytes: Uint8Array,
  logs: readonly Verifier[],
): { readonly holds: Holds; readonly size: number } | null {
  const note = openNote(bytes, logs);
  const [label, origin, sizeText = "", json = "", last, ...rest] = note?.text.split("\n") ?? [];
  if (note === null || label !== LABEL || last !== "" || rest.length > 0) return null;
  const size = parseDecimal(sizeText);
  if (size === null || !note.verified.some(({ name }) => name === origin)) return null;
  try {
    const parsed = Schema.safeParse(JSON.parse(json));
    if (!parsed.success || parsed.data.length > MAX_HOLDS) return null;
    return { holds: new Map(parsed.data.map(({ name, ...hold }) => [name, hold])), size };
  } catch {
    return null;
  }
}

/** Takes an entry of the log. */
export function applyHold(holds: Holds, entry: Entry): void {
  if (entry.kind !== KIND_HOLD) return;
  const name = Buffer.from(bytesOf(entry, F_HOLD_NAME) ?? []).toString("latin1");
  if (uintOf(entry, F_HOLD_ACTION) !== HOLD_PLACED) {
    holds.delete(name);
    return;
  }
  const from = uintOf(entry, F_HOLD_FROM) ?? 0;
  const to = uintOf(entry, F_HOLD_TO) ?? null;
  const reason = Buffer.from(bytesOf(entry, F_HOLD_REASON) ?? []).toString();
  holds.set(name, { from, to, reason, appliedTo: 0 });
}
