/**
 * A bucket of any S3-compatible service with versions and conditional writes (`If-None-Match`, `If-Match`). Every write carries
 * its SHA-256, which the service checks; what it sends back is checked where it keeps check sums. Credentials come from AWS's
 * usual chain: environment, shared files, web identity, container and instance metadata.
 *
 * Nothing is tried twice here: patience.ts does that.
 */
import type {
  _Object,
  GetObjectCommandOutput,
  PutObjectCommandInput,
  S3Client,
} from "@aws-sdk/client-s3";
import { type Lock, TooLarge, type Version, type Written } from "./bucket.ts";
import {
  LOCKED_UNTIL,
  noLock,
  nullIfTooLarge,
  promisedIn,
  type ServiceBucket,
  ServiceError,
  statusOf,
  toSecond,
} from "./service.ts";

/** How S3 is reached: flags and settings of these names. */
export type S3Flags = {
  readonly s3Endpoint?: string | undefined;
  readonly s3Region?: string | undefined;
  readonly s3PathStyle?: boolean | undefined;
};

const CONNECT_MS = 5000;
/** For one request, from its start to its last byte: a staged object may be some MiB. */
const REQUEST_MS = 30_000;
const SOCKETS = 64;

/** Returns a client of the service. Loading the SDK takes 0.7 s, so that is done only where a bucket is asked for. */
export async function s3Client(flags: S3Flags): Promise<S3Client> {
  const { s3Endpoint: endpoint, s3Region: region, s3PathStyle: pathStyle } = flags;
  // Its remark on the version of Node is for us (package.json), not for who runs the exporter.
  process.env["AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED"] ??= "true";
  const { S3Client } = await import("@aws-sdk/client-s3");
  return new S3Client({
    ...(endpoint === undefined ? {} : { endpoint }),
    // A service of one's own has no regions, but signatures name one.
    ...(region !== undefined ? { region } : endpoint !== undefined ? { region: "us-east-1" } : {}),
    forcePathStyle: pathStyle === true,
    maxAttempts: 1,
    requestChecksumCalculation: "WHEN_SUPPORTED",
    responseChecksumValidation: "WHEN_SUPPORTED",
    requestHandler: {
      connectionTimeout: CONNECT_MS,
      requestTimeout: REQUEST_MS,
      throwOnRequestTimeout: true,
      httpAgent: { maxSockets: SOCKETS, keepAlive: true },
      httpsAgent: { maxSockets: SOCKETS, keepAlive: true },
    },
  });
}

/** Returns what the SDK threw as a ServiceError; anything else as it is. */
export function s3Error(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { Code, code, $metadata } = error as Thrown;
  const name = Code ?? code ?? error.name;
  if (name === "CredentialsProviderError") return new ServiceError(name, error.message, 401);
  if ($metadata === undefined) return error;
  return new ServiceError(name, error.message, $metadata.httpStatusCode ?? 0);
}

type Thrown = {
  readonly Code?: string;
  readonly code?: string;
  readonly $metadata?: { readonly httpStatusCode?: number };
};

/** Returns the client's `send`, which rejects with ServiceErrors. */
export function s3Send(client: S3Client): S3Client["send"] {
  return ((command: never) =>
    client.send(command).catch((error: unknown) => {
      throw s3Error(error);
    })) as S3Client["send"];
}

