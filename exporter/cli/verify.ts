/** `meshseal verify` */
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { Command } from "commander";
import { keptEvidence, MAX_EVIDENCE_BYTES } from "../audit/evidence.ts";
import { withMirror } from "../audit/mirror.ts";
import { inBucket, inDirectory, openProofs, type ProofSource } from "../audit/proofs.ts";
import { EXIT_CODES, type VerifyReport } from "../audit/report.ts";
import { openSource, type Source } from "../audit/source.ts";
import { type Policy, policyOf } from "../audit/trust.ts";
import { verifyLogs } from "../audit/union.ts";
import { Unreachable } from "../audit/unreachable.ts";
import { type VerifyOptions, verifyLog } from "../audit/verify.ts";
import { codeOf, MeshsealError } from "../errors.ts";
import { parseVkey, type Verifier } from "../log/note.ts";
import type { StoreFlags } from "../store/settings.ts";
import { withStoreFlags } from "./store-flags.ts";

type Flags = {
  key?: string[];
  policy?: string;
  json?: boolean;
  requireSeals?: boolean;
  seals?: string;
  batchKeys?: string;
  lastSeen?: string;
  updateLastSeen?: boolean;
  anchors?: string[];
  evidence?: string[];
  mirror?: string;
} & StoreFlags;

const HELP = `
Exit codes:
  0  verified
  1  tampered: something was changed, removed, added or reordered, or the key did not sign
  2  incomplete: the log itself says that requests are missing; with --require-seals also open chains
  3  cannot say: no data, not reachable, or written by a newer version
  64 wrong usage

Examples:
  meshseal verify ./meshseal-data --key @trusted.vkey
  meshseal verify ./meshseal-data --policy policy.json --last-seen seen.checkpoint --update-last-seen
  meshseal verify gs://audit/mesh --key @trusted.vkey
  meshseal verify ./log-a ./log-b --key @a.vkey --key @b.vkey
  meshseal verify http://127.0.0.1:7700/log --key 'shop/meshseal+1a2b3c4d+AQ...' --json`;

