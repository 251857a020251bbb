/** What a log needs of any bucket, as tests: the promises of a store in it, and that of several writers one wins. */
import { randomBytes } from "node:crypto";
import { expect, test } from "vitest";
import type { Bucket } from "../../exporter/store/bucket.ts";
import { claim, newWriter } from "../../exporter/store/claim.ts";
import { openObjectStore } from "../../exporter/store/object.ts";
import { holdsStorePromises } from "./store-promises.ts";

const DAY_MS = 86_400_000;

export function holdsBucketPromises(name: string, opened: () => Bucket): void {
  holdsStorePromises(name, async () => {
    const bucket = opened();
    const home = `${randomBytes(6).toString("hex")}/`;
    const writers = { current: "", unfinished: [], pending: newWriter() };
    const { claim: claimed } = await claim(bucket, home, "store", writers);
    return {
      store: await openObjectStore({
        bucket,
        home,
        claim: claimed,
        ack: "store",
        lockMs: DAY_MS,
        keepEveryMs: 0,
        now: Date.now,
      }),
      reader: async () => ({
        get: async (path) => (await bucket.get(`${home}log/${path}`, 1e8))?.bytes ?? null,
      }),
    };
  });

  test("of many that create or swap at the same time one wins", async () => {
    const bucket = opened();
    for (let round = 0; round < 5; round++) {
      const key = `race/${round}`;
      const racers = Array.from({ length: 16 }, (_, i) => Buffer.from(String(i)));
      const made = await Promise.all(racers.map((bytes) => bucket.create(key, bytes, null)));
      expect(made.filter((written) => written !== null)).toHaveLength(1);
      const { etag } = (await bucket.get(key, 100)) ?? { etag: "" };
      const swaps = racers.map((bytes) => bucket.swap(key, Buffer.from(`swap ${bytes}`), etag));
      const swapped = await Promise.all(swaps);
      expect(swapped.filter((written) => written !== null)).toHaveLength(1);
    }
  });
}

/** Of the services whose lists can begin behind a key. */
export function listsBehindAKey(opened: () => Bucket | Promise<Bucket>): void {
  test("a list behind a key has every key behind it, whether that one is there or not", async () => {
    const bucket = await opened();
    const home = `${randomBytes(6).toString("hex")}/`;
    const keyOf = (n: number): string => `${home}${String(n).padStart(20, "0")}`;
    // What begins with no digit is behind all that does.
    const keys = [...[1, 9, 10, 99, 100].map(keyOf), `${home}other`];
    for (const key of keys) await bucket.create(key, Buffer.from("1"), null);
    const first = await bucket.get(keyOf(10), 100);
    await bucket.swap(keyOf(10), Buffer.from("2"), first?.etag ?? "");
    await bucket.create(`${home.slice(0, -1)}0`, Buffer.from("elsewhere"), null);
    const behind = async (n: number): Promise<string[]> => {
      const listed = new Set<string>();
      for await (const { key } of bucket.versionsAfter?.(home, keyOf(n)) ?? []) listed.add(key);
      return [...listed].sort();
    };
    for (const [n, from] of [
      [0, 0],
      [9, 2],
      [50, 3],
      [100, 5],
      [101, 5],
    ] as const)
      expect(await behind(n)).toEqual(keys.slice(from));
    // With what somebody put above one: both can be read. From a key that is there, since moto loses one behind another.
    const read: string[] = [];
    for await (const { key, version } of bucket.versionsAfter?.(home, keyOf(9)) ?? []) {
      if (key !== keyOf(10)) continue;
      read.push(String((await bucket.getVersion(key, version, 100))?.bytes));
    }
    expect(read).toEqual(["2", "1"]);
  });
}
