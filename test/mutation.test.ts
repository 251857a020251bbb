import { afterAll, describe, expect, test } from "vitest";
import type { Finding, VerifyReport } from "../exporter/audit/report.ts";
import { verifyLog } from "../exporter/audit/verify.ts";
import { formatBundle, parseBundle } from "../exporter/log/tile.ts";
import * as f from "../record/fields.ts";
import {
  altered,
  build,
  bundleOf,
  firstBroken,
  honestLog,
  log,
  type Made,
  make,
  receiptOf,
  signed,
  signer,
  sourceOf,
  stranger,
} from "./support/forger.ts";
import { randomFrom } from "./support/random.ts";

// Every kind of tampering at random places: found, and named at the right one. Half of the places are drawn from a fixed seed,
// half from a new one. `MESHSEAL_MUTATIONS=n` sets how many of each kind.

const EACH = Number(process.env["MESHSEAL_MUTATIONS"] ?? 40);
const FIXED = 20_261_125;
const NEW = Math.floor(Math.random() * 2 ** 31);

type Files = Map<string, Buffer>;
type World = { entries: Made[]; files: Files; random: () => number };

/** Sizes around tile boundaries, and one with two levels. */
const SIZES = [1, 2, 255, 256, 257, 300, 512, 700];

function world(seed: number, size: number): World {
  const random = randomFrom(seed);
  const entries = honestLog(random, size, Math.min(5, 1 + Math.floor(size / 50)));
  return { entries, files: signed(entries), random };
}

const worlds = new Map<string, World>();
function worldOf(seed: number, size: number): World {
  const key = `${seed}/${size}`;
  const made = worlds.get(key) ?? world(seed, size);
  worlds.set(key, made);
  return made;
}

const verify = (files: Files, lastSeen?: Buffer): Promise<VerifyReport> =>
  verifyLog(sourceOf(files), { log, ...(lastSeen === undefined ? {} : { lastSeen }) });

let found = 0;
afterAll(() => console.log(`seeds ${FIXED} and ${NEW}: ${found} mutations, all found`));

/** Draws the places, and expects what `change` made to be found as it says. */
async function each(
  change: (
    world: World,
  ) => Promise<{ files: Files; lastSeen?: Buffer; expected: Partial<Finding> } | null>,
): Promise<void> {
  for (let i = 0; i < EACH; i++) {
    const seed = i % 2 === 0 ? FIXED : NEW;
    const made = await change(worldOf(seed, SIZES[(i >> 1) % SIZES.length] ?? 1));
    if (made === null) continue;
    const report = await verify(made.files, made.lastSeen);
    const [first] = report.findings;
    if (report.verdict !== "tampered") throw new Error(`seed ${seed}, ${i}: ${report.verdict}`);
    expect(first, `seed ${seed}, number ${i}`).toMatchObject(made.expected);
    found++;
  }
}

const below = (random: () => number, limit: number): number => Math.floor(random() * limit);

/** The same files, with the entries of one bundle in another order or number. */
function rebundled(
  files: Files,
  path: string,
  change: (list: Uint8Array[]) => Uint8Array[],
): Files {
  const bundle = files.get(path) ?? Buffer.alloc(0);
  const width = Number(/\.p\/(\d+)$/.exec(path)?.[1] ?? 256);
  const list = parseBundle(bundle, width);
  if (list === null) throw new Error(path);
  return new Map(files).set(path, Buffer.from(formatBundle(change(list))));
}

describe("nothing is found in logs that nobody touched", () => {
  test.each(SIZES)("of %s entries", async (size) => {
    for (const seed of [FIXED, NEW]) {
      const { files } = worldOf(seed, size);
      const report = await verify(files, files.get("checkpoint"));
      expect({ verdict: report.verdict, findings: report.findings }).toEqual({
        verdict: "verified",
        findings: [],
      });
    }
  });
});

