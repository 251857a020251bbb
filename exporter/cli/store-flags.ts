/** The flags that say how a bucket's service is reached: the same on every command that takes one. */
import type { Command } from "commander";

/** Adds them. What they give is a StoreFlags (store/settings.ts). */
export function withStoreFlags(command: Command): Command {
  return command
    .option("--s3-endpoint <url>", "an S3-compatible service (default: AWS)")
    .option("--s3-region <name>", "its region (default: as AWS's own tools find it)")
    .option("--s3-path-style", "the bucket's name goes into the path, as most services want it")
    .option("--gcs-endpoint <url>", "where gs:// is (default: Google)")
    .option(
      "--azure-endpoint <url>",
      "where az:// is, with the account (default: that of AZURE_STORAGE_ACCOUNT)",
    );
}
