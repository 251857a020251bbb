import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import fc from "fast-check";
import protobuf from "protobufjs";
import { describe, expect, test } from "vitest";
import {
  bytesOf,
  decodeEntry,
  ENTRY_MALFORMED,
  ENTRY_NEWER,
  ENTRY_OK,
  encodeEntry,
  type FieldValue,
  fieldNamed,
  Scanner,
  uintOf,
} from "../record/codec.ts";
import {
  F_KIND,
  F_PATH,
  F_SEQ,
  type Field,
  fieldTable,
  KIND_OPEN,
  kindName,
  TYPE_UINT,
} from "../record/fields.ts";

type Vectors = {
  valid: {
    name: string;
    fields: Record<string, (string | number)[]>;
    bytes: string;
    digest: string;
  }[];
  newer: { name: string; bytes: string; digest: string }[];
  invalid: { name: string; bytes: string }[];
};

const vectors = JSON.parse(readFileSync("test/vectors/entries.json", "utf8")) as Vectors;
const oracle = new protobuf.Root()
  .loadSync("record/entry.proto", { keepCase: true })
  .lookupType("meshseal.v1.Entry");

function verdict(bytes: Uint8Array): number {
  return new Scanner().scan(bytes, 0, bytes.length);
}

function hex(text: string): Uint8Array {
  return Buffer.from(text, "hex");
}

describe("vectors", () => {
  test.each(vectors.valid)("$name", ({ fields, bytes, digest }) => {
    const entry = decodeEntry(hex(bytes));
    expect(entry).not.toBeNull();
    if (entry === null) return;
    const read: Record<string, (string | number)[]> = {};
    for (const { number, value } of entry.fields) {
      const name = fieldTable().find((field) => field.number === number)?.name ?? String(number);
      const list = read[name] ?? [];
      list.push(typeof value === "number" ? value : Buffer.from(value).toString("hex"));
      read[name] = list;
    }
    expect(read).toEqual(fields);
    expect(entry.isNewer).toBe(false);
    expect(Buffer.from(encodeEntry(entry.fields)).toString("hex")).toBe(bytes);
    expect(createHash("sha256").update(Buffer.of(0)).update(hex(bytes)).digest("hex")).toBe(digest);
  });

  test.each(vectors.newer)("$name is newer, not malformed", ({ bytes }) => {
    expect(verdict(hex(bytes))).toBe(ENTRY_NEWER);
    const entry = decodeEntry(hex(bytes));
    expect(Buffer.from(encodeEntry(entry?.fields ?? [])).toString("hex")).toBe(bytes);
  });

  test.each(vectors.invalid)("$name is malformed", ({ bytes }) => {
    expect(verdict(hex(bytes))).toBe(ENTRY_MALFORMED);
    expect(decodeEntry(hex(bytes))).toBeNull();
  });
});

describe("entry.proto", () => {
  test("says the same fields as fields.ts", () => {
    const declared = oracle.fieldsArray
      .map((field) => [field.id, field.name, field.type, field.repeated])
      .sort(([a], [b]) => Number(a) - Number(b));
    const table = fieldTable().map((field) => [
      field.number,
      field.name,
      field.type === TYPE_UINT ? "uint64" : "bytes",
      field.times > 1,
    ]);
    expect(declared).toEqual(table);
  });

  test("the table ascends, and every name is found again", () => {
    const numbers = fieldTable().map((field) => field.number);
    expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b));
    for (const field of fieldTable()) expect(fieldNamed(field.name)?.number).toBe(field.number);
  });
});

/** Some values for the fields of a random kind, as the table allows them. */
const anyFields: fc.Arbitrary<FieldValue[]> = fc
  .constantFrom(...[...Array(32).keys()].filter((kind) => kindName(kind) !== ""))
  .chain((kind) => {
    const allowed = fieldTable().filter((field) => (field.kinds & (1 << kind)) !== 0);
    return fc.tuple(...allowed.map((field) => anyValues(field, kind))).map((lists) => lists.flat());
  });

function anyValues(field: Field, kind: number): fc.Arbitrary<FieldValue[]> {
  const { number } = field;
  if (number === F_KIND) return fc.constant([{ number, value: kind }]);
  if (number === F_SEQ) {
    const seq = kind === KIND_OPEN ? fc.constant(0) : fc.maxSafeNat().filter((value) => value > 0);
    return seq.map((value) => [{ number, value }]);
  }
  if (number === 4 && kind === KIND_OPEN) return fc.constant([{ number, value: Buffer.alloc(32) }]);
  const value: fc.Arbitrary<number | Uint8Array> =
    field.type === TYPE_UINT
      ? fc.oneof(fc.maxSafeNat(), fc.nat(300))
      : fc.uint8Array({ minLength: field.min, maxLength: Math.min(field.max, 200) });
  const item = value.map((one) => ({ number, value: one }));
  if (number <= 6) return item.map((one) => [one]);
  return fc.array(item, { maxLength: Math.min(field.times, 3) });
}

