/** The one check that every test of exporter and Envoy ends with. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Verdict, VerifyReport } from "../../exporter/audit/report.ts";
import { openSource } from "../../exporter/audit/source.ts";
import { verifyLog } from "../../exporter/audit/verify.ts";
import { parseCheckpoint } from "../../exporter/log/checkpoint.ts";
import { parseNote, parseVkey } from "../../exporter/log/note.ts";
import { parseBundle, TILE_WIDTH, tilePath } from "../../exporter/log/tile.ts";
import { decodeEntry, type Entry } from "../../record/codec.ts";

/** Re-reads everything in a data directory from disk. Throws unless the verdict is the one expected. */
export async function checkLog(dir: string, expected: Verdict = "verified"): Promise<VerifyReport> {
  const log = parseVkey(readFileSync(join(dir, "log.vkey"), "utf8").trim());
  if (log === null) throw new Error(`${dir}/log.vkey holds no key`);
  const report = await verifyLog(await openSource(dir), { log });
  if (report.verdict !== expected) {
    const findings = JSON.stringify(report.findings.slice(0, 5), null, 1);
    throw new Error(`the log is ${report.verdict}, not ${expected}: ${findings}`);
  }
  return report;
}

/** Returns every entry below the checkpoint, decoded, in the order of the log. Checks nothing: that is checkLog's. */
export function entriesOf(dir: string): Entry[] {
  const note = parseNote(readFileSync(join(dir, "log", "checkpoint")));
  const size = parseCheckpoint(note?.text ?? "")?.size ?? 0;
  const entries: Entry[] = [];
  for (let index = 0; index * TILE_WIDTH < size; index++) {
    const width = Math.min(TILE_WIDTH, size - index * TILE_WIDTH);
    const path = tilePath({ level: "entries", index, width });
    for (const bytes of parseBundle(readFileSync(join(dir, "log", path)), width) ?? []) {
      const entry = decodeEntry(bytes);
      if (entry !== null) entries.push(entry);
    }
  }
  return entries;
}
