/** `meshseal keygen` */
import { Command } from "commander";
import { codeOf, MeshsealError } from "../errors.ts";
import { makeKey } from "../keys.ts";
import { COSIGNATURE } from "../log/cosignature.ts";
import { ED25519 } from "../log/note.ts";

export function keygenCommand(): Command {
  return new Command("keygen")
    .description(
      "Make a key for a log before its first start: PREFIX.key (secret) and PREFIX.vkey.",
    )
    .requiredOption("--origin <name>", "name of the log and of the key, such as audit.example/shop")
    .requiredOption("--out <prefix>", "path of the two files without their endings")
    .option("--cosigner", "make a key for the role of a witness or a peer instead")
    .addHelpText(
      "after",
      "\nExample:\n  meshseal keygen --origin audit.example/shop --out ./meshseal-data/log",
    )
    .action(({ origin, out, cosigner }: { origin: string; out: string; cosigner?: boolean }) => {
      try {
        console.log(makeKey(out, origin, cosigner ? COSIGNATURE : ED25519));
      } catch (error) {
        if (codeOf(error) === "EEXIST")
          throw new MeshsealError(`${out}.key is already there: keys are never overwritten.`);
        throw error;
      }
    });
}
