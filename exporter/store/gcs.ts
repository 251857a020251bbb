/**
 * A bucket of Google Cloud Storage. What the log needs of it:
 *
 * - `ifGenerationMatch`: 0 where nothing may be, else the generation that is written over. A generation is one write's, so it
 *   changes even where the bytes do not, and is etag and version at once.
 * - Versions: a write over an object, and a delete of it, leave it as one that is not live.
 * - Locks: `retention: {mode: "Locked", retainUntilTime}` of the object, in the request that writes it. The bucket must have
 *   object retention enabled. Not bucket lock: that would hold commit, checkpoint and partial tiles too (docs/storage.md).
 * - `hold`: the object's `temporaryHold`.
 * - Soft delete: `softDeleted=true` in a list.
 *
 * https://cloud.google.com/storage/docs/json_api/v1/objects, .../docs/request-preconditions, .../docs/object-lock,
 * .../docs/object-holds. Every write carries its MD5, which the service checks; what it sends back is checked. Nothing is tried
 * twice here: patience.ts does that.
 */
import { createHash } from "node:crypto";
import type { LockSeen, Version, Written } from "./bucket.ts";
import type { GcsApi, GcsCall, GcsList, GcsObject } from "./gcs-api.ts";
import {
  asMarked,
  LOCKED_UNTIL,
  noLock,
  nullIfTooLarge,
  promisedIn,
  type Removed,
  type ServiceBucket,
  statusOf,
  toSecond,
} from "./service.ts";

/** Asked for in lists: a page of all fields is some MiB. */
const LISTED = "name,generation,timeCreated,timeDeleted,size,retention,metadata";

/** Returns where an object is. */
export function pathOf(key: string): string {
  return `/o/${encodeURIComponent(key)}`;
}