describe("someone with the files, without the key", () => {
  test("changes a byte of an entry", () =>
    each(async ({ entries, files, random }) => {
      const index = below(random, entries.length);
      const path = bundleOf(index, entries.length);
      const changed = rebundled(files, path, (list) => {
        const entry = Buffer.from(list[index % 256] ?? []);
        const at = below(random, entry.length);
        entry.writeUInt8(entry.readUInt8(at) ^ (1 << below(random, 8)), at);
        return list.map((old, i) => (i === index % 256 ? entry : old));
      });
      return { files: changed, expected: { index, file: path } };
    }));

  test("changes a byte of a tile of hashes", () =>
    each(async ({ files, random }) => {
      const tiles = [...files.keys()].filter((path) => /^tile\/\d/.test(path));
      const path = tiles[below(random, tiles.length)] ?? "";
      const bytes = Buffer.from(files.get(path) ?? []);
      const at = below(random, bytes.length);
      bytes.writeUInt8(bytes.readUInt8(at) ^ (1 << below(random, 8)), at);
      // In level 0 it is the entry of that hash that does not fit; above it is the tile, or the root.
      const tile = Number(/^tile\/0\/(\d+)/.exec(path)?.[1] ?? -1);
      const expected =
        tile < 0 ? { severity: "tampered" as const } : { index: tile * 256 + (at >> 5) };
      return { files: new Map(files).set(path, bytes), expected };
    }));

  test.each(["deletes", "cuts off", "lengthens"])("%s a file", (what) =>
    each(async ({ files, random }) => {
      const paths = [...files.keys()];
      const path = paths[below(random, paths.length)] ?? "";
      const bytes = files.get(path) ?? Buffer.alloc(0);
      const changed = new Map(files);
      if (what === "deletes") changed.delete(path);
      else if (what === "cuts off")
        changed.set(path, bytes.subarray(0, below(random, bytes.length)));
      else changed.set(path, Buffer.concat([bytes, Buffer.of(below(random, 256))]));
      return { files: changed, expected: { file: path } };
    }),
  );

  test.each(["deletes", "inserts", "repeats", "moves"])("%s an entry in its bundle", (what) =>
    each(async ({ entries, files, random }) => {
      const index = below(random, entries.length);
      const path = bundleOf(index, entries.length);
      const at = index % 256;
      const own = (entries[index] as Made).bytes;
      const next = entries[index + 1];
      if (what === "moves" && (next === undefined || at === 255)) return null;
      const changed = rebundled(files, path, (list) => {
        if (what === "deletes") return list.toSpliced(at, 1);
        if (what === "inserts") return list.toSpliced(at, 0, altered(entries[index] as Made).bytes);
        if (what === "repeats") return list.toSpliced(at + 1, 0, own);
        return list.toSpliced(at, 2, next?.bytes ?? own, own);
      });
      // A repeated entry is wrong at the place behind it, and one behind the last place is surplus.
      const isLast = index === entries.length - 1 || at === 255;
      const wrong = what === "repeats" && !isLast ? index + 1 : index;
      return { files: changed, expected: { index: wrong, file: path } };
    }),
  );

  test("rebuilds every tile over other entries: the signature is of another root", () =>
    each(async ({ entries, files, random }) => {
      const index = below(random, entries.length);
      const changed = entries.map((old, i) => (i === index ? altered(old) : old));
      const forged = build(changed).files.set("checkpoint", files.get("checkpoint") ?? Buffer.of());
      const broken = firstBroken(changed);
      // A broken link is named; else it is the root, or a receipt in the log for a tree of before.
      return {
        files: forged,
        expected: broken < 0 ? { severity: "tampered" } : { index: broken, cause: "link" },
      };
    }));

  test("forges the checkpoint", () =>
    each(async ({ entries, files, random }) => {
      const note = files.get("checkpoint") ?? Buffer.alloc(0);
      const bytes = Buffer.from(note);
      const at = below(random, bytes.length);
      bytes.writeUInt8(bytes.readUInt8(at) ^ (1 << below(random, 7)), at);
      const thief = signed(entries, stranger).get("checkpoint") ?? bytes;
      const forged = random() < 0.3 ? thief : bytes;
      return { files: new Map(files).set("checkpoint", forged), expected: { file: "checkpoint" } };
    }));
});

/** What a forger with the key can do to the entries, and each time what a reader of the chains finds. */
const FORGERIES: Readonly<
  Record<string, (entries: readonly Made[], random: () => number) => Made[]>