/** The bucket of `client` with this name. */
export async function s3Bucket(client: S3Client, name: string): Promise<ServiceBucket> {
  const sdk = await import("@aws-sdk/client-s3");
  const send = s3Send(client);

  async function put(
    key: string,
    bytes: Uint8Array,
    conditions: Partial<PutObjectCommandInput>,
  ): Promise<Written | null> {
    try {
      const answer = await send(
        new sdk.PutObjectCommand({
          Bucket: name,
          Key: key,
          Body: bytes,
          ContentLength: bytes.length,
          ChecksumAlgorithm: "SHA256",
          ...conditions,
        }),
      );
      if (answer.ETag === undefined) throw new Error(`PUT ${key} was answered without an etag`);
      return { etag: answer.ETag, version: answer.VersionId ?? "" };
    } catch (error) {
      if (statusOf(error) === 412) return null;
      // If-Match on what is not there.
      if ("IfMatch" in conditions && isNoKey(error)) return null;
      throw error;
    }
  }

  /** Returns the answer and its bytes; null if nothing is there. */
  async function read(
    key: string,
    limit: number,
    version?: string,
  ): Promise<{ answer: GetObjectCommandOutput; bytes: Buffer } | null> {
    const at = { Bucket: name, Key: key, ...(version === undefined ? {} : { VersionId: version }) };
    try {
      const answer = await send(new sdk.GetObjectCommand({ ...at, ChecksumMode: "ENABLED" }));
      const { ContentLength, Body, ETag = "" } = answer;
      if ((ContentLength ?? 0) > limit) {
        (Body as unknown as { destroy?: () => void } | undefined)?.destroy?.();
        throw new TooLarge(`${key} has ${ContentLength} bytes`, ETag);
      }
      const bytes = Buffer.from((await Body?.transformToByteArray()) ?? []);
      if (ContentLength !== undefined && bytes.length !== ContentLength) {
        throw new Error(`${key} was cut: ${bytes.length} of ${ContentLength} bytes`);
      }
      return { answer, bytes };
    } catch (error) {
      if (isNoKey(error) || (version !== undefined && statusOf(error) === 404)) return null;
      throw error;
    }
  }

  async function lock(key: string, version: string): Promise<Lock> {
    const at = { Bucket: name, Key: key, VersionId: version };
    return await send(new sdk.GetObjectRetentionCommand(at)).then(
      ({ Retention }) =>
        Retention?.Mode === "COMPLIANCE" ? (Retention.RetainUntilDate ?? null) : null,
      noLock,
    );
  }

  async function* listKeys(prefix: string, after: string): AsyncGenerator<_Object> {
    let token: string | undefined;
    do {
      const at = { Bucket: name, Prefix: prefix, StartAfter: after, ContinuationToken: token };
      const page = await send(new sdk.ListObjectsV2Command(at));
      yield* page.Contents ?? [];
      token = page.NextContinuationToken;
      if (page.IsTruncated === true && token === undefined)
        throw new Error(`the list below ${prefix} has no next page, and is not complete`);
    } while (token !== undefined);
  }

  return {
    get: async (key, limit) => {
      const found = await read(key, limit);
      return found && { bytes: found.bytes, etag: found.answer.ETag ?? "" };
    },
    create: (key, bytes, retainUntil) =>
      put(key, bytes, { IfNoneMatch: "*", ...lockOf(retainUntil) }),
    swap: (key, bytes, etag, retainUntil = null) =>
      put(key, bytes, { IfMatch: etag, ...lockOf(retainUntil) }),
    remove: async (versions) => {
      for (const { key, version } of versions) {
        const one = { Bucket: name, Key: key, ...(version === "" ? {} : { VersionId: version }) };
        await send(new sdk.DeleteObjectCommand(one));
      }
    },
    hold: async (key, version, isOn) => {
      const LegalHold = { Status: isOn ? ("ON" as const) : ("OFF" as const) };
      const at = { Bucket: name, Key: key, VersionId: version };
      await send(new sdk.PutObjectLegalHoldCommand({ ...at, LegalHold }));
    },
    versions: (prefix) => listVersions(send, name, prefix),
    versionsAfter: async function* (prefix, after) {
      // moto 5.2.5 begins a list of versions with the key itself where that is there, and loses the first one behind it where
      // it is not: keys with nothing above them are found all the same, by the list of keys.
      const seen = new Set<string>();
      for await (const version of listVersions(send, name, prefix, after)) {
        seen.add(version.key);
        if (version.key > after) yield version;
      }
      for await (const { Key: key = "", LastModified, Size } of listKeys(prefix, after)) {
        if (seen.has(key)) continue;
        const modified = LastModified ?? new Date(0);
        const live = { version: "", isLatest: true, isDeleteMarker: false };
        yield { key, ...live, modified, bytes: Size ?? 0 };
      }
    },
    getVersion: async (key, version, limit) => {
      const found = await read(key, limit, version).catch(nullIfTooLarge);
      if (found === null) return null;
      const { Metadata, ObjectLockMode, ObjectLockRetainUntilDate } = found.answer;
      const promised = promisedIn(Metadata);
      const now = ObjectLockMode === "COMPLIANCE" ? ObjectLockRetainUntilDate : undefined;
      // These headers are left out where their reader may not ask for retentions.
      const asked = promised === null ? null : await lock(key, version).catch(() => null);
      return { bytes: found.bytes, lock: { promised, now: now ?? asked } };
    },
    lock,
    folders: async (prefix) => {
      const at = { Bucket: name, Prefix: prefix, Delimiter: "/" };
      const { CommonPrefixes = [] } = await send(new sdk.ListObjectsV2Command(at));
      return CommonPrefixes.map(({ Prefix = "" }) => Prefix);
    },
  };
}

function isNoKey(error: unknown): boolean {
  return error instanceof ServiceError && error.name === "NoSuchKey";
}

function lockOf(retainUntil: Date | null): Partial<PutObjectCommandInput> {
  if (retainUntil === null) return {};
  const until = toSecond(retainUntil);
  return {
    ObjectLockMode: "COMPLIANCE",
    ObjectLockRetainUntilDate: until,
    Metadata: { [LOCKED_UNTIL]: until.toISOString() },
  };
}

async function* listVersions(
  send: S3Client["send"],
  name: string,
  prefix: string,
  after?: string,
): AsyncGenerator<Version> {
  const { ListObjectVersionsCommand } = await import("@aws-sdk/client-s3");
  let keyMarker = after;
  let versionMarker: string | undefined;
  do {
    const command = new ListObjectVersionsCommand({
      Bucket: name,
      Prefix: prefix,
      KeyMarker: keyMarker,
      VersionIdMarker: versionMarker,
    });
    const page = await send(command);
    for (const [held, isDeleteMarker] of [
      ...(page.Versions ?? []).map((version) => [version, false] as const),
      ...(page.DeleteMarkers ?? []).map((marker) => [marker, true] as const),
    ]) {
      // A page begins behind its markers. versitygw 1.8.0 lists what they name again, which would look like a second version.
      if (keyMarker !== undefined && held.Key === keyMarker && held.VersionId === versionMarker)
        continue;
      yield {
        key: held.Key ?? "",
        version: held.VersionId ?? "",
        isLatest: held.IsLatest === true,
        isDeleteMarker,
        modified: held.LastModified ?? new Date(0),
        bytes: "Size" in held ? (held.Size ?? 0) : 0,
      };
    }
    // A service that says "more" without saying where would have us ask for ever.
    if (page.IsTruncated === true && page.NextKeyMarker === undefined) {
      throw new Error(`the list of versions below ${prefix} has no next page, and is not complete`);
    }
    keyMarker = page.IsTruncated === true ? page.NextKeyMarker : undefined;
    versionMarker = page.NextVersionIdMarker;
  } while (keyMarker !== undefined);
}
