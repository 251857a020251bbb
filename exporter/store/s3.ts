/**
 * A bucket of any S3-compatible service with versions and conditional writes (`If-None-Match`, `If-Match`). Every write carries
 * its SHA-256, which the service checks; what it sends back is checked where it keeps check sums. Credentials come from AWS's
 * usual chain: environment, shared files, web identity, container and instance metadata.
 *
 * Nothing is tried twice here: patience.ts does that.
 */
import type { PutObjectCommandInput, S3Client } from "@aws-sdk/client-s3";
import { MeshsealError } from "../errors.ts";
import { type Bucket, TooLarge, type Written } from "./bucket.ts";

export type S3Place = {
  readonly bucket: string;
  /** "" or ends in a slash. */
  readonly prefix: string;
};

export type S3Settings = {
  readonly endpoint?: string | undefined;
  readonly region?: string | undefined;
  readonly pathStyle: boolean;
};

const CONNECT_MS = 5000;
/** For one request, from its start to its last byte: a staged object may be some MiB. */
const REQUEST_MS = 30_000;
const SOCKETS = 64;

/** Metadata of a locked object: until when it was locked by who wrote it. Verify compares. */
export const LOCKED_UNTIL = "meshseal-locked-until";

/** Returns the parts of `s3://bucket/prefix`. Throws MeshsealError if it is none. */
export function parseS3Url(url: string): S3Place {
  const [, bucket, path = ""] =
    /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:\/(.*))?$/.exec(url) ?? [];
  if (bucket === undefined) {
    throw new MeshsealError(`"${url}" is no place in a bucket: it must be s3://bucket/prefix.`);
  }
  const parts = path.split("/").filter((part) => part !== "");
  if (parts.some((part) => part === "." || part === "..")) {
    throw new MeshsealError(`"${url}" has a part that is "." or "..".`);
  }
  return { bucket, prefix: parts.map((part) => `${part}/`).join("") };
}

/** Returns a client of the service. Loading the SDK takes 0.7 s, so that is done only where a bucket is asked for. */
export async function s3Client({ endpoint, region, pathStyle }: S3Settings): Promise<S3Client> {
  // Its remark on the version of Node is for us (package.json), not for who runs the exporter.
  process.env["AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED"] ??= "true";
  const { S3Client } = await import("@aws-sdk/client-s3");
  return new S3Client({
    ...(endpoint === undefined ? {} : { endpoint }),
    // A service of one's own has no regions, but signatures name one.
    ...(region !== undefined ? { region } : endpoint !== undefined ? { region: "us-east-1" } : {}),
    forcePathStyle: pathStyle,
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

/** Returns the HTTP status in an error of the SDK, or 0. */
export function statusOf(error: unknown): number {
  const { $metadata } = (error ?? {}) as { $metadata?: { httpStatusCode?: number } };
  return $metadata?.httpStatusCode ?? 0;
}

/** Returns the S3 code in an error of the SDK, or its name. */
export function s3CodeOf(error: unknown): string {
  const { name, Code } = (error ?? {}) as { name?: string; Code?: string };
  return Code ?? name ?? "";
}

/** Returns an error of the SDK without the connection it carries, which no log and no other thread can take. */
function plain(error: unknown): unknown {
  const status = statusOf(error);
  if (!(error instanceof Error) || !("$metadata" in error)) return error;
  const small = new Error(error.message.slice(0, 500));
  small.name = s3CodeOf(error);
  return Object.assign(small, { $metadata: { httpStatusCode: status } });
}

export async function s3Bucket(client: S3Client, name: string): Promise<Bucket> {
  const { DeleteObjectCommand, GetObjectCommand, PutObjectCommand } = await import(
    "@aws-sdk/client-s3"
  );

  async function put(
    key: string,
    bytes: Uint8Array,
    conditions: Partial<PutObjectCommandInput>,
  ): Promise<Written | null> {
    try {
      const answer = await client.send(
        new PutObjectCommand({
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
      if ("IfMatch" in conditions && s3CodeOf(error) === "NoSuchKey") return null;
      throw plain(error);
    }
  }

  return {
    get: async (key, limit) => {
      try {
        const answer = await client.send(
          new GetObjectCommand({ Bucket: name, Key: key, ChecksumMode: "ENABLED" }),
        );
        if ((answer.ContentLength ?? 0) > limit) {
          (answer.Body as unknown as { destroy?: () => void } | undefined)?.destroy?.();
          throw new TooLarge(`${key} has ${answer.ContentLength} bytes`, answer.ETag ?? "");
        }
        const bytes = Buffer.from((await answer.Body?.transformToByteArray()) ?? []);
        if (answer.ContentLength !== undefined && bytes.length !== answer.ContentLength) {
          throw new Error(`${key} was cut: ${bytes.length} of ${answer.ContentLength} bytes`);
        }
        return { bytes, etag: answer.ETag ?? "" };
      } catch (error) {
        if (s3CodeOf(error) === "NoSuchKey") return null;
        throw plain(error);
      }
    },
    create: (key, bytes, retainUntil) =>
      put(key, bytes, { IfNoneMatch: "*", ...lockOf(retainUntil) }),
    swap: (key, bytes, etag, retainUntil = null) =>
      put(key, bytes, { IfMatch: etag, ...lockOf(retainUntil) }),
    remove: async (versions) => {
      for (const { key, version } of versions) {
        const one = { Bucket: name, Key: key, ...(version === "" ? {} : { VersionId: version }) };
        await client.send(new DeleteObjectCommand(one)).catch((error: unknown) => {
          throw plain(error);
        });
      }
    },
    hold: async (key, version, isOn) => {
      const { PutObjectLegalHoldCommand } = await import("@aws-sdk/client-s3");
      const LegalHold = { Status: isOn ? ("ON" as const) : ("OFF" as const) };
      const at = { Bucket: name, Key: key, VersionId: version };
      await client
        .send(new PutObjectLegalHoldCommand({ ...at, LegalHold }))
        .catch((error: unknown) => {
          throw plain(error);
        });
    },
    versions: (prefix) => listVersions(client, name, prefix),
  };
}

function lockOf(retainUntil: Date | null): Partial<PutObjectCommandInput> {
  if (retainUntil === null) return {};
  // The service keeps whole seconds.
  const until = new Date(Math.ceil(retainUntil.getTime() / 1000) * 1000);
  return {
    ObjectLockMode: "COMPLIANCE",
    ObjectLockRetainUntilDate: until,
    Metadata: { [LOCKED_UNTIL]: until.toISOString() },
  };
}

export async function* listVersions(
  client: S3Client,
  name: string,
  prefix: string,
): ReturnType<Bucket["versions"]> {
  const { ListObjectVersionsCommand } = await import("@aws-sdk/client-s3");
  let keyMarker: string | undefined;
  let versionMarker: string | undefined;
  do {
    const command = new ListObjectVersionsCommand({
      Bucket: name,
      Prefix: prefix,
      KeyMarker: keyMarker,
      VersionIdMarker: versionMarker,
    });
    const page = await client.send(command).catch((error: unknown) => {
      throw plain(error);
    });
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
