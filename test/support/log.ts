/** The one check that every test of exporter and Envoy ends with. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Verdict, VerifyReport } from "../../exporter/audit/report.ts";
import { openSource } from "../../exporter/audit/source.ts";
import { verifyLog } from "../../exporter/audit/verify.ts";
import { parseVkey } from "../../exporter/log/note.ts";

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
