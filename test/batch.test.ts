import fc from "fast-check";
import { expect, test } from "vitest";
import { formatBatch, parseBatchHeader } from "../record/batch.ts";
import { BATCH_HEADER_BYTES, ENTRY_PREFIX_BYTES, MAX_BATCH_BYTES } from "../record/wire.ts";

const chainOf = fc.uint8Array({ minLength: 16, maxLength: 16 });
const entriesOf = fc.array(fc.uint8Array({ maxLength: 300 }), { minLength: 1, maxLength: 5 });
const macOf = fc.constantFrom(Buffer.alloc(0), Buffer.alloc(32, 7));

test("what is formatted is parsed again, and the entries lie where the header says", () => {
  const anySeq = fc.maxSafeNat().map((seq) => Math.max(0, seq - 10));
  fc.assert(
    fc.property(
      chainOf,
      anySeq,
      entriesOf,
      fc.uint8Array(),
      macOf,
      (chain, seq, entries, receipt, mac) => {
        const batch = formatBatch(chain, seq, entries, receipt, mac);
        const header = parseBatchHeader(batch);
        expect(header).toMatchObject({ firstSeq: seq, count: entries.length });
        if (header === null) return;
        expect(Buffer.from(header.chain).equals(chain)).toBe(true);
        expect(Buffer.from(header.receipt).equals(receipt)).toBe(true);
        expect(Buffer.from(header.mac).equals(mac)).toBe(true);
        let at = header.entriesAt;
        for (const entry of entries) {
          expect(Buffer.from(batch).readUInt16BE(at)).toBe(entry.length);
          expect(batch[at + 2]).toBe(0);
          at += ENTRY_PREFIX_BYTES + entry.length;
          expect(Buffer.from(batch.subarray(at - entry.length, at)).equals(entry)).toBe(true);
        }
        expect(at).toBe(batch.length);
      },
    ),
  );
});

test("any bytes: never a throw, and what a header points to lies in the batch", () => {
  const magic = Buffer.from("MSB1");
  fc.assert(
    fc.property(fc.boolean(), fc.uint8Array({ maxLength: 200 }), (isMagic, bytes) => {
      const batch = isMagic ? Buffer.concat([magic, bytes]) : bytes;
      const header = parseBatchHeader(batch);
      if (header === null) return;
      expect(header.entriesAt).toBeLessThanOrEqual(batch.length);
      expect(header.chain.length).toBe(16);
      expect(Number.isSafeInteger(header.firstSeq + header.count)).toBe(true);
    }),
    { numRuns: 2000 },
  );
});

test.each([
  ["no byte", (batch: Buffer) => batch.subarray(0, 0)],
  ["a header cut short", (batch: Buffer) => batch.subarray(0, BATCH_HEADER_BYTES - 1)],
  ["another magic", (batch: Buffer) => Buffer.concat([Buffer.from("MSB2"), batch.subarray(4)])],
  ["a count of 0", (batch: Buffer) => patched(batch, 28, "00000000")],
  ["a first seq beyond 2^53", (batch: Buffer) => patched(batch, 20, "0020000000000000")],
  ["a receipt longer than the batch", (batch: Buffer) => patched(batch, 32, "ffff")],
  ["a MAC of 31 bytes", (batch: Buffer) => patched(batch, 34, "001f")],
  ["too many bytes", (batch: Buffer) => Buffer.concat([batch, Buffer.alloc(MAX_BATCH_BYTES)])],
])("%s has no header", (_, change) => {
  const batch = Buffer.from(formatBatch(Buffer.alloc(16, 1), 5, [Buffer.alloc(100)]));
  expect(parseBatchHeader(batch)).not.toBeNull();
  expect(parseBatchHeader(change(batch))).toBeNull();
});

function patched(batch: Buffer, at: number, hex: string): Buffer {
  const copy = Buffer.from(batch);
  copy.write(hex, at, "hex");
  return copy;
}
