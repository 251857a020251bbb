/** Ready-made batches of linked entries, as many proxies would send them. */
import { createHash, randomBytes } from "node:crypto";
import { formatBatch } from "../../record/batch.ts";
import { encodeEntry, type FieldValue } from "../../record/codec.ts";
import {
  F_AUTHORITY,
  F_CHAIN,
  F_FORMAT,
  F_KIND,
  F_METHOD,
  F_PATH,
  F_PREV,
  F_SALT,
  F_SEQ,
  F_STATUS,
  F_TIME,
  F_USER_AGENT,
  KIND_OPEN,
  KIND_REQUEST,
} from "../../record/fields.ts";

export type ChainOptions = {
  readonly batches: number;
  readonly perBatch: number;
  /** Bytes of each request entry. */
  readonly entryBytes: number;
};

/** Returns the batches of one new chain, in order. Entry 0 is its `open`. */
export function makeChain({ batches, perBatch, entryBytes }: ChainOptions): Uint8Array[] {
  const chain = randomBytes(16);
  const salt = randomBytes(16);
  const filler = Buffer.alloc(entryBytes, "a");
  let prev: Uint8Array = new Uint8Array(32);
  let seq = 0;
  const made: Uint8Array[] = [];
  for (let batch = 0; batch < batches; batch++) {
    const first = seq;
    const entries: Uint8Array[] = [];
    for (let i = 0; i < perBatch; i++, seq++) {
      const fields: FieldValue[] = [
        { number: F_KIND, value: seq === 0 ? KIND_OPEN : KIND_REQUEST },
        { number: F_CHAIN, value: chain },
        { number: F_SEQ, value: seq },
        { number: F_PREV, value: prev },
        { number: F_TIME, value: Date.now() * 1000 },
        { number: F_SALT, value: salt },
      ];
      if (seq === 0) fields.push({ number: F_FORMAT, value: 1 });
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