describe("properties", () => {
  test("what encodes decodes to the same, and an independent library agrees on every byte", () => {
    fc.assert(
      fc.property(anyFields, (fields) => {
        const bytes = encodeEntry(fields);
        const entry = decodeEntry(bytes);
        expect(entry?.fields.map(plain)).toEqual(
          fields.toSorted((a, b) => a.number - b.number).map(plain),
        );
        const decoded = oracle.decode(bytes);
        const message = oracle.toObject(decoded, { longs: Number });
        expect(Buffer.from(oracle.encode(decoded).finish()).equals(bytes)).toBe(true);
        for (const { number, value } of fields) {
          const field = oracle.fieldsById[number];
          const read = message[field?.name ?? ""] as unknown;
          const list = (field?.repeated ? read : [read]) as (number | Uint8Array)[];
          expect(list.map((one) => plain({ number, value: one }))).toContainEqual(
            plain({ number, value }),
          );
        }
      }),
      { numRuns: 500 },
    );
  });

  test("any bytes: never a throw, and what decodes re-encodes to the same bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        const entry = decodeEntry(bytes);
        if (entry !== null) expect(Buffer.from(encodeEntry(entry.fields)).equals(bytes)).toBe(true);
      }),
      { numRuns: 2000 },
    );
  });

  test("any change of a good entry: never a throw, and what still decodes is canonical", () => {
    const change = fc.record({
      at: fc.nat(),
      cut: fc.nat(3),
      put: fc.uint8Array({ maxLength: 3 }),
    });
    let survivors = 0;
    fc.assert(
      fc.property(
        anyFields,
        fc.array(change, { minLength: 1, maxLength: 4 }),
        (fields, changes) => {
          let bytes = Buffer.from(encodeEntry(fields));
          for (const { at, cut, put } of changes) {
            const from = at % bytes.length;
            bytes = Buffer.concat([bytes.subarray(0, from), put, bytes.subarray(from + cut)]);
            if (bytes.length === 0) return;
          }
          const entry = decodeEntry(bytes);
          if (entry === null) return;
          survivors++;
          expect(Buffer.from(encodeEntry(entry.fields)).equals(bytes)).toBe(true);
          const message = oracle.toObject(oracle.decode(bytes), { longs: Number });
          const { kind, seq, time } = entry;
          expect(message).toMatchObject({ kind, seq, time });
        },
      ),
      { numRuns: 3000 },
    );
    expect(survivors).toBeGreaterThan(100);
  });
});

describe("limits", () => {
  const request = vectors.valid.find(({ name }) => name === "a request");
  const fields = decodeEntry(hex(request?.bytes ?? ""))?.fields ?? [];

  test("an entry of more than 65,535 bytes is malformed", () => {
    // Unknown fields may have any length, so that they can pass the limit of the whole.
    const filler = (length: number): Uint8Array => {
      const tail = Buffer.from("f8ff03", "hex").map((byte, at) => (at === 0 ? 0xfa : byte));
      const size = Buffer.from([
        (length & 0x7f) | 0x80,
        ((length >> 7) & 0x7f) | 0x80,
        length >> 14,
      ]);
      return Buffer.concat([encodeEntry(fields), tail, size, Buffer.alloc(length)]);
    };
    const room = 65_535 - encodeEntry(fields).length - 6;
    expect(filler(room).length).toBe(65_535);
    expect(verdict(filler(room))).toBe(ENTRY_NEWER);
    expect(verdict(filler(room + 1))).toBe(ENTRY_MALFORMED);
  });

  test("encodeEntry refuses what is no entry", () => {
    expect(() => encodeEntry([])).toThrow(RangeError);
    expect(() => encodeEntry([...fields, { number: 8, value: -1 }])).toThrow(RangeError);
    expect(() => encodeEntry([...fields, { number: 8, value: 2 ** 53 }])).toThrow(RangeError);
  });

  test("an absent field is undefined, and a present one is read by its type", () => {
    const entry = decodeEntry(hex(request?.bytes ?? ""));
    if (entry === null) throw new Error("the vector does not decode");
    expect(Buffer.from(bytesOf(entry, F_PATH) ?? []).toString()).toBe("/admin");
    expect(uintOf(entry, F_PATH)).toBeUndefined();
    expect(uintOf(entry, 9999)).toBeUndefined();
    expect(verdict(hex(request?.bytes ?? ""))).toBe(ENTRY_OK);
  });
});

function plain({ number, value }: FieldValue): (string | number)[] {
  return [number, typeof value === "number" ? value : Buffer.from(value).toString("hex")];
}
