#!/usr/bin/env node
/** The `meshseal` command: one file a subcommand, and the exit codes that all share. */
import { Command, CommanderError } from "commander";
import { MeshsealError } from "../errors.ts";

/** EX_USAGE of sysexits(3). */
const USAGE = 64;
/** EX_SOFTWARE: not foreseen. */
const SOFTWARE = 70;

/** Only the command that is asked for is loaded: most need neither HTTP server nor index. */
const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  serve: async () => (await import("./serve.ts")).serveCommand(),
  verify: async () => (await import("./verify.ts")).verifyCommand(),
  show: async () => (await import("./show.ts")).showCommand(),
  recover: async () => (await import("./recover.ts")).recoverCommand(),
  chains: async () => (await import("./chains.ts")).chainsCommand(),
  doctor: async () => (await import("./doctor.ts")).doctorCommand(),
  rotate: async () => (await import("./rotate.ts")).rotateCommand(),
  hash: async () => (await import("./hash.ts")).hashCommand(),
  policy: async () => (await import("./policy.ts")).policyCommand(),
  retain: async () => (await import("./retain.ts")).retainCommand(),
  hold: async () => (await import("./hold.ts")).holdCommand(),
  keygen: async () => (await import("./keygen.ts")).keygenCommand(),
  init: async () => (await import("./init.ts")).initCommand(),
  push: async () => (await import("./push.ts")).pushCommand(),
};

const program = new Command("meshseal")
  .description("Immutable audit logs for a service mesh, made inside Envoy and verifiable offline.")
  .version("0.1.0");
const asked = COMMANDS[process.argv[2] ?? ""];
for (const load of asked === undefined ? Object.values(COMMANDS) : [asked]) {
  program.addCommand((await load()).exitOverride().showHelpAfterError());
}
program.exitOverride().showHelpAfterError();

try {
  await program.parseAsync();
} catch (error) {
  // The end, whatever else is open: a start that failed half-way must not linger.
  if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? 0 : USAGE);
  if (error instanceof MeshsealError) console.error(`meshseal: ${error.message}`);
  else console.error(error);
  process.exit(error instanceof MeshsealError ? USAGE : SOFTWARE);
}
