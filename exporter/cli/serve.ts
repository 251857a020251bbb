/** `meshseal serve` */
import { Command } from "commander";
import { readSettings } from "../config.ts";
import { STORE_FORMS } from "../store/settings.ts";
import { withStoreFlags } from "./store-flags.ts";

export function serveCommand(): Command {
  const command = new Command("serve")
    .description("Take batches in, keep the log, sign checkpoints, serve the log's files.")
    .option("--data <dir>", "where log, keys and WAL are kept (default ./meshseal-data)")
    .option(
      "--listen <host:port>",
      "address of intake, log, health and metrics (default 127.0.0.1:7700)",
    )
    .option(
      "--origin <name>",
      "name of the log, fixed at the first start (default <hostname>/meshseal)",
    )
    .option("--origins <file>", "verifier keys of other logs whose chains are taken up here")
    .option(
      "--checkpoint-ms <n>",
      "sign a checkpoint this often when there is something new (default 1000)",
    )
    .option("--batch-keys <file>", "keys of senders with a MAC, ID:HEX a line")
    .option("--allow-anonymous", "take batches from anyone, not only on loopback")
    .option(
      "--tls-cert <file>",
      "serve HTTPS with this certificate and chain (PEM), read again when it changes",
    )
    .option("--tls-key <file>", "its private key (PEM)")
    .option(
      "--tls-client-ca <file>",
      "authorities of clients (PEM): batches need a certificate of theirs",
    )
    .option(
      "--trust-xfcc",
      "take who sends from the sidecar's x-forwarded-client-cert, on loopback",
    )
    .option("--access <file>", "JSON file: who may write, read and administer, and how fast")
    .option("--health-listen <host:port>", "health and metrics on an address of their own as well")
    .option(
      "--drain-delay-ms <n>",
      "when told to stop, say so at /readyz for this long before batches are refused (default 0)",
    )
    .option(
      "--silent-after-seconds <n>",
      "a chain that sends nothing for so long counts as silent (default 180)",
    )
    .option("--max-connections <n>", "connections at a time (default 10000)")
    .option("--store <url>", `keep the log's files in a bucket, ${STORE_FORMS}: docs/storage.md`)
    .option("--mirror <dir>", "keep a second copy of the log there, on another disk or mount")
    .option(
      "--immutable-files",
      "full files get the immutable flag (chattr +i), where rights allow",
    );
  return withStoreFlags(command)
    .option(
      "--lock-days <n>",
      "lock files for n days, so that nobody can remove them; 0: not at all",
    )
    .option("--ack <wal|store>", "what receipts wait for (default wal)")
    .option("--wal-limit-mib <n>", "room for entries while the bucket is away (default 8192)")
    .option(
      "--anchors <file>",
      "JSON file: witnesses, time stamps and other outsiders to anchor to",
    )
    .option("--log-level <level>", "debug, info, warn, error or silent (default info)")
    .option("--config <file>", "JSON file with the same settings in camelCase")
    .addHelpText(
      "after",
      "\nEach setting can stand in the environment: --checkpoint-ms is MESHSEAL_CHECKPOINT_MS.\n\nExample:\n  meshseal serve --data ./meshseal-data",
    )
    .action(async (flags: Record<string, unknown>) => {
      const { serve } = await import("../main.ts");
      await serve(readSettings(flags, process.env));
    });
}
