import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  formatCheckpoint,
  openCheckpoint,
  parseCheckpoint,
  signCheckpoint,
} from "../exporter/log/checkpoint.ts";
import {
  formatSkey,
  newSigner,
  openNote,
  parseNote,
  parseSkey,
  parseVkey,
  type Signer,
  signNote,
  type Verifier,
} from "../exporter/log/note.ts";

// golang.org/x/mod/sumdb/note, package documentation.
const NEUMANN = {
  skey: "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz",
  vkey: "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
  text: "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n",
  line: "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n",
};

// c2sp.org/signed-note, the example.
const FOO = {
  vkey: "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
  note: "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n",
};

const signer = parseSkey(NEUMANN.skey) as Signer;
const verifier = parseVkey(NEUMANN.vkey) as Verifier;
const open = (note: string) => openNote(Buffer.from(note), [verifier]);

describe("a signed note", () => {
  it("is the same as Go's", () => {
    expect(signNote(NEUMANN.text, [signer])).toBe(`${NEUMANN.text}\n${NEUMANN.line}`);
    expect(signer.vkey).toBe(NEUMANN.vkey);
    expect(
      formatSkey("PeterNeumann", Buffer.from(NEUMANN.skey.slice(-44), "base64").subarray(1)),
    ).toBe(NEUMANN.skey);
    expect(openNote(Buffer.from(FOO.note), [parseVkey(FOO.vkey) as Verifier])?.text).toBe(
      "This is an example message.\n",
    );
  });

  const good = `${NEUMANN.text}\n${NEUMANN.line}`;
  it.each([
    ["no signature", `${NEUMANN.text}\n`],
    ["no blank line", `${NEUMANN.text}${NEUMANN.line}`],
    ["no last newline", good.slice(0, -1)],
    ["text after the signatures", `${good}x\n`],
    ["a hyphen for the dash", good.replace("— ", "- ")],
    ["two spaces before the signature", good.replace("Neumann x", "Neumann  x")],
    ["a third word", good.replace("AM=\n", "AM= x\n")],
    ["a carriage return", good.replace(",\n", ",\r\n")],
    ["a changed word", good.replace("answer", "Answer")],
    ["a changed signature", good.replace("x08go/ZJ", "x08go/ZK")],
    ["a spare base64 bit", good.replace("nAM=", "nAN=")],
    ["an unknown key", good.replace("PeterNeumann", "PeterNewmann")],
    [
      "a known key that does not verify beside one that does",
      good + NEUMANN.line.replace("ZJk", "ZKk"),
    ],
  ])("is refused with %s", (_, note) => {
    expect(open(good)?.text).toBe(NEUMANN.text);
    expect(open(note)).toBeNull();
  });

  it("keeps the lines of unknown keys apart", () => {
    const other = newSigner("other.example/log", Buffer.alloc(32, 7));
    const opened = open(signNote(NEUMANN.text, [signer, other]));
    expect(opened?.verified.map((s) => s.name)).toEqual(["PeterNeumann"]);
    expect(opened?.unknown.map((s) => s.name)).toEqual(["other.example/log"]);
  });

  it("is found in no random bytes, and never throws", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(), (bytes, at) => {
        expect(parseNote(bytes)?.signatures ?? null).toBeNull();
        const flipped = Buffer.from(good);
        flipped[at % flipped.length] = (flipped[at % flipped.length] ?? 0) ^ 1;
        expect(openNote(flipped, [verifier])).toBeNull();
        expect(parseVkey(Buffer.from(bytes).toString())).toBeNull();
        expect(parseSkey(Buffer.from(bytes).toString())).toBeNull();
      }),
    );
  });
});

describe("a checkpoint", () => {
  // knowledge: seed 00..1f signs Tessera's test root of size 15.
  const log = newSigner(
    "example.com/audit/log1",
    Buffer.from(Array.from({ length: 32 }, (_, i) => i)),
  );
  const root = Buffer.from("rKbDipCvhuX1GZ7g5BBe8sA6BbJ7ja/1nk427v383cs=", "base64");
  const checkpoint = { origin: log.name, size: 15, root };
  const text = "example.com/audit/log1\n15\nrKbDipCvhuX1GZ7g5BBe8sA6BbJ7ja/1nk427v383cs=\n";

  it("is signed and opened", () => {
    expect(log.vkey).toBe(
      "example.com/audit/log1+dc389258+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
    );
    const note = signCheckpoint(checkpoint, [log]);
    expect(note).toBe(
      `${text}\n— example.com/audit/log1 3DiSWFmURZ833HQ7eEIeqZPdENx7qPcbcCfLyNFJZbp9l3I7beOeB+8yDxhUWNGo6C+F7wY5zWGzieM18osr4I6e5Ak=\n`,
    );
    expect(openCheckpoint(Buffer.from(note), parseVkey(log.vkey) as Verifier)?.size).toBe(15);
  });

  it("of another origin is refused, though the key signed it", () => {
    const note = signNote(text.replace("log1", "log2"), [log]);
    expect(openCheckpoint(Buffer.from(note), parseVkey(log.vkey) as Verifier)).toBeNull();
  });

  it.each([
    ["015", text.replace("\n15\n", "\n015\n")],
    ["+15", text.replace("\n15\n", "\n+15\n")],
    ["0x0f", text.replace("\n15\n", "\n0x0f\n")],
    ["a space", text.replace("\n15\n", "\n 15\n")],
    ["2^53", text.replace("\n15\n", "\n9007199254740992\n")],
    ["an empty origin", text.replace("example.com/audit/log1", "")],
    ["a short root", text.replace("rKbD", "")],
    ["an extension line", `${text}extension\n`],
    ["no last newline", text.slice(0, -1)],
  ])("is refused with %s", (_, wrong) => {
    expect(formatCheckpoint(parseCheckpoint(text) ?? checkpoint)).toBe(text);
    expect(parseCheckpoint(wrong)).toBeNull();
  });
});
