/** `meshseal doctor`: tries what the documentation promises of the surroundings, and says what really holds. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { type Check, type CheckResult, runChecks } from "../doctor/check.ts";
import { dataChecks } from "../doctor/data.ts";
import { MeshsealError } from "../errors.ts";

type Flags = { data: string; json?: boolean };

const HELP = `
Exit codes:
  0  everything that was tried is as promised
  1  something is not: its line begins with BAD
  3  something could not be tried
  64 wrong usage

Example:
  meshseal doctor --data ./meshseal-data`;

const EXIT_BAD = 1;
const EXIT_UNKNOWN = 3;

/** Each subject's checks; a subject that was not asked for gives none. */
async function allChecks(flags: Flags): Promise<Check[]> {
  const checks: Check[] = [];
  if (existsSync(join(flags.data, "log.key"))) checks.push(...dataChecks(flags.data));
  return checks;
}

export function doctorCommand(): Command {
  return new Command("doctor")
    .description("Try what is promised of disk, store and proxies, and say what really holds.")
    .option("--data <dir>", "data directory", "./meshseal-data")
    .option("--json", "print one JSON object")
    .addHelpText("after", HELP)
    .action(async (flags: Flags) => {
      const checks = await allChecks(flags);
      if (checks.length === 0) {
        throw new MeshsealError(`${flags.data} is no data directory: there is nothing to check.`);
      }
      const results = await runChecks(checks, flags.json ? undefined : print);
      if (flags.json) console.log(JSON.stringify({ checks: results }, null, 2));
      const has = (status: string): boolean => results.some((result) => result.status === status);
      process.exitCode = has("bad") ? EXIT_BAD : has("unknown") ? EXIT_UNKNOWN : 0;
    });
}

function print({ status, name, message }: CheckResult): void {
  console.log(`${status.toUpperCase().padEnd(8)} ${name}: ${message}`);
}
