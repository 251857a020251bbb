/** `meshseal doctor`: tries what the documentation promises of the surroundings, and says what really holds. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { type Check, type CheckResult, runChecks } from "../doctor/check.ts";
import { dataChecks } from "../doctor/data.ts";
import { type MeshFlags, meshChecks } from "../doctor/mesh.ts";
import { MeshsealError } from "../errors.ts";
import { STORE_FORMS, type StoreFlags, whereOf } from "../store/settings.ts";
import { withStoreFlags } from "./store-flags.ts";

type Flags = {
  data: string;
  json?: boolean;
  store?: string;
  origin: string;
  lockDays?: string;
} & MeshFlags &
  StoreFlags;

const HELP = `
Exit codes:
  0  everything that was tried is as promised
  1  something is not: its line begins with BAD
  3  something could not be tried
  64 wrong usage

Examples:
  meshseal doctor --data ./meshseal-data
  meshseal doctor --envoy http://127.0.0.1:9901 --exporter http://127.0.0.1:7700
  meshseal doctor --manifest meshseal.yaml
  meshseal doctor --store s3://audit/mesh --origin audit.example/shop`;

const EXIT_BAD = 1;
const EXIT_UNKNOWN = 3;

/** Each subject's checks; a subject that was not asked for gives none. */
async function allChecks(flags: Flags): Promise<Check[]> {
  const checks: Check[] = [];
  if (existsSync(join(flags.data, "log.key"))) checks.push(...dataChecks(flags.data));
  checks.push(...(await meshChecks(flags)));
  if (flags.store !== undefined) {
    const { bucketChecks } = await import("../doctor/bucket.ts");
    const where = whereOf(flags.store, flags);
    checks.push(...(await bucketChecks(where, flags.origin, readDays(flags.lockDays))));
  }
  return checks;
}

function readDays(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^[1-9]\d{0,4}$/.test(text)) return Number(text);
  throw new MeshsealError(`--lock-days "${text}" must be a whole number from 1 to 99999.`);
}

export function doctorCommand(): Command {
  const command = new Command("doctor")
    .description("Try what is promised of disk, store and proxies, and say what really holds.")
    .option("--data <dir>", "data directory", "./meshseal-data")
    .option("--envoy <url>", "admin address of a running Envoy, such as http://127.0.0.1:9901")
    .option("--envoy-log <file>", "its log, for the filter's own words")
    .option("--exporter <url>", "a running exporter, such as http://127.0.0.1:7700")
    .option("--ca <file>", "authority of the exporter's certificate (PEM)")
    .option("--cert <file>", "certificate to show to the exporter (PEM), with --key")
    .option("--key <file>", "its private key (PEM)")
    .option("--manifest <file...>", "manifests or Envoy configurations, before they are applied")
    .option("--root-namespace <name>", "Istio's root namespace", "istio-system")
    .option("--store <url>", `try what this bucket really protects: ${STORE_FORMS}`)
    .option("--origin <name>", "of the log in that bucket: doctor's own files go there", "doctor")
    .option("--lock-days <n>", "how long the files of that log must be locked");
  return withStoreFlags(command)
    .option("--json", "print one JSON object")
    .addHelpText("after", HELP)
    .action(async (flags: Flags) => {
      const checks = await allChecks(flags);
      if (checks.length === 0) {
        throw new MeshsealError(
          `${flags.data} is no data directory, and nothing else was named: give --data, --envoy, --exporter or --manifest.`,
        );
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
