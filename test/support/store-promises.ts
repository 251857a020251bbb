/** Each promise of exporter/store/store.ts as a test, for any store. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { signCheckpoint } from "../../exporter/log/checkpoint.ts";
import { newSigner } from "../../exporter/log/note.ts";
import { tilePath } from "../../exporter/log/tile.ts";
import { Conflict, type Store } from "../../exporter/store/store.ts";

export type StoreUnderTest = {
  readonly store: Store;
  /** Opens the same place anew, as a reader or the next process would. */
  readonly reader: () => Promise<Pick<Store, "get">>;
};

const bytes = (text: string): Buffer => Buffer.from(text);
const signer = newSigner("log.example/stores", Buffer.alloc(32, 1));
const checkpointOf = (size: number): Buffer => {
  const checkpoint = { origin: signer.name, size, root: Buffer.alloc(32, size) };
  return Buffer.from(signCheckpoint(checkpoint, [signer]));
};
const CHECKPOINT = "checkpoint";

/** `open` gives an empty store each time. */
export function holdsStorePromises(name: string, open: () => Promise<StoreUnderTest>): void {
  describe(`the ${name} store`, () => {
    test("has nothing at a path that was never written, nor at one that is a folder", async () => {
      const { store } = await open();
      expect(await store.get("tile/0/000")).toBeNull();
      expect(await store.get(CHECKPOINT)).toBeNull();
      await store.put("tile/0/x001/000", bytes("a"));
      expect(await store.get("tile/0")).toBeNull();
      expect(await store.get("tile/0/x001/000/000")).toBeNull();
    });

    test("gives back what was put: to itself at once, to every reader behind the next checkpoint", async () => {
      const { store, reader } = await open();
      const large = Buffer.alloc(256 * 1024, "x");
      const empty = Buffer.alloc(0);
      await store.put("tile/entries/000", large);
      await store.put("tile/0/000.p/7", bytes("seven"));
      await store.put("tile/1/000.p/1", empty);
      expect((await store.get("tile/entries/000"))?.equals(large)).toBe(true);
      await store.replace(CHECKPOINT, bytes("first"));
      const other = await reader();
      expect((await other.get("tile/entries/000"))?.equals(large)).toBe(true);
      expect(await other.get("tile/0/000.p/7")).toEqual(bytes("seven"));
      expect(await other.get("tile/1/000.p/1")).toEqual(empty);
      expect(await other.get(CHECKPOINT)).toEqual(bytes("first"));
    });

    test("is write-once: the same bytes again are fine, others are a Conflict and change nothing", async () => {
      const { store, reader } = await open();
      await store.put("tile/0/000", bytes("a"));
      await store.put("tile/0/000", bytes("a"));
      await store.replace(CHECKPOINT, bytes("1"));
      await store.put("tile/0/000", bytes("a"));
      const attempt = async (): Promise<void> => {
        await store.put("tile/0/000", bytes("b"));
        await store.replace(CHECKPOINT, bytes("2"));
      };
      await expect(attempt()).rejects.toThrow(Conflict);
      expect(await (await reader()).get("tile/0/000")).toEqual(bytes("a"));
      expect(await (await reader()).get(CHECKPOINT)).toEqual(bytes("1"));
    });

    test("replaces a checkpoint whole, again and again", async () => {
      const { store, reader } = await open();
      for (const text of ["1", "two", "3", "4"]) {
        await store.replace(CHECKPOINT, bytes(text));
        expect(await store.get(CHECKPOINT)).toEqual(bytes(text));
        expect(await (await reader()).get(CHECKPOINT)).toEqual(bytes(text));
      }
    });

    test("removes the partial tiles of a tile that is full, and nothing else", async () => {
      const { store, reader } = await open();
      for (const path of ["tile/0/000.p/1", "tile/0/000.p/255", "tile/0/001.p/3"]) {
        await store.put(path, bytes(path));
      }
      await store.replace(CHECKPOINT, checkpointOf(255));
      await store.put("tile/0/000", bytes("full"));
      // Partial tiles go when a checkpoint covers the full one: until then a log is read from them.
      await store.replace(CHECKPOINT, checkpointOf(259));
      await store.removePartials("tile/0/000");
      await store.sync();
      const after = await reader();
      expect(await after.get("tile/0/000.p/1")).toBeNull();
      expect(await after.get("tile/0/000.p/255")).toBeNull();
      expect(await after.get("tile/0/001.p/3")).toEqual(bytes("tile/0/001.p/3"));
      expect(await after.get("tile/0/000")).toEqual(bytes("full"));
      // A tile without any is no error.
      await store.removePartials("tile/0/777");
    });

    test("takes many at the same time, and keeps them over a sync", async () => {
      const { store, reader } = await open();
      const paths = Array.from({ length: 60 }, (_, index) => {
        return tilePath({ level: index % 2, index: 990 + index, width: 256 });
      });
      await Promise.all(paths.map((path) => store.put(path, bytes(path))));
      await store.replace(CHECKPOINT, bytes("1"));
      await store.sync();
      const after = await reader();
      for (const path of paths) expect(await after.get(path)).toEqual(bytes(path));
    });

    test("behaves like a map that forgets nothing", async () => {
      const operation = fc.record({
        path: fc.constantFrom("tile/0/000", "tile/0/001", "tile/entries/x001/000"),
        value: fc.constantFrom("a", "b"),
      });
      await fc.assert(
        fc.asyncProperty(fc.array(operation, { maxLength: 12 }), async (operations) => {
          const { store, reader } = await open();
          const expected = new Map<string, string>();
          for (const [at, { path, value }] of operations.entries()) {
            const held = expected.get(path);
            const write = async (): Promise<void> => {
              await store.put(path, bytes(value));
              await store.replace(CHECKPOINT, bytes(String(at)));
            };
            if (held === undefined || held === value) {
              await write();
              expected.set(path, value);
            } else {
              await expect(write()).rejects.toThrow(Conflict);
              break;
            }
          }
          const after = await reader();
          for (const [path, value] of expected) expect(await after.get(path)).toEqual(bytes(value));
        }),
        { numRuns: 25 },
      );
    });
  });
}
