/** Verifies the mirror of a log (store/mirror.ts) and holds the two against each other: one of them may have been changed alone. */
import { Findings, type VerifyReport } from "./report.ts";
import type { Source } from "./source.ts";
import { Tiles } from "./tiles.ts";
import { type VerifyOptions, verifyLog } from "./verify.ts";

/** Returns `report`, which is of `source`, with what its mirror shows. Throws Unreachable where the mirror cannot be read. */
export async function withMirror(
  report: VerifyReport,
  source: Source,
  mirror: Source,
  options: VerifyOptions,
): Promise<VerifyReport> {
  const { lastSeen: _, proofs: __, evidence: ___, ...rest } = options;
  const other = await verifyLog(mirror, rest);
  const findings = new Findings();
  for (const finding of report.findings) findings.add(finding);
  for (const finding of other.findings) {
    // What is incomplete in the one is so in the other, and said already.
    if (finding.severity === "incomplete") continue;
    findings.add({ ...finding, message: `in the mirror: ${finding.message}` });
  }
  const notes = [...report.notes];
  const [ours, theirs] = [report.treeSize, other.treeSize];
  const size = Math.min(ours, theirs);
  if (size > 0) {
    const roots = await Promise.all([
      new Tiles(source, ours).root(size),
      new Tiles(mirror, theirs).root(size),
    ]);
    const [a, b] = roots.map((root) => root && Buffer.from(root).toString("hex"));
    if (a !== null && b !== null && a !== b) {
      const message = `the log and its mirror have different histories of their first ${size} entries`;
      findings.add({ severity: "tampered", cause: "two-histories", message });
    } else if (theirs > ours) {
      const message = `the mirror has ${theirs} entries, the log only ${ours}: it was rolled back`;
      findings.add({ severity: "tampered", cause: "rolled-back", message });
    } else notes.push(`The mirror has ${theirs} of ${ours} entries, and the same.`);
  }
  const verdicts = [report.verdict, findings.verdict];
  const worst = (["tampered", "cannot-say", "incomplete"] as const).find((one) =>
    verdicts.includes(one),
  );
  return { ...report, verdict: worst ?? "verified", findings: findings.list, notes };
}
