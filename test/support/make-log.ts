/** A log in a directory, made without an exporter: right or wrong, a publisher takes what it gets. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { hashLeaves } from "../../exporter/log/hasher.ts";
import { parseVkey, type Signer } from "../../exporter/log/note.ts";
import { Publisher } from "../../exporter/log/publisher.ts";
import { formatRecord } from "../../exporter/log/wal.ts";
import { fileStore } from "../../exporter/store/file.ts";
import { BATCH_COUNT_AT, BATCH_HEADER_BYTES } from "../../record/wire.ts";

/** Makes the log of `batches`, as a filter would send them, in `dir`, with its key in log.vkey. Resolves to the count of its entries. */
export async function makeLog(
  dir: string,
  signer: Signer,
  batches: Iterable<Buffer>,
): Promise<number> {
  const store = fileStore(join(dir, "log"), join(dir, "unfinished"));
  const log = parseVkey(signer.vkey);
  if (log === null) throw new Error(`${signer.vkey} is no key`);
  const [signers, verifiers] = [[signer], [log]];
  const publisher = new Publisher({ store, signer, signers, verifiers, onDiskFull: () => {} });
  await publisher.restore(-1);
  await publisher.recovered();
  let first = 0;
  for (const batch of batches) {
    const count = batch.readUInt32BE(BATCH_COUNT_AT);
    const entries = batch.subarray(BATCH_HEADER_BYTES);
    await publisher.add(formatRecord(first, [entries], 0), hashLeaves(entries, count));
    first += count;
  }
  await publisher.publish();
  await publisher.close();
  writeFileSync(join(dir, "log.vkey"), signer.vkey);
  return first;
}
