import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Anchor, Subject } from "../exporter/anchor/anchor.ts";
import { openTimestamps } from "../exporter/anchor/opentimestamps.ts";
import {
  addOp,
  attestationsOf,
  blockTime,
  emptyNode,
  formatAttestation,
  formatCalendarAnswer,
  formatOts,
  OtsError,
  type OtsNode,
  parseCalendarAnswer,
  parseOts,
} from "../exporter/anchor/ots.ts";
import { type Calendar, startCalendar } from "./support/calendar.ts";

/** Examples of opentimestamps-client, with what its library reads in them. */
const PUBLISHED = JSON.parse(
  readFileSync(join(import.meta.dirname, "vectors/opentimestamps.json"), "utf8"),
) as {
  proofs: {
    name: string;
    file: string;
    digest: string;
    ots: string;
    attested: { kind: string; message: string }[];
  }[];
  invalid: { name: string; ots: string }[];
};
const sorted = (list: readonly { message: string }[]): unknown[] =>
  [...list].sort((a, b) => a.message.localeCompare(b.message));

const T0 = 1_767_139_200;
const note = Buffer.from("log.example/o\n1\nAAAA\n\n— log.example/o AAAAAAA=\n");
const digest = createHash("sha256").update(note).digest();
const subject: Subject = { size: 1, root: Buffer.alloc(32), note, prove: async () => [] };
const signal = (): AbortSignal => AbortSignal.timeout(30_000);

describe("calendars", () => {
  const calendars: Calendar[] = [];
  let anchor: Anchor;
  let promise: Buffer;

  beforeAll(async () => {
    calendars.push(await startCalendar(), await startCalendar(900_000));
    anchor = openTimestamps({
      name: "bitcoin",
      calendars: calendars.map(({ url }) => url),
      upgradeFrom: [],
      minimum: 2,
      everyMs: 1000,
      timeoutMs: 30_000,
    });
  });
  afterAll(() => Promise.all(calendars.map(({ stop }) => stop())));

  test("promise a block at first, which is no proof", async () => {
    const { bytes, isFinal } = await anchor.submit(subject, signal());
    promise = bytes;
    expect(isFinal).toBe(false);
    const found = attestationsOf(parseOts(bytes, digest), digest);
    expect(found.map(({ kind }) => kind)).toEqual(["pending", "pending"]);
    expect(await anchor.poll?.(note, bytes, signal())).toBeNull();
  });

  test("give the path to it once it is there, and the header proves the time", async () => {
    const block = calendars[0]?.mine(T0);
    const made = await anchor.poll?.(note, promise, signal());
    expect(made?.isFinal).toBe(true);
    const found = attestationsOf(parseOts(made?.bytes ?? Buffer.alloc(0), digest), digest);
    const proof = found.find(({ kind }) => kind === "bitcoin");
    if (proof?.kind !== "bitcoin") throw new Error("no block");
    expect(proof.height).toBe(block?.height);
    const header = Buffer.from(block?.header ?? "", "hex");
    expect(blockTime(header, proof.message)).toBe(T0);
    header[40] = (header[40] ?? 0) ^ 1;
    expect(blockTime(header, proof.message)).toBeNull();
    // Asked again, nothing is new: the other calendar has no block yet.
    expect(await anchor.poll?.(note, made?.bytes ?? Buffer.alloc(0), signal())).toBeNull();
  });

  test("fewer than asked for are an error", async () => {
    await calendars[1]?.stop();
    await expect(anchor.submit(subject, signal())).rejects.toThrow("1 calendars failed");
  });

  test("a promise that names another URL is not followed", async () => {
    const asked: string[] = [];
    const root = emptyNode();
    root.attestations.push(formatAttestation({ uri: "http://127.0.0.1:9" }));
    expect(await anchor.poll?.(note, formatOts(digest, root), signal())).toBeNull();
    expect(asked).toEqual([]);
  });
});

