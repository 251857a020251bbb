/** Ready-made batches of linked entries, as many proxies would send them. */
import { createHash, randomBytes } from "node:crypto";
import { formatBatch, parseBatchHeader } from "../../record/batch.ts";
import { encodeEntry, type FieldValue } from "../../record/codec.ts";
import {
  F_AUTHORITY,
  F_CHAIN,
  F_FORMAT,
  F_KIND,
  F_METHOD,
  F_PATH,
  F_PREV,
  F_RECEIPT,
  F_SALT,
  F_SEQ,
  F_STATUS,
  F_TIME,
  F_USER_AGENT,
  KIND_HEARTBEAT,
  KIND_OPEN,
  KIND_REQUEST,
} from "../../record/fields.ts";
import { ENTRY_PREFIX_BYTES } from "../../record/wire.ts";

export type ChainOptions = {
  readonly batches: number;
  readonly perBatch: number;
  /** Bytes of each request entry. */
  readonly entryBytes: number;
  /** How far the maker's clock is ahead, in milliseconds. */
  readonly aheadMs?: number;
  /** Where given, the last entry is a heartbeat that carries it: a signed note. */
  readonly receipt?: Uint8Array;
  /** A batch that these come after; a new chain if absent. */
  readonly after?: Uint8Array;
};

/** Returns the batches of one chain, in order. Entry 0 is its `open`. */
export function makeChain(options: ChainOptions): Uint8Array[] {
  const { batches, perBatch, entryBytes, receipt, after, aheadMs = 0 } = options;
  const before = after === undefined ? null : lastOf(after);
  const chain = before?.chain ?? randomBytes(16);
  const salt = randomBytes(16);
  const filler = Buffer.alloc(entryBytes, "a");
  let prev: Uint8Array = before?.digest ?? new Uint8Array(32);
  let seq = before === null ? 0 : before.seq + 1;
  const end = seq + batches * perBatch;
  const made: Uint8Array[] = [];
  for (let batch = 0; batch < batches; batch++) {
    const first = seq;
    const entries: Uint8Array[] = [];
    for (let i = 0; i < perBatch; i++, seq++) {
      const isHeartbeat = receipt !== undefined && seq === end - 1;
      const kind = seq === 0 ? KIND_OPEN : isHeartbeat ? KIND_HEARTBEAT : KIND_REQUEST;
      const fields: FieldValue[] = [
        { number: F_KIND, value: kind },
        { number: F_CHAIN, value: chain },
        { number: F_SEQ, value: seq },
        { number: F_PREV, value: prev },
        { number: F_TIME, value: (Date.now() + aheadMs) * 1000 },
        { number: F_SALT, value: salt },
      ];
      if (seq === 0) fields.push({ number: F_FORMAT, value: 1 });
      else if (isHeartbeat) fields.push({ number: F_RECEIPT, value: receipt });
      else {
        fields.push(
          { number: F_STATUS, value: 200 },
          { number: F_METHOD, value: Buffer.from("GET") },
          { number: F_PATH, value: Buffer.from(`/cart/${seq}`) },
          { number: F_AUTHORITY, value: Buffer.from("shop.example") },
        );
        const bare = encodeEntry(fields).length;
        // Tag of two bytes, length of two.
        fields.push({ number: F_USER_AGENT, value: filler.subarray(0, entryBytes - bare - 4) });
      }
      const entry = encodeEntry(fields);
      prev = createHash("sha256").update(Buffer.of(0)).update(entry).digest();
      entries.push(entry);
    }
    made.push(formatBatch(chain, first, entries));
  }
  return made;
}

/** Returns chain, seq and digest of a batch's last entry. */
export function lastOf(batch: Uint8Array): { chain: Uint8Array; seq: number; digest: Uint8Array } {
  const bytes = Buffer.from(batch);
  const header = parseBatchHeader(batch);
  if (header === null) throw new Error("that is no batch");
  let at = header.entriesAt;
  let digest: Uint8Array = new Uint8Array(32);
  while (at < bytes.length) {
    const end = at + ENTRY_PREFIX_BYTES + bytes.readUInt16BE(at);
    digest = createHash("sha256")
      .update(bytes.subarray(at + 2, end))
      .digest();
    at = end;
  }
  return { chain: header.chain, seq: header.firstSeq + header.count - 1, digest };
}