export function verifyCommand(): Command {
  const command = new Command("verify")
    .description("Check a whole log: signature, tree, every entry, every link of every chain.")
    .argument(
      "<dir|url...>",
      "data directory, log directory, or URL (http, https, s3, gs, az); several logs are verified as one",
    )
    .option(
      "--key <vkey|@file...>",
      "the log's verifier key, from a source that you trust; one for each log",
    )
    .option("--policy <file>", "whom you trust: log keys, witnesses, time stamp authorities, ...")
    .option("--last-seen <file>", "a checkpoint of this log from earlier: finds a roll-back")
    .option("--update-last-seen", "write the checkpoint there, unless the log was tampered with")
    .option(
      "--anchors <dir...>",
      "proofs by outsiders (default: anchors/ beside the log); of several logs in their order",
    )
    .option("--evidence <file...>", "what a witness kept of this log: requests, or checkpoints")
    .option("--mirror <dir>", "its mirror (serve --mirror): verified as well, and held against it")
    .option("--seals <file>", "Envoy's log: its seal lines are compared with what is here")
    .option("--batch-keys <file>", "keys of senders, ID:HEX a line, for the MACs of seal lines")
    .option("--require-seals", "open chains count as incomplete");
  return withStoreFlags(command)
    .option("--json", "print the report as one JSON object")
    .addHelpText("after", HELP)
    .action(async (where: string[], flags: Flags) => {
      const bar =
        process.stderr.isTTY && !flags.json
          ? new (await import("cli-progress")).SingleBar({
              format: "{bar} {percentage}%  {value}/{total} entries",
              stream: process.stderr,
              clearOnComplete: true,
            })
          : null;
      try {
        const policy = await readTrust(flags);
        const lastSeen = flags.lastSeen === undefined ? undefined : readSeen(flags);
        const [first = ""] = where;
        const given = flags.anchors ?? [];
        if (given.length > where.length) throw new MeshsealError("--anchors names more than logs.");
        const sources = await Promise.all(where.map((one) => openSource(one, flags)));
        const proofs = await Promise.all(
          sources.map(({ bucket }, i) => {
            if (given[i] !== undefined) return inDirectory(given[i]);
            return bucket === undefined ? openProofs(where[i] ?? "") : inBucket(bucket);
          }),
        );
        const options = {
          policy,
          ...(lastSeen === undefined ? {} : { lastSeen }),
          ...(flags.seals === undefined
            ? {}
            : { seals: await readSeals(flags.seals, flags.batchKeys) }),
          evidence: readEvidence(flags.evidence ?? []),
          requireSeals: flags.requireSeals === true,
          onProgress: (done: number, total: number) => {
            if (bar?.isActive === false) bar.start(total, 0);
            bar?.update(done);
          },
        };
        if (where.length > 1 && flags.mirror !== undefined)
          throw new MeshsealError("--mirror is for one log.");
        if (where.length > 1) {
          await verifyTogether(sources, options, proofs, flags);
          bar?.stop();
          return;
        }
        const beside = proofs[0] == null ? {} : { proofs: proofs[0] };
        const [source] = sources;
        if (source === undefined) throw new MeshsealError("name a log.");
        const alone = await verifyLog(source, { ...options, ...beside });
        const report =
          flags.mirror === undefined
            ? alone
            : await withMirror(alone, source, await openSource(flags.mirror), options);
        bar?.stop();
        if (flags.updateLastSeen) keepSeen(report, flags.lastSeen);
        const kept = await keptEvidence(first);
        const whole = { ...report, notes: [...report.notes, ...kept] };
        console.log(flags.json ? JSON.stringify(whole, null, 2) : formatReport(whole));
        process.exitCode = EXIT_CODES[report.verdict];
      } catch (error) {
        bar?.stop();
        if (!(error instanceof Unreachable)) throw error;
        if (flags.json)
          console.log(JSON.stringify({ verdict: "cannot-say", message: error.message }));
        else console.error(`meshseal: cannot say: ${error.message}`);
        process.exitCode = EXIT_CODES["cannot-say"];
      }
    });
}

function readEvidence(files: readonly string[]): Map<string, Buffer> {
  const found = new Map<string, Buffer>();
  for (const file of files) {
    try {
      const bytes = readFileSync(file);
      if (bytes.length > MAX_EVIDENCE_BYTES) throw new Error("it is too long");
      found.set(file, bytes);
    } catch (error) {
      throw new MeshsealError(
        `--evidence ${file}: ${error instanceof Error ? error.message : error}`,
      );
    }
  }
  return found;
}

async function readSeals(
  file: string,
  keys: string | undefined,
): Promise<NonNullable<VerifyOptions["seals"]>> {
  const [{ readLines }, { readBatchKeys }] = await Promise.all([
    import("./recover.ts"),
    import("../access/mac.ts"),
  ]);
  return { lines: readLines(file), macs: keys === undefined ? new Map() : readBatchKeys(keys) };
}

/** Returns what `--key` and `--policy` say together. */
async function readTrust({ key, policy: file }: Flags): Promise<Policy> {
  if (key === undefined && file === undefined) {
    throw new MeshsealError("give --key or --policy: what a log says of itself proves nothing.");
  }
  const given = (key ?? []).map((text) => policyOf(readKey(text)));
  const policy =
    file === undefined ? given[0] : (await import("../audit/policy.ts")).readPolicy(file);
  if (policy === undefined) throw new MeshsealError("give --key or --policy.");
  const logs = file === undefined ? [] : policy.logs;
  return { ...policy, logs: [...given.flatMap((one) => one.logs), ...logs] };
}

