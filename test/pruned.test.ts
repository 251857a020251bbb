import { createHash } from "node:crypto";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { VerifyReport } from "../exporter/audit/report.ts";
import type { Source } from "../exporter/audit/source.ts";
import { verifyLog } from "../exporter/audit/verify.ts";
import { formatRetention, parseRetention, RetentionState } from "../exporter/log/retention.ts";
import { TILE_WIDTH, tilePath } from "../exporter/log/tile.ts";
import { openHolds } from "../exporter/retention/holds.ts";
import * as f from "../record/fields.ts";
import {
  altered,
  honestLog,
  log,
  type Made,
  make,
  signed,
  signer,
  sourceOf,
} from "./support/forger.ts";
import { randomFrom } from "./support/random.ts";

// Logs that were pruned, honest and forged, in memory: what verify takes, and what it names.

const SIZE = 1400;
const SEEDS = Number(process.env["MESHSEAL_MUTATIONS"] ?? 8);

type Own = { readonly id: Buffer; seq: number; prev: Uint8Array };

/** Appends an entry of the log's own chain. */
function say(entries: Made[], own: Own, kind: number, facts: Made["facts"]): void {
  const made = make(kind, own.id, own.seq++, own.prev, facts);
  own.prev = made.digest;
  entries.push(made);
}

function stateAt(entries: readonly Made[], index: number): RetentionState {
  const state = new RetentionState(signer.name);
  for (const { bytes, digest } of entries.slice(0, index))
    if (!state.take(bytes, 0, bytes.length, digest)) throw new Error("it does not follow");
  return state;
}

const retained = (index: number, text: Buffer): Made["facts"] => [
  { number: f.F_RETENTION_INDEX, value: index },
  { number: f.F_RETENTION_DIGEST, value: createHash("sha256").update(text).digest() },
];

const held = (from: number, action = f.HOLD_PLACED): Made["facts"] => [
  { number: f.F_HOLD_NAME, value: Buffer.from("case") },
  { number: f.F_HOLD_ACTION, value: action },
  ...(action === f.HOLD_PLACED ? [{ number: f.F_HOLD_FROM, value: from }] : []),
  { number: f.F_HOLD_REASON, value: Buffer.from("a letter") },
];

type Log = { readonly files: Map<string, Buffer>; readonly texts: Map<number, Buffer> };
type World = Log & { readonly entries: Made[]; readonly own: Own; readonly minimum: number };

/** An honest log with a retention entry, whose bundles below the minimum are gone. */
function world(seed: number): World {
  const random = randomFrom(seed);
  const entries = honestLog(random, SIZE, 6);
  const own: Own = { id: Buffer.alloc(16, 9), seq: 0, prev: Buffer.alloc(32) };
  say(entries, own, f.KIND_OPEN, [{ number: f.F_FORMAT, value: 1 }]);
  const minimum = TILE_WIDTH * (1 + Math.floor(random() * 4));
  const text = formatRetention(stateAt(entries, minimum));
  say(entries, own, f.KIND_HOLD, held(minimum));
  say(entries, own, f.KIND_RETENTION, retained(minimum, text));
  return { ...prune(entries, minimum, new Map([[minimum, text]])), entries, own, minimum };
}

function prune(entries: readonly Made[], minimum: number, texts: Map<number, Buffer>): Log {
  const files = signed(entries);
  for (let index = 0; index * TILE_WIDTH < minimum; index++)
    files.delete(tilePath({ level: "entries", index, width: TILE_WIDTH }));
  return { files, texts };
}

function source({ files, texts }: Log): Source {
  const retention = {
    list: async () => [...texts.keys()],
    read: async (index: number) => texts.get(index) ?? null,
  };
  return { ...sourceOf(files), retention };
}

const verify = (made: Log): Promise<VerifyReport> => verifyLog(source(made), { log });

async function causes(made: Log): Promise<string[]> {
  const { verdict, findings } = await verify(made);
  expect(verdict).toBe("tampered");
  return findings.map(({ cause }) => cause);
}

const seeds = Array.from({ length: SEEDS }, (_, i) =>
  i % 2 === 0 ? i : Math.floor(Math.random() * 2 ** 31),
);

