import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { hashLeaves } from "../exporter/log/hasher.ts";
import { newSigner, parseVkey, type Verifier } from "../exporter/log/note.ts";
import { Publisher } from "../exporter/log/publisher.ts";
import { formatRecord } from "../exporter/log/wal.ts";
import { memoryStore } from "../exporter/store/memory.ts";
import type { Store } from "../exporter/store/store.ts";

const signer = newSigner("publisher.test/log", createHash("sha256").update("a key").digest());
const verifiers = [parseVkey(signer.vkey) as Verifier];

function publisherOn(store: Store): Publisher {
  return new Publisher({ store, signer, signers: [signer], verifiers, onDiskFull: () => {} });
}

/** A record of the WAL and its leaf hashes, with `count` entries from leaf `first` on. */
function recordOf(first: number, count: number): [record: Buffer, leaves: Buffer] {
  const parts = Array.from({ length: count }, (_, i) => {
    const entry = Buffer.from(`entry ${first + i}`);
    return Buffer.concat([Buffer.of(0, entry.length, 0), entry]);
  });
  const entries = Buffer.concat(parts);
  return [formatRecord(first, [entries], 0), hashLeaves(entries, count)];
}

/** Two adds, with the checkpoint that was asked for while the one before it ran. Each fills tiles. */
async function work(publisher: Publisher): Promise<PromiseSettledResult<unknown>[]> {
  return await Promise.allSettled([
    publisher.add(...recordOf(0, 600)),
    publisher.publish(),
    publisher.add(...recordOf(600, 500)),
    publisher.publish(),
  ]);
}

test("a write that fails ends what was asked for behind it: no checkpoint is signed over half a tree", async () => {
  const whole = publisherOn(memoryStore());
  await whole.restore(-1);
  await work(whole);
  const { root } = await whole.publish();
  let failed = 0;
  for (let at = 1; ; at++) {
    const store = memoryStore();
    let puts = 0;
    const broken = publisherOn({
      ...store,
      put: async (path, bytes) => {
        if (++puts === at) throw Object.assign(new Error(path), { code: "EIO" });
        await store.put(path, bytes);
      },
    });
    await broken.restore(-1);
    await broken.recovered();
    const ends = await work(broken);
    if (puts < at) break;
    failed++;
    expect(ends.some(({ status }) => status === "rejected")).toBe(true);

    // The next start: the WAL has all of it.
    const next = publisherOn(store);
    await next.restore(0);
    await next.add(...recordOf(0, 600));
    await next.add(...recordOf(600, 500));
    expect(Buffer.from((await next.recovered()).root)).toEqual(Buffer.from(root));
  }
  expect(failed).toBeGreaterThan(10);
});
