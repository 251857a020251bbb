/** What one proof by an outsider says of one checkpoint, by the keys that the policy gives. Pure: dispatches to each kind's verifier. */
import { attestationsOf, blockTime, OtsError, parseOts } from "../anchor/ots.ts";
import { verifyRekor } from "../anchor/rekor-entry.ts";
import { verifyTimestamp } from "../anchor/timestamp-token.ts";
import { cosignedAt } from "../log/cosignature.ts";
import { sha256 } from "../log/merkle.ts";
import { openNote } from "../log/note.ts";
import { type AnchorReport, isoTime } from "./report.ts";
import type { AnchorKind, Policy } from "./trust.ts";

/** What was anchored, and the proof. */
export type Given = {
  /** The name that the log's operator gave the anchor. */
  readonly name: string;
  readonly size: number;
  readonly note: Buffer;
  readonly bytes: Buffer;
};

/** A report, and the requirement's kind and name that it counts for where it is verified. */
export type Judged = {
  readonly report: AnchorReport;
  readonly counts?: { kind: AnchorKind; name: string };
  /** Bitcoin blocks whose headers would say more. */
  readonly heights?: readonly number[];
};

/** Returns what a proof with this ending proves, or null for an ending that is not known. */
export function judgeProof(suffix: string, given: Given, policy: Policy): Judged | null {
  if (suffix === "tsr") return judgeTimestamp(given, policy);
  if (suffix === "ots") return judgeOts(given, policy);
  if (suffix === "rekor") return judgeRekor(given, policy);
  if (suffix === "put") return judgePut(given);
  return null;
}

function judgeTimestamp({ name, size, note, bytes }: Given, { tsas }: Policy): Judged {
  const report = { kind: "rfc3161", name, treeSize: size } as const;
  const stamps = (tsas.length > 0 ? tsas : [{ name, roots: [], policies: [] }]).map((tsa) => ({
    tsa,
    stamp: verifyTimestamp(bytes, sha256(note), tsa),
  }));
  const [first] = stamps;
  const good = stamps.find(({ stamp }) => stamp.status === "verified");
  const stamp = good?.stamp ?? first?.stamp ?? { status: "invalid", reason: "no authority" };
  if (stamp.status === "invalid") {
    return {
      report: {
        ...report,
        status: "failed",
        says: `The time stamp ${name} is broken: ${stamp.reason}.`,
      },
    };
  }
  const time = isoTime(stamp.time / 1000);
  if (good === undefined) {
    const says = `A time stamp says ${time} by ${stamp.authority} of the first ${size} entries, and was not checked: ${stamp.reason}.`;
    return { report: { ...report, status: "not-checked", says } };
  }
  const accuracy =
    stamp.accuracyMs >= 1000 ? `${stamp.accuracyMs / 1000} s` : `${stamp.accuracyMs} ms`;
  const says = `The first ${size} entries existed before ${time} (within ${accuracy}), by the time stamp authority ${good.tsa.name} (${stamp.authority}).`;
  return {
    report: { ...report, name: good.tsa.name, status: "verified", time, says },
    counts: { kind: "rfc3161", name: good.tsa.name },
  };
}

function judgeOts({ name, size, note, bytes }: Given, { bitcoinHeaders }: Policy): Judged {
  const report = { kind: "opentimestamps", name, treeSize: size } as const;
  const digest = sha256(note);
  try {
    const found = attestationsOf(parseOts(bytes, digest), digest);
    const blocks = found.flatMap((one) => (one.kind === "bitcoin" ? [one] : []));
    const times = blocks.flatMap(({ height, message }) => {
      const header = bitcoinHeaders?.get(height);
      const time = header && blockTime(header, message);
      if (time === null) throw new OtsError(`block ${height} has another Merkle root`);
      return time === undefined ? [] : [{ height, time }];
    });
    const [first] = times.sort((a, b) => a.height - b.height);
    if (first !== undefined) {
      const time = isoTime(first.time);
      const says = `The first ${size} entries existed before Bitcoin block ${first.height}, which is of ${time} (within two hours).`;
      return {
        report: { ...report, status: "verified", time, says },
        counts: { kind: "opentimestamps", name },
      };
    }
    const heights = blocks.map(({ height }) => height).join(", ");
    if (heights !== "") {
      const says = `Bitcoin block ${heights} is said to cover the first ${size} entries, and was not checked: its header was not given.`;
      return {
        report: { ...report, status: "not-checked", says },
        heights: blocks.map(({ height }) => height),
      };
    }
    const calendars = found.flatMap((one) => (one.kind === "pending" ? [one.uri] : []));
    const says = `The first ${size} entries are promised a Bitcoin block by ${calendars.join(", ") || "nobody"}; there is none yet.`;
    return { report: { ...report, status: "pending", says } };
  } catch (error) {
    if (!(error instanceof OtsError)) throw error;
    const says = `The proof ${name} is broken: ${error.message}.`;
    return { report: { ...report, status: "failed", says } };
  }
}

function judgeRekor({ name, size, note, bytes }: Given, { rekorLogs, witnesses }: Policy): Judged {
  const report = { kind: "rekor", name, treeSize: size } as const;
  const verdict = verifyRekor(bytes, sha256(note), rekorLogs);
  if (verdict.status === "invalid") {
    const says = `The proof ${name} is broken: ${verdict.reason}.`;
    return { report: { ...report, status: "failed", says } };
  }
  const { origin, index, treeSize, checkpoint } = verdict;
  if (verdict.status === "untrusted") {
    const says = `The first ${size} entries are said to be in the log ${origin} at index ${index}, and that was not checked: no key of ${origin} was given.`;
    return { report: { ...report, status: "not-checked", says } };
  }
  const times = witnesses.witnesses.flatMap(({ verifier }) => {
    const signature = openNote(checkpoint, [verifier])?.verified[0];
    return signature === undefined ? [] : [cosignedAt(signature)];
  });
  const time = times.length > 0 ? isoTime(Math.min(...times)) : undefined;
  const when = time === undefined ? ", which states no time" : `, which a witness saw at ${time}`;
  const says = `The first ${size} entries are in the public log ${origin} at index ${index} of ${treeSize}${when}.`;
  return {
    report: { ...report, name: origin, status: "verified", says, ...(time && { time }) },
    counts: { kind: "rekor", name: origin },
  };
}

function judgePut({ name, size, bytes }: Given): Judged {
  let url = "?";
  try {
    url = String((JSON.parse(bytes.toString()) as { url?: unknown }).url).slice(0, 2048);
  } catch {
    // Says nothing then.
  }
  const says = `The checkpoint of ${size} entries is said to be at ${url}: compare it there.`;
  return { report: { kind: "put", name, treeSize: size, status: "not-checked", says } };
}
