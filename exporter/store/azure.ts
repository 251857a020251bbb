/**
 * A container of Azure Blob Storage. What the log needs of it:
 *
 * - `If-None-Match: *` and `If-Match`.
 * - Versions: an account with versioning, where a write over a blob makes the one before a previous version, and a delete of the blob
 *   leaves it without a current one.
 * - Locks: the version's immutability policy, `Locked`, in the request that writes it. The container must have version-level
 *   immutability. Not a policy of the container or a default one: that would lock commit, checkpoint and partial tiles too.
 * - `hold`: the version's legal hold.
 * - Soft delete: `include=deleted` in a list.
 *
 * https://learn.microsoft.com/rest/api/storageservices/put-blob, .../set-blob-immutability-policy, .../set-blob-legal-hold,
 * .../delete-blob, .../list-blobs. Every write carries its MD5, which the service checks; what it sends back is checked.
 * Nothing is tried twice here: patience.ts does that.
 */
import { createHash } from "node:crypto";
import { buffer } from "node:stream/consumers";
import type {
  BlobClient,
  BlobDownloadResponseParsed,
  BlobItem,
  BlockBlobUploadOptions,
  ContainerClient,
  ContainerListBlobsOptions,
} from "@azure/storage-blob";
import { asked, inTime } from "./azure-client.ts";
import { type LockSeen, TooLarge, type Version, type Written } from "./bucket.ts";
import {
  asMarked,
  LOCKED_UNTIL,
  noLock,
  nullIfTooLarge,
  promisedIn,
  type Removed,
  type ServiceBucket,
  ServiceError,
  statusOf,
  toSecond,
} from "./service.ts";

const DAY_MS = 86_400_000;

/** Names of metadata are identifiers here. */
const LOCKED_UNTIL_NAME = LOCKED_UNTIL.replaceAll("-", "_");

function codeIs(error: unknown, ...codes: string[]): boolean {
  return error instanceof ServiceError && codes.includes(error.name);
}

export function azureBucket(container: ContainerClient): ServiceBucket {
  async function put(
    key: string,
    bytes: Uint8Array,
    conditions: BlockBlobUploadOptions["conditions"] & object,
    retainUntil: Date | null,
  ): Promise<Written | null> {
    const body = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const options = {
      ...inTime(),
      conditions,
      transactionalContentMD5: md5(body),
      ...lockOf(retainUntil),
    };
    try {
      const blob = container.getBlockBlobClient(key);
      const { etag, versionId = "" } = await asked(blob.upload(body, body.length, options));
      if (etag === undefined) throw new Error(`${key} was written without an etag`);
      return { etag, version: versionId };
    } catch (error) {
      if (statusOf(error) === 412 || codeIs(error, "BlobAlreadyExists")) return null;
      if (conditions.ifMatch !== undefined && codeIs(error, "BlobNotFound")) return null;
      throw error;
    }
  }

  /** The current version where there are none. */
  function at(key: string, version: string): BlobClient {
    const blob = container.getBlobClient(key);
    return version === "" ? blob : blob.withVersion(version);
  }

  /** Returns the bytes of one version, or of the current one; null if nothing is there. */
  async function read(
    key: string,
    limit: number,
    version = "",
  ): Promise<{ bytes: Buffer; etag: string } | null> {
    try {
      const answer = await asked(at(key, version).download(0, undefined, inTime()));
      return { bytes: await bodyOf(key, answer, limit), etag: answer.etag ?? "" };
    } catch (error) {
      if (codeIs(error, "BlobNotFound")) return null;
      throw error;
    }
  }

  /** Each page has its own time limit. */
  async function* list(
    options: Omit<ContainerListBlobsOptions, "abortSignal">,
  ): AsyncGenerator<BlobItem> {
    for (let token: string | undefined; ; ) {
      const from = token === undefined ? {} : { continuationToken: token };
      const pages = container.listBlobsFlat({ ...options, ...inTime() }).byPage(from);
      const { value, done } = await asked(pages.next());
      if (done === true) return;
      yield* value.segment.blobItems;
      token = value.continuationToken;
      if (token === undefined || token === "") return;
    }
  }

  async function* versions(prefix: string): AsyncGenerator<Version> {
    const include = {
      includeVersions: true,
      includeMetadata: true,
      includeImmutabilityPolicy: true,
    };
    for await (const blob of list({ prefix, ...include })) yield versionOf(blob);
  }

  async function* removed(prefix: string): AsyncGenerator<Removed> {
    const include = { includeDeleted: true, includeVersions: true };
    for await (const { name, deleted, properties } of list({ prefix, ...include })) {
      const { deletedOn: at = new Date(0), remainingRetentionDays: days } = properties;
      if (deleted !== true) continue;
      const until = days === undefined ? {} : { until: new Date(Date.now() + days * DAY_MS) };
      yield { key: name, at, ...until };
    }
  }

  /**
   * The current version cannot be deleted by its id (OperationNotAllowedOnRootBlob): the blob is deleted first, which leaves it as
   * a previous one. What is locked would only be hidden by that, so its lock is asked for before.
   */
  async function remove(key: string, version: string): Promise<void> {
    const blob = container.getBlobClient(key);
    if (version === "") return void (await asked(blob.delete(inTime())));
    const one = blob.withVersion(version);
    try {
      await asked(one.delete(inTime()));
    } catch (error) {
      if (!codeIs(error, "OperationNotAllowedOnRootBlob")) throw error;
      const { versionId, etag, ...state } = await asked(blob.getProperties(inTime()));
      const until = lockNow(state)?.getTime() ?? 0;
      if (versionId !== version || etag === undefined) throw new Error(`${key} was written over`);
      if (state.legalHold === true || until > Date.now()) throw new Error(`${key} is locked`);
      await asked(blob.delete({ ...inTime(), conditions: { ifMatch: etag } }));
      await asked(one.delete(inTime()));
    }
  }

  return {
    get: (key, limit) => read(key, limit),
    create: (key, bytes, retainUntil) => put(key, bytes, { ifNoneMatch: "*" }, retainUntil),
    swap: (key, bytes, etag, retainUntil = null) => put(key, bytes, { ifMatch: etag }, retainUntil),
    remove: async (versions) => {
      for (const { key, version } of versions) {
        await remove(key, version).catch((error: unknown) => {
          if (!codeIs(error, "BlobNotFound")) throw error;
        });
      }
    },
    hold: async (key, version, isOn) => {
      await asked(at(key, version).setLegalHold(isOn, inTime()));
    },
    versions: (prefix) => asMarked(versions(prefix)),
    removed,
    getVersion: async (key, version, limit) => {
      const found = await read(key, limit, version).catch(nullIfTooLarge);
      return found && { bytes: found.bytes };
    },
    lock: (key, version) => asked(at(key, version).getProperties(inTime())).then(lockNow, noLock),
    folders: async (prefix) => {
      const found: string[] = [];
      const below = container.listBlobsByHierarchy("/", { prefix, ...inTime() });
      for (;;) {
        const { done, value } = await asked(below.next());
        if (done === true) return found;
        if (value.kind === "prefix") found.push(value.name);
      }
    },
  };
}

