import fc from "fast-check";
import { expect, test } from "vitest";
import { MeshsealError } from "../exporter/errors.ts";
import { claim, newWriter } from "../exporter/store/claim.ts";
import {
  type Commit,
  formatCommit,
  formatStaged,
  parseCommit,
  parseStaged,
} from "../exporter/store/commit.ts";
import { formatLease, Lease, parseLease } from "../exporter/store/lease.ts";
import { memoryBucket } from "../exporter/store/memory-bucket.ts";
import { parseStoreUrl } from "../exporter/store/settings.ts";

// What a bucket holds may be written by anyone who may write to it: each parser takes exactly what its writer makes.

const hex = (length: number): fc.Arbitrary<string> =>
  fc.stringMatching(new RegExp(`^[0-9a-f]{${length}}$`));
const COMMIT: fc.Arbitrary<Commit> = fc.record({
  fence: fc.integer({ min: 1 }),
  epoch: fc.nat(),
  writer: hex(32),
  isFresh: fc.boolean(),
  ack: fc.constantFrom("wal", "store"),
  note: fc.string({ maxLength: 200, unit: "grapheme" }),
  staged: fc.option(
    fc.record({
      key: fc.tuple(fc.nat(), hex(64)).map(([fence, digest]) => `staged/${fence}-${digest}`),
      version: fc.string({ maxLength: 64 }),
    }),
  ),
});

test("a commit is read as it was written, and nothing else is one", () => {
  fc.assert(
    fc.property(COMMIT, (commit) => {
      const bytes = formatCommit(commit);
      expect(parseCommit(bytes)).toEqual(commit);
      expect(parseCommit(bytes.subarray(0, bytes.length - 2))).toBeNull();
      expect(parseCommit(Buffer.concat([bytes, Buffer.from("{}")]))).toBeNull();
    }),
  );
  fc.assert(
    fc.property(COMMIT, fc.constantFrom<keyof Commit>("fence", "epoch", "note"), (commit, key) => {
      const other = (change: object): Buffer =>
        Buffer.from(JSON.stringify({ ...commit, ...change }));
      expect(parseCommit(other({ surplus: 1 }))).toBeNull();
      expect(parseCommit(other({ [key]: undefined }))).toBeNull();
      expect(parseCommit(other({ [key]: [] }))).toBeNull();
      expect(parseCommit(other({ fence: 0 }))).toBeNull();
      expect(parseCommit(other({ fence: 2 ** 60 }))).toBeNull();
      expect(parseCommit(other({ staged: { key: "../log/checkpoint", version: "" } }))).toBeNull();
    }),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      expect(parseCommit(bytes)).toBeNull();
    }),
  );
});

test("staged files are read as they were written; what is cut, lengthened or changed never comes back as them", () => {
  const files = fc.array(fc.tuple(fc.string({ unit: "grapheme" }), fc.uint8Array()), {
    maxLength: 8,
  });
  fc.assert(
    fc.property(files, fc.nat(), fc.integer({ min: 1, max: 255 }), (list, place, flip) => {
      const bytes = formatStaged(list);
      const read = parseStaged(bytes);
      expect(read?.map(([path, body]) => [path, Uint8Array.from(body)])).toEqual(list);
      if (bytes.length === 0) return;
      const at = place % bytes.length;
      const cut = parseStaged(bytes.subarray(0, at));
      // Cut between two files it is the list of those before: the digest in its key is what tells.
      if (cut !== null) expect(read?.slice(0, cut.length)).toEqual(cut);
      expect(parseStaged(Buffer.concat([bytes, Buffer.of(flip)]))).toBeNull();
      const changed = Buffer.from(bytes);
      changed.writeUInt8(changed.readUInt8(at) ^ flip, at);
      const other = parseStaged(changed);
      if (other !== null) expect(formatStaged(other).equals(bytes)).toBe(false);
    }),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      const read = parseStaged(Buffer.from(bytes));
      for (const [, body] of read ?? []) expect(body.length).toBeLessThanOrEqual(bytes.length);
    }),
  );
});

