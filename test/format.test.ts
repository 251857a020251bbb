import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { leafHash, nodeHash } from "../exporter/log/merkle.ts";
import { parseVkey } from "../exporter/log/note.ts";
import { openReceipt } from "../exporter/log/receipt.ts";
import { formatBatch, parseBatchHeader } from "../record/batch.ts";
import { decodeEntry, type FieldValue, fieldOf } from "../record/codec.ts";
import { fieldTable, kindName, TYPE_UINT } from "../record/fields.ts";

const document = readFileSync("record/FORMAT.md", "utf8");

function blocks(info: string): string[] {
  return [...document.matchAll(new RegExp(`\`\`\`${info}\n(.*?)\`\`\``, "gs"))].map(
    ([, body]) => body ?? "",
  );
}

function hexOf(block: string): Buffer {
  const digits = block.split("\n").map((line) => line.replace(/#.*/, "").replaceAll(" ", ""));
  return Buffer.from(digits.join(""), "hex");
}

const entries = blocks("hex entry").map(hexOf);
const digests = blocks("hex digest").map(hexOf);
const [open, request] = entries as [Buffer, Buffer];

describe("the example of FORMAT.md", () => {
  test("both entries decode, hash to the digests that are printed, and are linked", () => {
    expect(entries).toHaveLength(2);
    expect(entries.map((entry) => Buffer.from(leafHash(entry)))).toEqual(digests);
    expect(kindName(decodeEntry(open)?.kind ?? 0)).toBe("open");
    expect(Buffer.from(decodeEntry(request)?.prev ?? []).equals(digests[0] ?? open)).toBe(true);
  });

  test("each line holds the field that its comment names", () => {
    for (const [at, block] of blocks("hex entry").entries()) {
      const named = [...block.matchAll(/# ([a-z_]+)(?::|\n)/g)].map(([, name]) => name);
      const fields: readonly FieldValue[] = decodeEntry(entries[at] ?? open)?.fields ?? [];
      expect(named).toEqual(fields.map(({ number }) => fieldOf(number)?.name));
    }
  });

  test("the batch holds both", () => {
    const [batch] = blocks("hex batch").map(hexOf);
    const chain = decodeEntry(open)?.chain ?? new Uint8Array();
    expect(batch?.equals(formatBatch(chain, 0, entries))).toBe(true);
    expect(parseBatchHeader(batch ?? open)).toMatchObject({ firstSeq: 0, count: 2 });
  });

  test("the receipt is signed by the key that is printed, for the tree of both", () => {
    const log = parseVkey(document.match(/`(log\.example\/meshseal\+[^`]+)`/)?.[1] ?? "");
    const [note] = blocks("receipt");
    if (log === null) throw new Error("FORMAT.md prints no verifier key");
    expect(openReceipt(Buffer.from(note ?? ""), log)).toMatchObject({
      nextSeq: 2,
      head: digests[1]?.toString("hex"),
      treeSize: 2,
      treeRoot: Buffer.from(nodeHash(leafHash(open), leafHash(request))),
    });
  });
});

test("the tables of FORMAT.md say what fields.ts says", () => {
  const rows = [
    ...document.matchAll(/^\| (\d+) \| (\w+) \| ((?:uint|bytes[<[])[^|]*|uint) \|/gm),
  ].map(([, number, name, type]) => [Number(number), name, type]);
  const table = fieldTable().map(({ number, name, type, min, max, times }) => {
    const bytes = min === max ? `bytes[${max}]` : `bytes<=${max}`;
    const often = times > 1 ? `, at most ${times} times` : "";
    return [number, name, `${type === TYPE_UINT ? "uint" : bytes}${often}`];
  });
  expect(rows).toEqual(table);
});