export function gcsBucket(api: GcsApi): ServiceBucket {
  let isThere = false;

  async function ask<T>(call: GcsCall): Promise<T> {
    return JSON.parse((await api(call)).bytes.toString()) as T;
  }

  /** A 404 does not say whether it is the object or the bucket that is missing. Rejects where it is the bucket. */
  async function expectBucket(): Promise<void> {
    if (isThere) return;
    await api({ path: "/o", query: { maxResults: "1", fields: "nextPageToken" } });
    isThere = true;
  }

  async function put(
    key: string,
    bytes: Uint8Array,
    generation: string,
    retainUntil: Date | null,
  ): Promise<Written | null> {
    const query = { uploadType: "multipart", name: key, ifGenerationMatch: generation };
    const json = { md5Hash: md5(bytes), ...lockOf(retainUntil) };
    try {
      const call = { method: "POST" as const, path: "/o", query, json, upload: bytes };
      const { generation: made = "" } = await ask<GcsObject>(call);
      if (made === "") throw new Error(`${key} was written without a generation`);
      return { etag: made, version: made };
    } catch (error) {
      if (statusOf(error) === 412) return null;
      if (generation === "0" || statusOf(error) !== 404) throw error;
      await expectBucket();
      return null;
    }
  }

  /** Returns the bytes of one version, or of the live one; null if nothing is there. */
  async function read(
    key: string,
    limit: number,
    version?: string,
  ): Promise<{ bytes: Buffer; generation: string } | null> {
    const query = { alt: "media", ...(version === undefined ? {} : { generation: version }) };
    try {
      const { bytes, headers } = await api({ path: pathOf(key), query, limit });
      // Only what was put together out of other objects has none.
      const [, sum = md5(bytes)] = /md5=([^,]+)/.exec(String(headers["x-goog-hash"] ?? "")) ?? [];
      if (sum !== md5(bytes)) throw new Error(`${key} came with other bytes than its MD5 says`);
      return { bytes, generation: String(headers["x-goog-generation"] ?? "") };
    } catch (error) {
      if (statusOf(error) !== 404) throw error;
      await expectBucket();
      return null;
    }
  }

  async function* pages(query: Record<string, string>): AsyncGenerator<GcsList> {
    for (let token = ""; ; ) {
      const more: Record<string, string> = token === "" ? {} : { pageToken: token };
      const page = await ask<GcsList>({ path: "/o", query: { ...query, ...more } });
      yield page;
      token = page.nextPageToken ?? "";
      if (token === "") return;
    }
  }

  async function* list(
    prefix: string,
    from: Record<string, string> = {},
  ): AsyncGenerator<Version & { deleted?: Date }> {
    const fields = `items(${LISTED}),nextPageToken`;
    for await (const { items = [] } of pages({ versions: "true", prefix, ...from, fields }))
      for (const item of items) yield versionOf(item);
  }

  async function* removed(prefix: string): AsyncGenerator<Removed> {
    const fields = "items(name,softDeleteTime,hardDeleteTime),nextPageToken";
    try {
      for await (const { items = [] } of pages({ softDeleted: "true", prefix, fields }))
        for (const { name = "", softDeleteTime: at, hardDeleteTime: until } of items) {
          if (at === undefined) continue;
          yield {
            key: name,
            at: new Date(at),
            ...(until === undefined ? {} : { until: new Date(until) }),
          };
        }
    } catch (error) {
      // A bucket without soft delete says 400, one that may not be asked 403.
      if (statusOf(error) === 0 || statusOf(error) >= 500) throw error;
    }
  }

  return {
    get: async (key, limit) => {
      const found = await read(key, limit);
      return found && { bytes: found.bytes, etag: found.generation };
    },
    create: (key, bytes, retainUntil) => put(key, bytes, "0", retainUntil),
    swap: (key, bytes, etag, retainUntil = null) => put(key, bytes, etag, retainUntil),
    remove: async (versions) => {
      for (const { key, version: generation } of versions) {
        const call = { method: "DELETE" as const, path: pathOf(key), query: { generation } };
        await api(call).catch((error: unknown) => {
          if (statusOf(error) !== 404) throw error;
        });
      }
    },
    hold: async (key, generation, isOn) => {
      const json = { temporaryHold: isOn };
      await api({ method: "PATCH", path: pathOf(key), query: { generation }, json });
    },
    versions: (prefix) => asMarked(list(prefix)),
    versionsAfter: async function* (prefix, after) {
      for await (const version of asMarked(list(prefix, { startOffset: after })))
        if (version.key !== after) yield version;
    },
    removed,
    getVersion: async (key, version, limit) => {
      const found = await read(key, limit, version).catch(nullIfTooLarge);
      return found && { bytes: found.bytes };
    },
    lock: (key, generation) =>
      ask<GcsObject>({ path: pathOf(key), query: { generation } }).then(
        (object) => lockSeen(object).now,
        noLock,
      ),
    folders: async (prefix) => {
      const found: string[] = [];
      for await (const { prefixes = [] } of pages({ prefix, delimiter: "/" }))
        found.push(...prefixes);
      return found;
    },
  };
}

function lockOf(retainUntil: Date | null): GcsObject {
  if (retainUntil === null) return {};
  const retainUntilTime = toSecond(retainUntil).toISOString();
  return {
    retention: { mode: "Locked", retainUntilTime },
    metadata: { [LOCKED_UNTIL]: retainUntilTime },
  };
}

function lockSeen({ retention, metadata }: GcsObject): LockSeen {
  const until = new Date(retention?.mode === "Locked" ? (retention.retainUntilTime ?? "") : "");
  return {
    promised: promisedIn(metadata),
    now: Number.isNaN(until.getTime()) ? null : until,
  };
}

function versionOf(item: GcsObject): Version & { deleted?: Date } {
  return {
    key: item.name ?? "",
    version: item.generation ?? "",
    isLatest: item.timeDeleted === undefined,
    isDeleteMarker: false,
    modified: new Date(item.timeCreated ?? 0),
    bytes: Number(item.size ?? 0),
    lock: lockSeen(item),
    ...(item.timeDeleted === undefined ? {} : { deleted: new Date(item.timeDeleted) }),
  };
}

function md5(bytes: Uint8Array): string {
  return createHash("md5").update(bytes).digest("base64");
}