describe("the format", () => {
  test("a file with every op comes back as it was", () => {
    const root = emptyNode();
    const below = addOp(addOp(root, "append", Buffer.from("x")), "sha256");
    for (const op of [0x02, 0x03, 0x67, 0xf2, 0xf3]) {
      const node = emptyNode();
      node.attestations.push(formatAttestation({ height: op * 1000 }));
      below.ops.push({ op, argument: Buffer.alloc(0), node });
    }
    const bytes = formatOts(digest, root);
    const parsed = parseOts(bytes, digest);
    expect(formatOts(digest, parsed)).toEqual(bytes);
    const message = createHash("sha256")
      .update(Buffer.concat([digest, Buffer.from("x")]))
      .digest();
    const found = attestationsOf(parsed, digest).map((one) => one.message.toString("hex"));
    expect(found[0]).toBe(createHash("sha1").update(message).digest("hex"));
    expect(found[1]).toBe(createHash("ripemd160").update(message).digest("hex"));
    expect(found[3]).toBe(Buffer.from(message).reverse().toString("hex"));
    expect(found[4]).toBe(Buffer.from(message.toString("hex")).toString("hex"));
  });

  test("the path of a published proof leads to its block", () => {
    // hello-world.txt of opentimestamps-client: its digest, and the message that block 358391 must have as its Merkle root.
    const header = Buffer.alloc(80);
    const root = Buffer.from(
      "007ee445d23ad061af4a36b809501fab1ac4f2d7e7a739817dd0cbb7ec661b8a",
      "hex",
    );
    header.set(root, 36);
    header.writeUInt32LE(1_432_827_678, 68);
    expect(blockTime(header, root)).toBe(1_432_827_678);
  });

  test.each(PUBLISHED.proofs)(
    "$name, a published proof, says what the reference implementation reads in it",
    ({ file, digest: stated, ots, attested }) => {
      const bytes = Buffer.from(file, "hex");
      const own = createHash("sha256").update(bytes).digest();
      expect(own.toString("hex")).toBe(stated);
      const found = attestationsOf(parseOts(Buffer.from(ots, "hex"), own), own).map(
        ({ message, ...one }) => {
          const { node: _, ...rest } = { node: null, ...one };
          return { ...rest, message: message.toString("hex") };
        },
      );
      expect(sorted(found)).toEqual(sorted(attested));
      expect(formatOts(own, parseOts(Buffer.from(ots, "hex"), own)).length).toBe(ots.length / 2);
    },
  );

  test.each(PUBLISHED.invalid)("refuses $name, as the reference implementation does", ({ ots }) => {
    const bytes = Buffer.from(ots, "hex");
    // Behind the magic, version and hash, where there is one.
    expect(() => parseOts(bytes, bytes.subarray(33, 65))).toThrow(OtsError);
  });

  test.each([
    ["another digest", () => formatOts(Buffer.alloc(32), oneBlock())],
    ["nothing that is appended", () => formatOts(digest, withOp(0xf0))],
    ["a byte too many", () => Buffer.concat([formatOts(digest, oneBlock()), Buffer.of(0)])],
    ["an op that nobody knows", () => formatOts(digest, withOp(0x77))],
    ["a message that grows too long", () => formatOts(digest, hexlified(8))],
    ["a path that is too deep", () => formatOts(digest, deep(300))],
    ["a height that is not minimal", () => withPayload(Buffer.from("8000", "hex"))],
    ["a height with more behind it", () => withPayload(Buffer.from("0101", "hex"))],
  ])("refuses %s", (_, make) => {
    expect(() => parseOts(make(), digest)).toThrow(OtsError);
  });

  test("any bytes are a proof or an OtsError, and a proof is written as it was read", () => {
    const good = formatCalendarAnswer(oneBlock());
    const change = fc.record({ at: fc.nat(good.length - 1), to: fc.nat(255) });
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 64 }), change), (input) => {
        const bytes = Buffer.from(input instanceof Uint8Array ? input : good);
        if (!(input instanceof Uint8Array)) bytes[input.at] = input.to;
        let node: OtsNode;
        try {
          node = parseCalendarAnswer(bytes, digest);
        } catch (error) {
          expect(error).toBeInstanceOf(OtsError);
          return;
        }
        const again = parseCalendarAnswer(formatCalendarAnswer(node), digest);
        expect(attestationsOf(again, digest)).toEqual(attestationsOf(node, digest));
      }),
      { numRuns: 1000 },
    );
  });

  function oneBlock(): OtsNode {
    const root = emptyNode();
    addOp(root, "sha256").attestations.push(formatAttestation({ height: 800_001 }));
    return root;
  }

  function withOp(op: number): OtsNode {
    const root = emptyNode();
    root.ops.push({ op, argument: Buffer.alloc(0), node: oneBlock() });
    return root;
  }

  function hexlified(times: number): OtsNode {
    const root = emptyNode();
    const node = times === 0 ? oneBlock() : hexlified(times - 1);
    root.ops.push({ op: 0xf3, argument: Buffer.alloc(0), node });
    return root;
  }

  function deep(times: number): OtsNode {
    const root = emptyNode();
    let at = root;
    for (let i = 0; i < times; i++) at = addOp(at, "sha256");
    at.attestations.push(formatAttestation({ height: 1 }));
    return root;
  }

  function withPayload(payload: Buffer): Buffer {
    const root = emptyNode();
    root.attestations.push({ tag: formatAttestation({ height: 1 }).tag, payload });
    return formatOts(digest, root);
  }
});
