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
import { afterAll, expect, test } from "vitest";
import { claim, newWriter, type Writers } from "../exporter/store/claim.ts";
import { fileStore } from "../exporter/store/file.ts";
import { memoryStore } from "../exporter/store/memory.ts";
import { memoryBucket } from "../exporter/store/memory-bucket.ts";
import { openObjectStore } from "../exporter/store/object.ts";
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