test("a store's URL gives a service, a bucket and a prefix that ends in a slash, or an error that names it", () => {
  const bucket = fc.stringMatching(/^[a-z0-9][a-z0-9.-]{1,20}[a-z0-9]$/);
  const part = fc
    .string({ minLength: 1, maxLength: 12 })
    .filter((text) => !/[/\n\r\u2028\u2029]/.test(text) && text !== "." && text !== "..");
  fc.assert(
    fc.property(bucket, fc.array(part, { maxLength: 4 }), fc.boolean(), (name, parts, ends) => {
      const prefix = parts.map((one) => `${one}/`).join("");
      for (const [scheme, service] of Object.entries({ s3: "s3", gs: "gcs", az: "azure" })) {
        const container = service === "azure" ? name.replaceAll(/[.-]+/g, "0") : name;
        const url = `${scheme}://${container}/${parts.join("/")}${ends ? "/" : ""}`;
        expect(parseStoreUrl(url)).toEqual({ service, bucket: container, prefix });
      }
    }),
  );
  fc.assert(
    fc.property(fc.string(), (text) => {
      for (const url of [
        text,
        `s3://${text}`,
        `gs://${text}`,
        `az://${text}`,
        `az://audit/${text}/../x`,
      ]) {
        try {
          const { bucket: name, prefix } = parseStoreUrl(url);
          expect(name).toMatch(/^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$/);
          expect(prefix === "" || prefix.endsWith("/")).toBe(true);
          expect(prefix.split("/")).not.toContain("..");
        } catch (error) {
          expect(error).toBeInstanceOf(MeshsealError);
        }
      }
    }),
  );
});

test("a lease is read as it was written, and nothing else is one", () => {
  const lease = fc.record({
    holder: fc.string({ maxLength: 256 }),
    count: fc.integer({ min: 1, max: 2 ** 52 }),
    isReleased: fc.boolean(),
  });
  fc.assert(
    fc.property(lease, fc.uint8Array({ maxLength: 200 }), (state, other) => {
      expect(parseLease(formatLease(state))).toEqual(state);
      expect(parseLease(formatLease({ ...state, count: 2 ** 52 + 1 }))).toBeNull();
      expect(parseLease(formatLease({ ...state, count: 0.5 }))).toBeNull();
      expect(parseLease(Buffer.from(JSON.stringify({ ...state, surplus: 1 })))).toBeNull();
      expect(parseLease(other)).toBeNull();
    }),
  );
});

test("a lease that somebody deleted, overwrote or counted up keeps nobody from the log for good", async () => {
  const bucket = memoryBucket();
  let now = 0;
  const clock = {
    now: () => now,
    sleep: async (ms: number) => {
      now += ms;
    },
  };
  const serve = async (): Promise<number> => {
    const lease = await Lease.acquire({ bucket, home: "a/", holder: newWriter(), clock });
    for (let i = 0; i < 10; i++) expect(await lease.renew()).toBe(true);
    const writers = { current: "", unfinished: [], pending: newWriter() };
    const { claim: claimed } = await claim(bucket, "a/", "store", writers, lease.epoch);
    return claimed.commit.epoch;
  };
  const overwrite = async (bytes: Buffer): Promise<void> => {
    const held = await bucket.get("a/lease", 1e6);
    await bucket.swap("a/lease", bytes, held?.etag ?? "");
  };
  const epochs = [await serve(), await serve()];
  await bucket.remove((bucket.all.get("a/lease") ?? []).map((one) => ({ ...one, key: "a/lease" })));
  epochs.push(await serve());
  await overwrite(Buffer.from("no lease"));
  epochs.push(await serve());
  await overwrite(formatLease({ holder: "x", count: Number.MAX_SAFE_INTEGER, isReleased: true }));
  epochs.push(await serve());
  await overwrite(formatLease({ holder: "x", count: 2 ** 52, isReleased: true }));
  epochs.push(await serve(), await serve());
  expect(epochs).toEqual(epochs.toSorted((a, b) => a - b));
  expect(new Set(epochs).size).toBe(epochs.length);
});
