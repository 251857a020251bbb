/** The `meshseal` command: one file a subcommand, and the exit codes that all share. */
import { Command, CommanderError } from "commander";
import { MeshsealError } from "../errors.ts";
import { doctorCommand } from "./doctor.ts";
import { keygenCommand } from "./keygen.ts";
import { serveCommand } from "./serve.ts";
import { showCommand } from "./show.ts";
import { verifyCommand } from "./verify.ts";

/** EX_USAGE of sysexits(3). */
const USAGE = 64;

const program = new Command("meshseal")
  .description("Immutable audit logs for a service mesh, made inside Envoy and verifiable offline.")
  .version("0.1.0");
const commands = [serveCommand(), verifyCommand(), showCommand(), keygenCommand(), doctorCommand()];
for (const command of commands) {
  program.addCommand(command.exitOverride().showHelpAfterError());
}
program.exitOverride().showHelpAfterError();

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : USAGE;
  } else if (error instanceof MeshsealError) {
    console.error(`meshseal: ${error.message}`);
    process.exitCode = USAGE;
  } else {
    console.error(error);
    process.exitCode = 70;
  }
}
