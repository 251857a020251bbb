/** Senders that behave as the filter does: one batch of a chain at a time, again until it is receipted. */
import { setTimeout as sleep } from "node:timers/promises";
import { request } from "undici";
import { parseVkey, type Verifier } from "../../exporter/log/note.ts";
import { openReceipt } from "../../exporter/log/receipt.ts";
import { parseBatchHeader } from "../../record/batch.ts";
import { BATCH_TYPE } from "../../record/wire.ts";

/** Sends one batch; resolves to the next seq of its receipt, or null where there was none. */
export async function sendBatch(
  url: string,
  vkey: string,
  batch: Uint8Array,
): Promise<number | null> {
  try {
    const answer = await request(`${url}/v1/batches`, {
      method: "POST",
      headers: { "content-type": BATCH_TYPE },
      body: Buffer.from(batch),
      headersTimeout: 5000,
    });
    await answer.body.dump();
    const header = String(answer.headers["meshseal-receipt"] ?? "");
    const log = parseVkey(vkey) as Verifier;
    return openReceipt(Buffer.from(header, "base64"), log)?.nextSeq ?? null;
  } catch {
    return null;
  }
}

/**
 * Sends a chain's batches in order, each until it is receipted by whoever is at `url` then, or until `isOver`. Notes
 * the next seq of the newest receipt in `receipted`.
 */
export async function sendChain(
  url: () => string,
  vkey: string,
  batches: readonly Uint8Array[],
  receipted: Map<string, number>,
  isOver: () => boolean = () => false,
): Promise<void> {
  for (const batch of batches) {
    const chain = Buffer.from(parseBatchHeader(batch)?.chain ?? []).toString("hex");
    for (;;) {
      if (isOver()) return;
      const nextSeq = await sendBatch(url(), vkey, batch);
      if (nextSeq !== null) {
        receipted.set(chain, nextSeq);
        break;
      }
      await sleep(50);
    }
  }
}