function lockOf(retainUntil: Date | null): Partial<BlockBlobUploadOptions> {
  if (retainUntil === null) return {};
  const expiriesOn = toSecond(retainUntil);
  return {
    immutabilityPolicy: { expiriesOn, policyMode: "Locked" },
    metadata: { [LOCKED_UNTIL_NAME]: expiriesOn.toISOString() },
  };
}

type Policy = {
  readonly immutabilityPolicyExpiresOn?: Date;
  readonly immutabilityPolicyMode?: string;
};

function lockNow({ immutabilityPolicyExpiresOn, immutabilityPolicyMode }: Policy): Date | null {
  const isLocked = immutabilityPolicyMode?.toLowerCase() === "locked";
  return isLocked ? (immutabilityPolicyExpiresOn ?? null) : null;
}

function versionOf({ name, versionId, isCurrentVersion, properties, metadata }: BlobItem): Version {
  const lock: LockSeen = {
    promised: promisedIn({ [LOCKED_UNTIL]: metadata?.[LOCKED_UNTIL_NAME] }),
    now: lockNow(properties),
  };
  return {
    key: name,
    version: versionId ?? "",
    isLatest: versionId === undefined || isCurrentVersion === true,
    isDeleteMarker: false,
    // A version's id is the time at which it was written, to the 100 ns.
    modified: versionId === undefined ? properties.lastModified : new Date(versionId),
    bytes: properties.contentLength ?? 0,
    lock,
  };
}

async function bodyOf(
  key: string,
  { readableStreamBody, contentLength = 0, contentMD5, etag }: BlobDownloadResponseParsed,
  limit: number,
): Promise<Buffer> {
  if (readableStreamBody === undefined) throw new Error(`${key} came without a body`);
  if (contentLength > limit) {
    (readableStreamBody as unknown as { destroy: () => void }).destroy();
    throw new TooLarge(`${key} has ${contentLength} bytes`, etag ?? "");
  }
  const bytes = await buffer(readableStreamBody);
  if (bytes.length !== contentLength) {
    throw new Error(`${key} was cut: ${bytes.length} of ${contentLength} bytes`);
  }
  if (contentMD5 !== undefined && !md5(bytes).equals(contentMD5)) {
    throw new Error(`${key} came with other bytes than its MD5 says`);
  }
  return bytes;
}

function md5(bytes: Uint8Array): Buffer {
  return createHash("md5").update(bytes).digest();
}