/** Verifies several logs as one and prints what each and what all of them say. */
async function verifyTogether(
  sources: readonly Source[],
  options: VerifyOptions,
  proofs: readonly (ProofSource | null)[],
  flags: Flags,
): Promise<void> {
  if (flags.updateLastSeen) throw new MeshsealError("--update-last-seen is for one log.");
  const report = await verifyLogs(sources, options, proofs);
  process.exitCode = EXIT_CODES[report.verdict];
  if (flags.json) {
    console.log(JSON.stringify(report, null, 2));
    return;
  }
  for (const log of report.logs) console.log(formatReport(log));
  const lines = [`${report.verdict.toUpperCase()}  ${report.logs.length} logs together`];
  for (const { chain, parts, state } of report.moved.slice(0, SHOWN)) {
    const path = parts.map(({ origin, first, last }) => `${first} to ${last} in ${origin}`);
    lines.push(`  chain       ${chain}  seq ${path.join(", ")}; ${state}`);
  }
  for (const { severity, message } of report.findings.slice(0, SHOWN))
    lines.push(`  ${severity}: ${message}`);
  for (const note of report.notes) lines.push(`  note: ${note}`);
  console.log(lines.join("\n"));
}

/** Returns the last-seen checkpoint, or undefined where it is yet to be written. */
function readSeen({ lastSeen = "", updateLastSeen }: Flags): Buffer | undefined {
  try {
    return readFileSync(lastSeen);
  } catch (error) {
    if (updateLastSeen && codeOf(error) === "ENOENT") return undefined;
    throw new MeshsealError(
      `--last-seen ${lastSeen}: ${error instanceof Error ? error.message : error}`,
    );
  }
}

/** Keeps the checkpoint for the next time, unless the log was tampered with. */
function keepSeen(report: VerifyReport, file: string | undefined): void {
  if (file === undefined) throw new MeshsealError("--update-last-seen needs --last-seen <file>.");
  if (report.checkpoint === "" || report.verdict === "tampered") return;
  writeFileSync(`${file}.new`, report.checkpoint);
  renameSync(`${file}.new`, file);
}

/** Returns the verifier that `--key` names. Throws MeshsealError if it names none. */
export function readKey(text: string): Verifier {
  let vkey = text;
  if (text.startsWith("@")) {
    try {
      vkey = readFileSync(text.slice(1), "utf8").trim();
    } catch (error) {
      throw new MeshsealError(`--key ${text}: ${error instanceof Error ? error.message : error}`);
    }
  }
  const verifier = parseVkey(vkey);
  if (verifier === null) {
    throw new MeshsealError(`--key: "${vkey.slice(0, 80)}" is no verifier key (name+hash+base64).`);
  }
  return verifier;
}

const SHOWN = 20;

function formatReport(report: VerifyReport): string {
  const { verdict, origin, treeSize, root, entries, gaps, chains, findings } = report;
  const lines = [`${verdict.toUpperCase()}  ${origin}`];
  if (root !== "")
    lines.push(`  checkpoint  ${treeSize} entries, root ${root}, signed by the given key`);
  const kinds = Object.entries(entries).map(([kind, count]) => `${count} ${kind}`);
  if (kinds.length > 0) lines.push(`  entries     ${kinds.join(", ")}`);
  if (gaps.entries > 0)
    lines.push(`  gaps        ${gaps.count} requests missing, in ${gaps.entries} gap entries`);
  for (const { chain, first, last, state } of chains.slice(0, SHOWN)) {
    lines.push(`  chain       ${chain}  seq ${first} to ${last}, ${state}`);
  }
  if (chains.length > SHOWN)
    lines.push(`  and ${chains.length - SHOWN} more chains (--json has all)`);
  for (const { severity, message } of findings.slice(0, SHOWN))
    lines.push(`  ${severity}: ${message}`);
  const more = findings.length + report.moreFindings - SHOWN;
  if (more > 0) lines.push(`  and ${more} more findings (--json has the first 1000)`);
  for (const { kind, status, says } of report.anchors.slice(0, SHOWN))
    lines.push(`  ${kind} ${status}: ${says}`);
  if (report.delays !== null) {
    const { entries: read, medianSeconds, p99Seconds, worstSeconds } = report.delays;
    lines.push(
      `  outsiders   saw an entry after ${medianSeconds} s (median), ${p99Seconds} s (99 of 100), ${worstSeconds} s (worst) of ${read} read, by the log's own clock and word`,
    );
  }
  for (const note of report.notes) lines.push(`  note: ${note}`);
  return lines.join("\n");
}