test.each(seeds)(
  "an honest one is verified, and each change to it is named (seed %i)",
  async (seed) => {
    const made = world(seed);
    const { entries, minimum, files, texts } = made;
    const honest = await verify(made);
    expect(honest.findings).toEqual([]);
    expect(honest).toMatchObject({ verdict: "verified", minimumIndex: minimum });
    const last = new Map(entries.map(({ chain, seq }) => [chain.toString("hex"), seq]));
    for (const { chain, last: end } of honest.chains) expect(end).toBe(last.get(chain));

    const random = randomFrom(seed + 1);
    const bundleAt = (index: number): string =>
      tilePath({ level: "entries", index, width: TILE_WIDTH });
    const first = minimum / TILE_WIDTH;
    // More is gone than it says, at the edge or anywhere.
    const without = new Map(files);
    without.delete(bundleAt(first));
    expect(await causes({ files: without, texts })).toContain("bundle-missing");
    const hole = new Map(files);
    hole.delete(bundleAt(first + Math.floor(random() * (5 - first))));
    expect(await causes({ files: hole, texts })).toContain("bundle-missing");
    // Hashes stay.
    const bare = new Map(files);
    bare.delete(tilePath({ level: 0, index: Math.floor(random() * first), width: TILE_WIDTH }));
    expect(await causes({ files: bare, texts })).toContain("tile-missing");
    // Nothing says that it was pruned.
    expect(await causes({ files, texts: new Map() })).toContain("bundle-missing");
    const silent = prune(entries.slice(0, -1), minimum, texts);
    expect(await causes(silent)).toEqual(["retention"]);
    // Another text than the one that was committed to: of another head, without a chain, at another place.
    const text = texts.get(minimum) ?? Buffer.of();
    const lines = text.toString().split("\n");
    const at = 3 + Math.floor(random() * (lines.length - 4));
    const shorter = lines.toSpliced(at, 1).join("\n");
    expect(await causes({ files, texts: new Map([[minimum, Buffer.from(shorter)]]) })).toContain(
      "retention",
    );
    const flipped = Buffer.from(text);
    const byte = Math.floor(random() * text.length);
    flipped[byte] = (flipped[byte] ?? 0) ^ (1 << Math.floor(random() * 7));
    expect(await causes({ files, texts: new Map([[minimum, flipped]]) })).toContain("retention");
    if (minimum > TILE_WIDTH) {
      const other = minimum - TILE_WIDTH;
      const early = formatRetention(stateAt(entries, other));
      const back = prune(entries, other, new Map([[other, early]]));
      expect(await causes(back)).toContain("retention");
    }
    // A bundle that could not be removed yet is still held against the tree.
    const left = new Map(files);
    const whole = signed(entries);
    left.set(bundleAt(0), whole.get(bundleAt(0)) ?? Buffer.of());
    if (first > 1) expect((await verify({ files: left, texts })).verdict).toBe("tampered");
    const behind = new Map(files);
    behind.set(bundleAt(first - 1), whole.get(bundleAt(first - 1)) ?? Buffer.of());
    if (first > 1) {
      expect((await verify({ files: behind, texts })).verdict).toBe("verified");
      const wrong = (first - 1) * TILE_WIDTH + 7;
      const changed = entries.with(wrong, altered(entries[wrong] as Made));
      behind.set(bundleAt(first - 1), signed(changed).get(bundleAt(first - 1)) ?? Buffer.of());
      expect(await causes({ files: behind, texts })).toContain("entry");
    }
  },
);

test("a retention entry is held against the entries that are still there", async () => {
  const { entries, own, minimum } = world(1);
  expect((await verify({ files: signed(entries), texts: new Map() })).verdict).toBe("verified");
  const kept = entries.slice(0, -1);
  const liar = { ...own, seq: own.seq - 1, prev: kept.at(-1)?.digest ?? own.prev };
  const text = formatRetention(stateAt(entries, minimum))
    .toString()
    .replace(/ [0-9a-f]{64} /, ` ${"0".repeat(64)} `);
  say(kept, liar, f.KIND_RETENTION, retained(minimum, Buffer.from(text)));
  expect(await causes({ files: signed(kept), texts: new Map() })).toEqual(["retention"]);
});

test("a retention entry above the first entry of a hold in force breaks it", async () => {
  for (const [isLifted, minimum, broken] of [
    [false, 512, ["hold-broken"]],
    [false, 256, []],
    [true, 512, []],
  ] as const) {
    const entries = honestLog(randomFrom(3), SIZE, 4);
    const own: Own = { id: Buffer.alloc(16, 9), seq: 0, prev: Buffer.alloc(32) };
    say(entries, own, f.KIND_OPEN, [{ number: f.F_FORMAT, value: 1 }]);
    say(entries, own, f.KIND_HOLD, held(300));
    if (isLifted) say(entries, own, f.KIND_HOLD, held(0, f.HOLD_LIFTED));
    const text = formatRetention(stateAt(entries, minimum));
    say(entries, own, f.KIND_RETENTION, retained(minimum, text));
    const { findings } = await verify(prune(entries, minimum, new Map([[minimum, text]])));
    expect(findings.map(({ cause }) => cause)).toEqual(broken);
  }
});

test("a hold from before what was pruned is in the text, and still counts", async () => {
  const entries: Made[] = [];
  const own: Own = { id: Buffer.alloc(16, 9), seq: 0, prev: Buffer.alloc(32) };
  say(entries, own, f.KIND_OPEN, [{ number: f.F_FORMAT, value: 1 }]);
  say(entries, own, f.KIND_HOLD, held(512));
  while (entries.length < 1100) say(entries, own, f.KIND_HEARTBEAT, []);
  const first = formatRetention(stateAt(entries, 512));
  say(entries, own, f.KIND_RETENTION, retained(512, first));
  const honest = prune(entries, 512, new Map([[512, first]]));
  expect((await verify(honest)).verdict).toBe("verified");
  const text = formatRetention(stateAt(entries, 768));
  say(entries, own, f.KIND_RETENTION, retained(768, text));
  expect(await causes(prune(entries, 512, honest.texts))).toEqual(["hold-broken"]);
});

test("a text is what it is in one form only", () => {
  const text = formatRetention(stateAt(world(5).entries, 512));
  expect(parseRetention(text)?.index).toBe(512);
  fc.assert(
    fc.property(fc.nat(text.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
      const other = Buffer.from(text);
      other[at] = (other[at] ?? 0) ^ change;
      const parsed = parseRetention(other);
      return parsed === null || formatRetention(parsed).equals(other);
    }),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => parseRetention(bytes) === null),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => openHolds(bytes, [log]) === null),
  );
});
