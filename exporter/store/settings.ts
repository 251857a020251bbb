/**
 * Where a log is kept, as the settings say. A plain object, so that it can go to another thread. Nothing else tells one service
 * from another, but for the checks of doctor/.
 */
import { MeshsealError } from "../errors.ts";
import type { Bucket } from "./bucket.ts";
import type { Claim } from "./claim.ts";
import { type PatienceOptions, patient } from "./patience.ts";
import type { S3Flags } from "./s3.ts";
import type { ServiceBucket } from "./service.ts";

export type Service = "s3" | "gcs" | "azure";

export type Place = {
  readonly service: Service;
  /** Azure calls it a container. */
  readonly bucket: string;
  /** "" or ends in a slash. */
  readonly prefix: string;
};

/** How the services are reached: settings of `serve`, and flags of all commands that read a bucket. */
export type StoreFlags = S3Flags & {
  readonly gcsEndpoint?: string | undefined;
  readonly azureEndpoint?: string | undefined;
};

export type Where = { readonly place: Place; readonly reach: StoreFlags };

export type ObjectStoreSettings = Where & {
  readonly ack: "wal" | "store";
  readonly lockMs: number;
  readonly keepEveryMs: number;
};

/** What the publisher's thread is given of a log in a bucket. */
export type ClaimedStore = ObjectStoreSettings & { readonly home: string; readonly claim: Claim };

const DAY_MS = 86_400_000;

/** A checkpoint is kept, locked, this often, in milliseconds: immutable by the minute, at 2,880 objects a day. */
const KEEP_EVERY_MS = 30_000;

export const STORE_URL: RegExp = /^(s3|gs|az):\/\//;
/** What `--store` takes, for help and errors. */
export const STORE_FORMS = "s3://bucket/prefix, gs://bucket/prefix or az://container/prefix";

const SCHEMES: Readonly<Record<string, { service: Service; names: RegExp }>> = {
  s3: { service: "s3", names: /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/ },
  gs: { service: "gcs", names: /^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$/ },
  az: { service: "azure", names: /^[a-z0-9](?:-?[a-z0-9]){2,62}$/ },
};

/** Returns the parts of a `--store`. Throws MeshsealError if it is none. */
export function parseStoreUrl(url: string): Place {
  const [, scheme = "", bucket = "", path = ""] =
    /^([a-z0-9]+):\/\/([^/]*)(?:\/(.*))?$/.exec(url) ?? [];
  const known = SCHEMES[scheme];
  if (known === undefined || !known.names.test(bucket)) {
    throw new MeshsealError(`"${url}" is no place in a bucket: it must be ${STORE_FORMS}.`);
  }
  const parts = path.split("/").filter((part) => part !== "");
  if (parts.some((part) => part === "." || part === "..")) {
    throw new MeshsealError(`"${url}" has a part that is "." or "..".`);
  }
  return { service: known.service, bucket, prefix: parts.map((part) => `${part}/`).join("") };
}

/** Returns `url` and how it is reached. Throws MeshsealError as parseStoreUrl does. */
export function whereOf(url: string, flags: StoreFlags): Where {
  const { s3Endpoint, s3Region, s3PathStyle, gcsEndpoint, azureEndpoint } = flags;
  const reach = { s3Endpoint, s3Region, s3PathStyle, gcsEndpoint, azureEndpoint };
  return { place: parseStoreUrl(url), reach };
}

export function objectStoreSettings(
  where: Where,
  ack: "wal" | "store",
  lockDays: number,
): ObjectStoreSettings {
  return { ...where, ack, lockMs: lockDays * DAY_MS, keepEveryMs: KEEP_EVERY_MS };
}

/** Returns the bucket of a service, as it answers. */
export async function openService({ place, reach }: Where): Promise<ServiceBucket> {
  switch (place.service) {
    case "s3": {
      const { s3Bucket, s3Client } = await import("./s3.ts");
      return await s3Bucket(await s3Client(reach), place.bucket);
    }
    case "gcs": {
      const { gcsApi } = await import("./gcs-api.ts");
      const { gcsBucket } = await import("./gcs.ts");
      return gcsBucket(await gcsApi(place.bucket, reach.gcsEndpoint));
    }
    case "azure": {
      const { azureBucket } = await import("./azure.ts");
      const { azureClient } = await import("./azure-client.ts");
      return azureBucket((await azureClient(reach.azureEndpoint)).getContainerClient(place.bucket));
    }
  }
}

/** Returns the bucket of `where`: with endless patience, or as it answers. */
export async function openBucket(where: Where, patience?: PatienceOptions): Promise<Bucket> {
  const bucket = await openService(where);
  return patience === undefined ? bucket : patient(bucket, patience);
}

/**
 * Returns the key prefix of a log: its origin below the store's prefix, with "_" for what a path should not have. Two origins
 * that give the same one exclude each other, since neither opens the other's checkpoint.
 */
export function homeOf({ prefix }: Place, origin: string): string {
  return `${prefix}${origin.replaceAll(/[^A-Za-z0-9.-]/g, "_")}/`;
}
