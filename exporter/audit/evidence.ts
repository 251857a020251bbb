/**
 * Evidence of split views: what a witness kept because it contradicts what it had cosigned (anchor/witness-server.ts). Held against a log it says
 * which of the two histories that log has; in the data directory of a witness it is named.
 */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseCheckpoint } from "../log/checkpoint.ts";
import { parseNote } from "../log/note.ts";

/** A kept request at most, in bytes: what a witness takes. */
export const MAX_EVIDENCE_BYTES = 65_536;
const ROLES = ["witness", "peer"] as const;
const MAX_LOGS = 1_000;
const MAX_FILES = 300;

/** Returns the signed note in a file: an add-checkpoint request (c2sp.org/tlog-witness), or a note by itself. */
export function noteOf(bytes: Buffer): Buffer {
  const end = bytes.indexOf("\n\n");
  const isRequest = bytes.toString("latin1", 0, 4) === "old " && end >= 0;
  return isRequest ? bytes.subarray(end + 2) : bytes;
}

/** Resolves to a sentence for each log that the exporter with this data directory, as a witness or peer, keeps evidence against. */
export async function keptEvidence(data: string): Promise<string[]> {
  const said: string[] = [];
  for (const role of ROLES) {
    const logs = await readdir(join(data, role)).catch(() => []);
    for (const log of logs.filter((name) => /^[0-9a-f]{64}$/.test(name)).slice(0, MAX_LOGS)) {
      const dir = join(data, role, log, "evidence");
      const files = (await readdir(dir).catch(() => []))
        .filter((name) => name.endsWith(".request"))
        .sort()
        .slice(0, MAX_FILES);
      for (const kind of ["fork", "unproved"] as const) {
        const [first, ...rest] = files.filter((name) => name.startsWith(`${kind}-`));
        if (first === undefined) continue;
        const file = join(dir, first);
        const bytes = await readFile(file).catch(() => Buffer.alloc(0));
        const claimed = parseCheckpoint(parseNote(noteOf(bytes))?.text ?? "");
        const origin = claimed?.origin ?? "a log";
        const what =
          kind === "fork"
            ? `signed two histories of ${claimed?.size ?? "?"} entries`
            : `did not prove that its ${claimed?.size ?? "?"} entries go on from what it had shown`;
        const more = rest.length > 0 ? `, and ${rest.length} more` : "";
        said.push(`As a ${role} it keeps evidence that ${origin} ${what}: ${file}${more}.`);
      }
    }
  }
  return said;
}
