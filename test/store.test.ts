import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { openCheckpoint, signCheckpoint } from "../exporter/log/checkpoint.ts";
import { newSigner, parseVkey, type Verifier } from "../exporter/log/note.ts";
import { Fenced } from "../exporter/store/bucket.ts";
import { claim, newWriter, type Writers } from "../exporter/store/claim.ts";
import { fileStore } from "../exporter/store/file.ts";
import { memoryStore } from "../exporter/store/memory.ts";
import { memoryBucket } from "../exporter/store/memory-bucket.ts";
import { keptCheckpointPath, openObjectStore } from "../exporter/store/object.ts";
import { refuseRollback } from "../exporter/store/rollback.ts";
import { Conflict, type Store } from "../exporter/store/store.ts";
import { holdsStorePromises } from "./support/store-promises.ts";

const dir = mkdtempSync(join(tmpdir(), "meshseal-store-"));
afterAll(() => rmSync(dir, { recursive: true, force: true }));
let count = 0;

const writers = (): Writers => ({ current: "", unfinished: [], pending: newWriter() });
const OBJECT = { home: "a/", ack: "store", lockMs: 0, keepEveryMs: 0, now: Date.now } as const;

function openFileStore(): { store: ReturnType<typeof fileStore>; log: string; drafts: string } {
  const log = join(dir, String(count++));
  return { store: fileStore(log, `${log}-drafts`), log, drafts: `${log}-drafts` };
}

holdsStorePromises("memory", async () => {
  const store = memoryStore();
  return { store, reader: async () => store };
});

holdsStorePromises("file", async () => {
  const { store, log, drafts } = openFileStore();
  // The reader is another process's view: its drafts are its own.
  return { store, reader: async () => fileStore(log, `${drafts}-reader`) };
});

holdsStorePromises("object", async () => {
  const bucket = memoryBucket();
  const { claim: claimed } = await claim(bucket, "a/", "store", writers());
  return {
    store: await openObjectStore({ ...OBJECT, bucket, claim: claimed }),
    // As anyone reads a bucket.
    reader: async () => ({
      get: async (path) => (await bucket.get(`a/log/${path}`, 1e6))?.bytes ?? null,
    }),
  };
});

test("a file store's files are read-only, and no draft stays behind", async () => {
  const { store, log, drafts } = openFileStore();
  await store.put("tile/0/000", Buffer.from("a"));
  await store.replace("checkpoint", Buffer.from("b"));
  await store.sync();
  for (const path of ["tile/0/000", "checkpoint"]) {
    expect(statSync(join(log, path)).mode & 0o222).toBe(0);
  }
  expect(readdirSync(drafts)).toEqual([]);
});

test("drafts that a crash left are removed at start, and were never part of the log", async () => {
  const { store, log, drafts } = openFileStore();
  await store.put("tile/0/000", Buffer.from("a"));
  const left = join(drafts, "7");
  writeFileSync(left, "half");
  fileStore(log, drafts);
  expect(existsSync(left)).toBe(false);
  expect(readFileSync(join(log, "tile/0/000"), "utf8")).toBe("a");
});

test("a conflict leaves a file store's file as it was, even for one who may write to it", async () => {
  const { store, log } = openFileStore();
  await store.put("tile/0/000", Buffer.from("a"));
  chmodSync(join(log, "tile/0/000"), 0o644);
  await expect(store.put("tile/0/000", Buffer.from("b"))).rejects.toThrow(/holds other bytes/);
  expect(readFileSync(join(log, "tile/0/000"), "utf8")).toBe("a");
});

