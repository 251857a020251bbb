/** Which checkpoints are trusted, and whether a log extends those that were seen earlier. */
import { type Checkpoint, openCheckpoint, parseCheckpoint } from "../log/checkpoint.ts";
import { parseNote } from "../log/note.ts";
import type { Findings } from "./report.ts";
import type { Tiles } from "./tiles.ts";
import { logKeysAt, type Policy } from "./trust.ts";

/** Each given checkpoint, and each of the policy, against the tree. */
export async function checkLastSeen(
  tiles: Tiles,
  policy: Policy,
  origin: string,
  given: Uint8Array | undefined,
  findings: Findings,
  notes: string[],
): Promise<void> {
  let compared = 0;
  for (const bytes of given === undefined ? policy.lastSeen : [given, ...policy.lastSeen]) {
    const seen = openTrusted(bytes, policy);
    if (seen === null) {
      const message = "the last-seen checkpoint is not signed by a given key";
      findings.add({ severity: "cannot-say", cause: "last-seen", message });
      compared++;
      continue;
    }
    if (seen.origin !== origin) continue;
    compared++;
    const found = seen.size > tiles.size ? null : await tiles.root(seen.size);
    if (found === null || !Buffer.from(found).equals(seen.root)) {
      const message = `the log had ${seen.size} entries with another history: it was rolled back or forked`;
      findings.add({ severity: "tampered", cause: "rolled-back", message });
    } else notes.push(`The log extends the last-seen checkpoint of size ${seen.size}.`);
  }
  if (compared > 0) return;
  notes.push(
    "A roll-back of the whole log cannot be told without an earlier checkpoint (--last-seen), a witness or an anchor.",
  );
}

/** Opens a checkpoint that a trusted key of its origin signed, and may sign at its size. */
export function openTrusted(bytes: Uint8Array, policy: Policy): Checkpoint | null {
  const claimed = parseCheckpoint(parseNote(bytes)?.text ?? "");
  if (claimed === null) return null;
  const keys = logKeysAt(policy.logs, claimed.origin, claimed.size);
  return openCheckpoint(bytes, ...keys);
}

/** Which of the policy's logs this is: the one that the checkpoint names, or the only one, or the first. */
export function originOf(note: Uint8Array | null, { logs }: Policy): string {
  const claimed = parseCheckpoint((note && parseNote(note)?.text) ?? "")?.origin;
  const known = logs.find(({ verifier }) => verifier.name === claimed) ?? logs[0];
  return known?.verifier.name ?? "";
}
