import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { newSigner, parseVkey, signNote, type Verifier } from "../exporter/log/note.ts";
import {
  formatReceipt,
  openReceipt,
  parseReceipt,
  RECEIPT_LABEL,
  type Receipt,
  signReceipt,
} from "../exporter/log/receipt.ts";

const signer = newSigner("log.example/meshseal", Buffer.alloc(32, 1));
const other = newSigner("log.example/meshseal", Buffer.alloc(32, 2));
const log = parseVkey(signer.vkey) as Verifier;

const receipt: Receipt = {
  origin: "log.example/meshseal",
  chain: "000102030405060708090a0b0c0d0e0f",
  nextSeq: 42,
  head: "ab".repeat(32),
  treeSize: 0,
  treeRoot: Buffer.alloc(32, 3),
};

const anyReceipt = fc.record({
  origin: fc.constant("log.example/meshseal"),
  chain: fc
    .uint8Array({ minLength: 16, maxLength: 16 })
    .map((id) => Buffer.from(id).toString("hex")),
  nextSeq: fc.maxSafeNat().map((seq) => Math.max(1, seq)),
  head: fc
    .uint8Array({ minLength: 32, maxLength: 32 })
    .map((id) => Buffer.from(id).toString("hex")),
  treeSize: fc.maxSafeNat(),
  treeRoot: fc.uint8Array({ minLength: 32, maxLength: 32 }).map((root) => Buffer.from(root)),
});

describe("a receipt", () => {
  test("opens to what was signed", () => {
    fc.assert(
      fc.property(anyReceipt, (one) => {
        expect(openReceipt(Buffer.from(signReceipt(one, signer)), log)).toEqual(one);
      }),
    );
  });

  test("by another key, or for another origin, does not open", () => {
    expect(openReceipt(Buffer.from(signReceipt(receipt, other)), log)).toBeNull();
    const elsewhere = { ...receipt, origin: "elsewhere.example/meshseal" };
    expect(openReceipt(Buffer.from(signReceipt(elsewhere, signer)), log)).toBeNull();
  });

  const text = formatReceipt(receipt);
  test.each([
    ["another label", text.replace(RECEIPT_LABEL, "meshseal/v2/receipt")],
    ["no origin", text.replace("log.example/meshseal", "")],
    ["a chain in capitals", text.replace("0a0b", "0A0B")],
    ["a chain that is too short", text.replace("0a0b", "0a")],
    ["a next seq of 0", text.replace("\n42\n", "\n0\n")],
    ["a next seq with a zero before it", text.replace("\n42\n", "\n042\n")],
    ["a negative size", text.replace("\n0\n", "\n-1\n")],
    ["a root of 31 bytes", text.replace(/[^\n]+\n$/, `${Buffer.alloc(31).toString("base64")}\n`)],
    ["a line too many", `${text}more\n`],
    ["a line too few", text.split("\n").slice(0, 5).join("\n")],
    ["no last newline", text.slice(0, -1)],
  ])("with %s is none, though signed", (_, changed) => {
    expect(changed).not.toBe(text);
    expect(parseReceipt(changed)).toBeNull();
    if (changed.endsWith("\n")) {
      expect(openReceipt(Buffer.from(signNote(changed, [signer])), log)).toBeNull();
    }
  });

  test("any text: never a throw, and what parses formats to the same text", () => {
    const line = fc.oneof(fc.string(), fc.constantFrom(...text.split("\n")));
    fc.assert(
      fc.property(fc.array(line, { maxLength: 9 }), (lines) => {
        const one = parseReceipt(lines.join("\n"));
        if (one !== null) expect(formatReceipt(one)).toBe(lines.join("\n"));
      }),
    );
  });
});