> = {
  "changes an entry": (entries, random) => {
    const at = below(random, entries.length);
    return entries.map((old, i) => (i === at ? altered(old) : old));
  },
  "deletes an entry": (entries, random) => entries.toSpliced(below(random, entries.length), 1),
  "deletes a run of entries": (entries, random) => {
    const at = below(random, entries.length);
    return entries.toSpliced(at, 1 + below(random, 20));
  },
  "inserts an entry": (entries, random) => {
    const at = below(random, entries.length);
    const { chain, seq, prev } = entries[at] as Made;
    if (seq === 0) return entries.toSpliced(at, 0, altered(entries[at] as Made));
    const forged = make(f.KIND_REQUEST, chain, seq, prev, [{ number: f.F_STATUS, value: 200 }]);
    return entries.toSpliced(at, 0, forged);
  },
  "repeats an entry": (entries, random) => {
    const at = below(random, entries.length);
    return entries.toSpliced(at + 1 + below(random, entries.length - at), 0, entries[at] as Made);
  },
  "replays a run of entries at the end": (entries, random) => {
    const at = below(random, entries.length);
    return [...entries, ...entries.slice(at, at + 10)];
  },
  "swaps two entries": (entries, random) => {
    const [a, b] = [below(random, entries.length), below(random, entries.length)];
    return entries.with(a, entries[b] as Made).with(b, entries[a] as Made);
  },
  "gives an entry to another chain": (entries, random) => {
    const at = below(random, entries.length);
    const { kind, seq, prev, facts } = entries[at] as Made;
    const { chain } = entries[below(random, entries.length)] as Made;
    return entries.with(at, make(kind, chain, seq, prev, facts));
  },
  "cuts off the head": (entries, random) => entries.slice(1 + below(random, entries.length - 1)),
};

describe("someone with the signing key, who rebuilds and signs everything", () => {
  test.each(Object.keys(FORGERIES))(
    "%s: a link shows it where there is one, an earlier checkpoint always",
    (name) =>
      each(async ({ entries, files, random }) => {
        const forged = FORGERIES[name]?.(entries, random) ?? [];
        const isSame =
          forged.length === entries.length &&
          forged.every(({ bytes }, i) => bytes.equals(entries[i]?.bytes ?? bytes.subarray(1)));
        if (isSame || forged.length === 0) return null;
        const lastSeen = files.get("checkpoint") ?? Buffer.alloc(0);
        const broken = firstBroken(forged);
        if (broken < 0) {
          // At the end of its chain nothing follows. What was seen before does, or a receipt of that time.
          return { files: signed(forged), lastSeen, expected: { severity: "tampered" } };
        }
        return { files: signed(forged), expected: { index: broken } };
      }),
  );

  test.each(["cuts off the tail", "rolls the directory back"])(
    "%s: an earlier checkpoint shows it",
    () =>
      each(async ({ entries, files, random }) => {
        if (entries.length < 2) return null;
        const older = entries.slice(0, 1 + below(random, entries.length - 1));
        return {
          files: signed(older),
          lastSeen: files.get("checkpoint") ?? Buffer.alloc(0),
          expected: { cause: "rolled-back" },
        };
      }),
  );

  test("writes a chain anew from some entry on: receipts in other chains show it, or an earlier checkpoint", () =>
    each(async ({ entries, files, random }) => {
      const at = below(random, entries.length);
      const victim = (entries[at] as Made).chain;
      const forged: Made[] = [];
      let prev: Uint8Array = Buffer.alloc(32);
      for (const [i, old] of entries.entries()) {
        const isOf = old.chain.equals(victim);
        let made = isOf ? make(old.kind, old.chain, old.seq, prev, old.facts) : old;
        if (i === at) made = altered(made);
        if (isOf) prev = made.digest;
        forged.push(made);
      }
      expect(firstBroken(forged)).toBe(-1);
      return {
        files: signed(forged),
        lastSeen: files.get("checkpoint") ?? Buffer.alloc(0),
        expected: { severity: "tampered" },
      };
    }));

  test("and forges every receipt as well: only what was seen outside shows it", async () => {
    const { entries, files, random } = world(FIXED, 300);
    const at = below(random, 200);
    const forged: Made[] = [];
    const heads = new Map<string, Uint8Array>();
    for (const [i, old] of entries.entries()) {
      const id = old.chain.toString("hex");
      const prev = heads.get(id) ?? Buffer.alloc(32);
      const facts =
        old.kind === f.KIND_HEARTBEAT
          ? [{ number: f.F_RECEIPT, value: receiptOf(forged, old.chain, old.seq, prev) }]
          : old.facts;
      let made = make(old.kind, old.chain, old.seq, prev, facts);
      if (i === at) made = altered(made);
      heads.set(id, made.digest);
      forged.push(made);
    }
    const alone = await verify(signed(forged));
    // This is the limit that docs/threats.md names: the log, the key and every proxy's memory in one hand.
    expect(alone.verdict).toBe("verified");
    expect(alone.notes.join()).toContain("roll-back");
    const seen = await verify(signed(forged), files.get("checkpoint"));
    expect(seen.findings[0]).toMatchObject({ cause: "rolled-back" });
    expect(signer.name).toBe(log.name);
  });
});
