/** `meshseal rotate` */
import { resolve } from "node:path";
import { Command } from "commander";
import { rotateKey } from "../keys.ts";
import { takeLock } from "../lock.ts";

const HELP = `
Run it while the exporter is down; proxies keep their entries until it is back. The next start writes the change into the
log, signed by the keys before and after, and /keys lists every key the log has had.

1. meshseal rotate                   a new key signs first, the old one signs checkpoints beside it
2. give auditors the new log.vkey    both keys verify the log meanwhile
3. meshseal rotate --retire <id>     the old key signs no more: its id is in its verifier key, behind the name

A key that was stolen is retired at once. What its thief signs from then on still verifies with that key: tell auditors.`;

export function rotateCommand(): Command {
  return new Command("rotate")
    .description("Give the log a new key, or retire one.")
    .option("--data <dir>", "data directory of the log", "./meshseal-data")
    .option("--retire <key id>", "take this key away: 8 hex digits")
    .addHelpText("after", HELP)
    .action(({ data, retire }: { data: string; retire?: string }) => {
      const dir = resolve(data);
      const unlock = takeLock(dir);
      try {
        for (const key of rotateKey(dir, retire)) console.log(key);
      } finally {
        unlock();
      }
    });
}
