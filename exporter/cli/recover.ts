/** `meshseal recover` */
import { readFileSync } from "node:fs";
import { Command } from "commander";
import {
  BATCH_PATH,
  BATCH_TYPE,
  KEY_ID_HEADER,
  RECEIPT_HEADER,
  RECOVERED_HEADER,
  REFUSAL_HEADER,
} from "../../record/wire.ts";
import { readBatchKeys } from "../access/mac.ts";
import { readSpills, type SpilledBatch } from "../audit/spill.ts";
import { MeshsealError } from "../errors.ts";

type Flags = { to: string; batchKeys?: string; policy?: string; dryRun?: boolean; json?: boolean };

const HELP = `
What Envoy logged at its end (lines "meshseal seal" and "meshseal spill", with the filter's setting spill) is put together again,
checked, and sent to the exporter, which marks it as recovered. Sending twice is safe.

Exit codes:
  0  everything is home
  1  forged: lines that no honest proxy wrote; they were not sent
  2  incomplete: pieces are missing, or the exporter refused some
  3  the exporter cannot be reached
  64 wrong usage

Examples:
  meshseal recover envoy.log
  kubectl logs --previous cart-7d9 | meshseal recover - --batch-keys keys --to http://meshseal:7700`;

const TIMEOUT_MS = 30_000;

export function recoverCommand(): Command {
  return new Command("recover")
    .description("Bring entries home that Envoy wrote to its own log when it ended.")
    .argument("<file|->", "Envoy's log, or - for standard input")
    .option("--to <url>", "the exporter", "http://127.0.0.1:7700")
    .option("--batch-keys <file>", "keys of senders, ID:HEX a line: tells forged batches")
    .option("--policy <file>", "keys of proxies: tells forged seals")
    .option("--dry-run", "check only, send nothing")
    .option("--json", "print one JSON object")
    .addHelpText("after", HELP)
    .action(async (file: string, flags: Flags) => {
      const keys = {
        macs: flags.batchKeys === undefined ? new Map() : readBatchKeys(flags.batchKeys),
        proxies:
          flags.policy === undefined
            ? []
            : (await import("../audit/policy.ts")).readPolicy(flags.policy).proxies,
      };
      const { batches, forged, missing } = readSpills(readLines(file), keys);
      const refused: string[] = [];
      let entries = 0;
      let isUnreachable = false;
      for (const batch of flags.dryRun ? [] : batches) {
        const answer = await send(flags.to, batch).catch((error: unknown) => {
          isUnreachable = true;
          return `${flags.to}: ${error instanceof Error ? error.message : error}`;
        });
        if (answer === null) entries += batch.count;
        else {
          refused.push(`chain ${batch.chain} from seq ${batch.firstSeq}: ${answer}`);
          if (isUnreachable) break;
        }
      }
      const found = batches.map(({ chain, firstSeq, count, proof }) => ({
        chain,
        firstSeq,
        count,
        proof,
      }));
      if (flags.json) {
        console.log(JSON.stringify({ entries, batches: found, forged, missing, refused }, null, 2));
      } else {
        for (const { chain, firstSeq, count, proof } of found) {
          const shown = { mac: "with a MAC", seal: "up to a verified seal", links: "not proved" };
          console.log(`chain ${chain} from seq ${firstSeq}: ${count} entries, ${shown[proof]}`);
        }
        for (const line of forged) console.log(`forged: ${line}`);
        for (const line of missing) console.log(`missing: ${line}`);
        for (const line of refused) console.log(`not taken: ${line}`);
        console.log(flags.dryRun ? "nothing was sent" : `${entries} entries are home`);
      }
      const isPartial = missing.length > 0 || refused.length > 0;
      process.exitCode = forged.length > 0 ? 1 : isUnreachable ? 3 : isPartial ? 2 : 0;
    });
}

/** Returns the lines of a file, or of standard input. */
export function readLines(file: string): string[] {
  try {
    return readFileSync(file === "-" ? 0 : file, "latin1").split("\n");
  } catch (error) {
    throw new MeshsealError(`${file}: ${error instanceof Error ? error.message : error}`);
  }
}

/** Returns null if the exporter has the batch now, or why not. Throws if it cannot be reached. */
async function send(to: string, { bytes, keyId }: SpilledBatch): Promise<string | null> {
  const { request } = await import("undici");
  const answer = await request(new URL(BATCH_PATH, to), {
    method: "POST",
    headers: {
      "content-type": BATCH_TYPE,
      [RECOVERED_HEADER]: "1",
      ...(keyId === "" ? {} : { [KEY_ID_HEADER]: keyId }),
    },
    body: bytes,
    headersTimeout: TIMEOUT_MS,
    bodyTimeout: TIMEOUT_MS,
  });
  const text = (await answer.body.text()).slice(0, 500);
  if (answer.statusCode === 200 && answer.headers[RECEIPT_HEADER] !== undefined) return null;
  const word = answer.headers[REFUSAL_HEADER];
  return `${answer.statusCode} ${word ?? "no exporter answered"} ${text}`;
}
