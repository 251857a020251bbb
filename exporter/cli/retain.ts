/** `meshseal retain`: lets go of a log's oldest entries. docs/retention.md */
import { Command } from "commander";
import { MeshsealError } from "../errors.ts";
import type { RetentionStatus } from "../retention/keeper.ts";
import type { Retained } from "../retention/pruner.ts";
import { RETENTION_PATH } from "../retention/routes.ts";
import { askExporter } from "./ask.ts";

const HELP = `
A running exporter does it: it writes a retention entry into the log, signs a checkpoint over that, and removes the entries' files.
Hashes stay, so that the tree, receipts and proofs are as before. Nothing below a hold goes (meshseal hold). Times are those at which
the log wrote the files, not what entries claim. Without a time or an index it says how things are.

Examples:
  meshseal retain --older-than 400d --dry-run
  meshseal retain --older-than 400d
  meshseal retain --before 2026-01-01T00:00:00Z --to https://exporter:7700`;

const UNITS: Readonly<Record<string, number>> = { h: 3_600_000, d: 86_400_000 };

type Flags = { olderThan?: string; before?: string; below?: string; dryRun?: boolean; to: string };

export function retainCommand(): Command {
  return new Command("retain")
    .description("Remove the oldest entries of a log, and say so in the log.")
    .option("--older-than <time>", "what the log took in so long ago: 400d, 36h")
    .option("--before <date>", "what the log took in before this time (ISO 8601)")
    .option("--below <index>", "entries below this one")
    .option("--dry-run", "only say what would go")
    .option("--to <url>", "the exporter", "http://127.0.0.1:7700")
    .option("--json", "print one JSON object")
    .addHelpText("after", HELP)
    .action(retain);
}

async function retain(flags: Flags & { json?: boolean }): Promise<void> {
  const query = queryOf(flags);
  if (query === null) {
    const status = (await askExporter("GET", `${flags.to}${RETENTION_PATH}`)) as RetentionStatus;
    console.log(flags.json ? JSON.stringify(status, null, 2) : formatStatus(status));
    return;
  }
  const trial = flags.dryRun ? "&trial=true" : "";
  const url = `${flags.to}${RETENTION_PATH}?${query}${trial}`;
  const done = (await askExporter("POST", url)) as Retained;
  if (flags.json) return console.log(JSON.stringify(done, null, 2));
  const { minimumIndex, was, because } = done;
  const would = flags.dryRun ? "would begin" : "begins";
  console.log(
    minimumIndex === was
      ? `nothing goes: the log begins at entry ${was}`
      : `the log ${would} at entry ${minimumIndex}: ${minimumIndex - was} entries ${flags.dryRun ? "would go" : "are let go"}`,
  );
  if (because !== "") console.log(`not more, since ${because}`);
}

function queryOf({ olderThan, before, below }: Flags): string | null {
  const given = [olderThan, before, below].filter((one) => one !== undefined);
  if (given.length === 0) return null;
  if (given.length > 1) throw new MeshsealError("give one of --older-than, --before and --below.");
  if (below !== undefined) return `below=${encodeURIComponent(below)}`;
  const date = before === undefined ? Date.now() - millisOf(olderThan ?? "") : Date.parse(before);
  if (Number.isNaN(date)) throw new MeshsealError(`"${before}" is no time: 2026-01-01T00:00:00Z.`);
  return `before=${encodeURIComponent(new Date(date).toISOString())}`;
}

function millisOf(text: string): number {
  const [, count, unit = ""] = /^([1-9][0-9]{0,5})([dh])$/.exec(text) ?? [];
  if (count === undefined)
    throw new MeshsealError(`--older-than ${text}: a number with d or h behind it.`);
  return Number(count) * (UNITS[unit] ?? 0);
}

function formatStatus(status: RetentionStatus): string {
  const { minimumIndex, left, because, holds, legalHolds } = status;
  const lines = [`the log begins at entry ${minimumIndex}; ${holds.length} holds`];
  if (left > 0) lines.push(`${left} bundles below it are still there: ${because}`);
  if (legalHolds !== null) lines.push(`legal holds in the bucket: ${legalHolds}`);
  return lines.join("\n");
}
