/** `meshseal keygen` */
import { Command } from "commander";
import { codeOf, MeshsealError } from "../errors.ts";
import { makeKey } from "../keys.ts";

export function keygenCommand(): Command {
  return new Command("keygen")
    .description(
      "Make a key for a log before its first start: PREFIX.key (secret) and PREFIX.vkey.",
    )
    .requiredOption("--origin <name>", "name of the log and of the key, such as audit.example/shop")
    .requiredOption("--out <prefix>", "path of the two files without their endings")
    .addHelpText(
      "after",
      "\nExample:\n  meshseal keygen --origin audit.example/shop --out ./meshseal-data/log",
    )
    .action(({ origin, out }: { origin: string; out: string }) => {
      try {
        console.log(makeKey(out, origin).vkey);
      } catch (error) {
        if (codeOf(error) === "EEXIST")
          throw new MeshsealError(`${out}.key is already there: keys are never overwritten.`);
        throw error;
      }
    });
}