describe("somebody has put other bytes where files will be, and locked them", () => {
  const signer = newSigner("log.example/planted", Buffer.alloc(32, 1));
  const checkpoint = (size: number): Buffer =>
    Buffer.from(signCheckpoint({ origin: signer.name, size, root: Buffer.alloc(32) }, [signer]));
  const COSIGNATURE = `— witness.example/w ${Buffer.alloc(76, 7).toString("base64")}\n`;
  const ours = Buffer.from("ours");
  const PLACES = {
    "log/tile/0/000": "short",
    "log/tile/entries/000": "longer than ours is",
    "log/tile/0/001.p/44": "",
    [keptCheckpointPath(300)]: "no checkpoint",
  };

  test.each(["wal", "store"] as const)(
    "ack: %s: ours stand above them, locked, and are told of",
    async (ack) => {
      const bucket = memoryBucket();
      const until = new Date(Date.now() + 1e6);
      for (const [path, text] of Object.entries(PLACES))
        await bucket.create(`a/${path}`, Buffer.from(text), until);
      const { claim: claimed } = await claim(bucket, "a/", ack, writers());
      const foreign: string[] = [];
      const options = { ...OBJECT, bucket, ack, lockMs: 1e9, claim: claimed };
      const store = await openObjectStore({ ...options, onForeign: (key) => foreign.push(key) });
      for (const path of Object.keys(PLACES).filter((path) => path.startsWith("log/")))
        await store.put(path.slice(4), ours);
      await store.replace("checkpoint", checkpoint(300));
      expect(foreign.sort()).toEqual(
        Object.keys(PLACES)
          .map((path) => `a/${path}`)
          .sort(),
      );
      for (const [path, text] of Object.entries(PLACES)) {
        const [planted, above, ...more] = bucket.all.get(`a/${path}`) ?? [];
        expect(planted?.bytes.toString()).toBe(text);
        const isKept = path.startsWith("checkpoints/");
        expect(above?.bytes).toEqual(isKept ? checkpoint(300) : ours);
        if (!path.includes(".p/")) expect(above?.retainUntil?.getTime()).toBeGreaterThan(9e8);
        expect(more).toEqual([]);
      }
      // What is committed has its place: other bytes there are no plant, but two histories.
      await store.put("tile/0/000", Buffer.from("other"));
      await expect(store.replace("checkpoint", checkpoint(400))).rejects.toThrow(Conflict);
      expect(bucket.all.get("a/log/tile/0/000")).toHaveLength(2);
    },
  );

  test.for([
    ["of a bucket with lists from a key on", true, 3],
    ["of one with lists by prefix only", false, 2 + 19 * 9],
  ] as const)(
    "an older commit that was put back ends the start, and a planted checkpoint does not: %s",
    async ([, hasAfter, expected]) => {
      const bucket = memoryBucket();
      const signedSize = (note: Buffer): number | null =>
        openCheckpoint(note, parseVkey(signer.vkey) as Verifier)?.size ?? null;
      let requests = 0;
      const counted = {
        get: (key: string, limit: number) => bucket.get(key, limit).finally(() => requests++),
        getVersion: bucket.getVersion,
        versions: (prefix: string) => {
          requests++;
          return bucket.versions(prefix);
        },
        ...(hasAfter && {
          versionsAfter: (prefix: string, after: string) => {
            requests++;
            return bucket.versionsAfter(prefix, after);
          },
        }),
      };
      const open = async (): Promise<Store> => {
        await refuseRollback(counted, "a/", signedSize);
        const { claim: claimed } = await claim(bucket, "a/", "store", writers());
        return openObjectStore({ ...OBJECT, bucket, claim: claimed, signedSize });
      };
      const store = await open();
      await store.replace("checkpoint", checkpoint(5));
      const old = await bucket.get("a/commit", 1e6);
      await store.replace("checkpoint", checkpoint(9));
      requests = 0;
      await open();
      // Commit, moving checkpoint, and lists.
      expect(requests).toBe(expected);
      await bucket.create(`a/${keptCheckpointPath(99)}`, Buffer.from("not signed"), null);
      await open();
      const now = await bucket.get("a/commit", 1e6);
      await bucket.swap("a/commit", old?.bytes ?? Buffer.of(), now?.etag ?? "");
      await expect(open()).rejects.toThrow(/covers 9 entries, a\/commit only 5/);
      // Also if the moving checkpoint went back with it: one is kept under its size.
      const moving = await bucket.get("a/log/checkpoint", 1e6);
      await bucket.swap("a/log/checkpoint", checkpoint(5), moving?.etag ?? "");
      const kept = `a/${keptCheckpointPath(9)}`;
      await expect(open()).rejects.toThrow(/checkpoints\/0+9 covers 9/);
      // Or if something was put above that, or hides it.
      const live = await bucket.get(kept, 1e6);
      await bucket.swap(kept, Buffer.from("not signed"), live?.etag ?? "");
      await expect(open()).rejects.toThrow(/checkpoints\/0+9 covers 9/);
      bucket.hide(kept);
      expect(await bucket.get(kept, 1e6)).toBeNull();
      await expect(open()).rejects.toThrow(/checkpoints\/0+9 covers 9/);
    },
  );

  test("a quiet log is kept under its size when that is due", async () => {
    const bucket = memoryBucket();
    const { claim: claimed } = await claim(bucket, "a/", "store", writers());
    let now = 1e6;
    const options = { ...OBJECT, keepEveryMs: 30_000, now: () => now, bucket, claim: claimed };
    const store = await openObjectStore(options);
    await store.replace("checkpoint", checkpoint(5));
    await store.replace("checkpoint", checkpoint(6));
    await store.idle?.();
    expect(bucket.all.has(`a/${keptCheckpointPath(6)}`)).toBe(false);
    now += 30_000;
    await store.idle?.();
    expect(bucket.all.has(`a/${keptCheckpointPath(6)}`)).toBe(true);
    // After a restart the same checkpoint may have other cosignatures: that is no plant.
    const { claim: next } = await claim(bucket, "a/", "store", writers());
    const foreign: string[] = [];
    const onForeign = (key: string): number => foreign.push(key);
    const again = await openObjectStore({ ...options, claim: next, onForeign });
    await again.replace("checkpoint", Buffer.concat([checkpoint(6), Buffer.from(COSIGNATURE)]));
    expect(foreign).toEqual([]);
    expect(bucket.all.get(`a/${keptCheckpointPath(6)}`)).toHaveLength(1);
  });

  test("one that was taken over writes nothing above them", async () => {
    const bucket = memoryBucket();
    const { claim: claimed } = await claim(bucket, "a/", "store", writers());
    const store = await openObjectStore({ ...OBJECT, bucket, claim: claimed });
    const other = { ...writers(), current: "" };
    // The commit goes through, and before the tile is written another takes the log over.
    const swap = bucket.swap.bind(bucket);
    let isFirst = true;
    Object.assign(bucket, {
      swap: async (...args: Parameters<typeof swap>) => {
        const written = await swap(...args);
        if (isFirst) {
          isFirst = false;
          await bucket.create("a/log/tile/0/000", Buffer.from("planted"), null);
          await claim(bucket, "a/", "store", other);
        }
        return written;
      },
    });
    await store.put("tile/0/000", ours);
    await expect(store.replace("checkpoint", checkpoint(256))).rejects.toThrow(Fenced);
    expect(bucket.all.get("a/log/tile/0/000")).toHaveLength(1);
  });
});
