/** `meshseal hold`: keeps entries from being let go. docs/retention.md */
import { Command } from "commander";
import type { Hold } from "../retention/holds.ts";
import type { RetentionStatus } from "../retention/keeper.ts";
import { HOLDS_PATH, RETENTION_PATH } from "../retention/routes.ts";
import { askExporter } from "./ask.ts";

const HELP = `
Each is an entry in the log. While a hold is in force nothing from its first entry on is let go; in a bucket its full bundles get a
legal hold as well.

Examples:
  meshseal hold place case-17 --reason "letter of 2026-03-01"                 everything, also what comes
  meshseal hold place audit-q1 --from 120000 --until 480000 --reason "Q1"
  meshseal hold list
  meshseal hold lift case-17 --reason "closed"`;

const EXPORTER = "http://127.0.0.1:7700";

type Flags = { to: string; reason: string };

export function holdCommand(): Command {
  return new Command("hold")
    .description("Keep entries from being let go: place, lift and list holds.")
    .addHelpText("after", HELP)
    .addCommand(
      new Command("place")
        .description("Place a hold.")
        .argument("<name>")
        .requiredOption("--reason <words>", "why; it stands in the log")
        .option("--from <index>", "the first entry", "0")
        .option("--until <index>", "the first entry that is not held; all that comes if absent")
        .option("--to <url>", "the exporter", EXPORTER)
        .action(async (name: string, flags: Flags & { from: string; until?: string }) => {
          const { to, reason, from, until } = flags;
          const query = new URLSearchParams({ from, reason });
          if (until !== undefined) query.set("to", until);
          const url = `${to}${HOLDS_PATH}/${encodeURIComponent(name)}?${query}`;
          const hold = (await askExporter("PUT", url)) as Hold;
          console.log(`${name} holds ${rangeOf(hold)}`);
        }),
    )
    .addCommand(
      new Command("lift")
        .description("Lift a hold.")
        .argument("<name>")
        .requiredOption("--reason <words>", "why; it stands in the log")
        .option("--to <url>", "the exporter", EXPORTER)
        .action(async (name: string, { to, reason }: Flags) => {
          const query = new URLSearchParams({ reason });
          await askExporter("DELETE", `${to}${HOLDS_PATH}/${encodeURIComponent(name)}?${query}`);
          console.log(`${name} is lifted`);
        }),
    )
    .addCommand(
      new Command("list")
        .description("List the holds in force.")
        .option("--to <url>", "the exporter", EXPORTER)
        .option("--json", "print one JSON array")
        .action(async ({ to, json }: { to: string; json?: boolean }) => {
          const status = (await askExporter("GET", `${to}${RETENTION_PATH}`)) as RetentionStatus;
          if (json) return console.log(JSON.stringify(status.holds, null, 2));
          for (const hold of status.holds)
            console.log(`${hold.name.padEnd(24)} ${rangeOf(hold)}  ${JSON.stringify(hold.reason)}`);
          if (status.holds.length === 0) console.log("no holds");
          if (status.legalHolds !== null)
            console.log(`legal holds in the bucket: ${status.legalHolds}`);
        }),
    );
}

function rangeOf({ from, to }: Pick<Hold, "from" | "to">): string {
  return to === null ? `entries from ${from} on` : `entries ${from} to ${to - 1}`;
}
