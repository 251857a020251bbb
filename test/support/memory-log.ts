/** A log in memory, made by the publisher itself, with a chain that opens and goes on. */
import { createHash } from "node:crypto";
import type { Source } from "../../exporter/audit/source.ts";
import { leafHash } from "../../exporter/log/merkle.ts";
import { newSigner, parseVkey, type Signer, type Verifier } from "../../exporter/log/note.ts";
import { Publisher } from "../../exporter/log/publisher.ts";
import { formatRecord } from "../../exporter/log/wal.ts";
import { memoryStore } from "../../exporter/store/memory.ts";
import type { Store } from "../../exporter/store/store.ts";
import { encodeEntry, type FieldValue } from "../../record/codec.ts";
import {
  F_CHAIN,
  F_FORMAT,
  F_KIND,
  F_PREV,
  F_SALT,
  F_SEQ,
  F_TIME,
  KIND_HEARTBEAT,
  KIND_OPEN,
} from "../../record/fields.ts";

export type MemoryLog = {
  readonly signer: Signer;
  readonly verifier: Verifier;
  readonly store: Store;
  readonly publisher: Publisher;
  readonly source: Source;
  /** Adds heartbeats, made at `time` (Unix seconds), and signs a checkpoint. Resolves to its note. */
  readonly grow: (entries: number, time: number) => Promise<Buffer>;
};

/** Returns a log named `origin`; the same `seed` gives the same key. It is empty. */
export async function memoryLog(origin: string, seed: string): Promise<MemoryLog> {
  const signer = newSigner(origin, createHash("sha256").update(seed).digest());
  const verifier = parseVkey(signer.vkey);
  if (verifier === null) throw new Error("no key");
  const store = memoryStore();
  const publisher = new Publisher({
    store,
    signer,
    signers: [signer],
    verifiers: [verifier],
    onDiskFull: () => {},
  });
  await publisher.restore(-1);
  await publisher.recovered();
  const chain = createHash("sha256").update(`${origin} ${seed}`).digest().subarray(0, 16);
  let seq = 0;
  let prev: Uint8Array = Buffer.alloc(32);
  const grow = async (count: number, time: number): Promise<Buffer> => {
    const first = seq;
    const entries: Buffer[] = [];
    const leaves: Uint8Array[] = [];
    for (let i = 0; i < count; i++, seq++) {
      const fields: FieldValue[] = [
        { number: F_KIND, value: seq === 0 ? KIND_OPEN : KIND_HEARTBEAT },
        { number: F_CHAIN, value: chain },
        { number: F_SEQ, value: seq },
        { number: F_PREV, value: prev },
        { number: F_TIME, value: time * 1_000_000 },
        { number: F_SALT, value: chain },
      ];
      if (seq === 0) fields.push({ number: F_FORMAT, value: 1 });
      const entry = encodeEntry(fields);
      prev = leafHash(entry);
      entries.push(Buffer.of(entry.length >> 8, entry.length & 0xff, 0), Buffer.from(entry));
      leaves.push(prev);
    }
    await publisher.add(formatRecord(first, entries, 0), Buffer.concat(leaves));
    await publisher.publish();
    const note = await store.get("checkpoint");
    if (note === null) throw new Error("no checkpoint");
    return note;
  };
  const source: Source = {
    read: async (path, limit) => {
      const bytes = await store.get(path);
      return bytes === null || bytes.length > limit ? null : bytes;
    },
  };
  return { signer, verifier, store, publisher, source, grow };
}
