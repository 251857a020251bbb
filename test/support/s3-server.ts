/** Real S3 servers with versions and object lock, each in a process and a directory of its own, on loopback. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { CreateBucketCommand, ListBucketsCommand, type S3Client } from "@aws-sdk/client-s3";
import { s3Client } from "../../exporter/store/s3.ts";
import { findServer } from "../../scripts/store-servers.mjs";
import { openServer } from "./store-server.ts";

export type ServerName = "versitygw" | "minio" | "moto";

export type S3Server = {
  readonly name: ServerName;
  readonly endpoint: string;
  readonly port: number;
  readonly client: S3Client;
  /** Makes a bucket with object lock, and returns its name. */
  readonly newBucket: () => Promise<string>;
  /** SIGKILL, and waits for the end. */
  readonly kill: () => Promise<void>;
  /** Starts it again where it was. */
  readonly start: () => Promise<void>;
  /** Stops it and removes its directory. */
  readonly close: () => Promise<void>;
};

const USER = "meshseal";
const PASSWORD = "meshseal-password";

/** What exporter, verify and doctor find in their environment; set here for this process and its children. */
export function setCredentials(): void {
  process.env["AWS_ACCESS_KEY_ID"] = USER;
  process.env["AWS_SECRET_ACCESS_KEY"] = PASSWORD;
  process.env["AWS_EC2_METADATA_DISABLED"] = "true";
}

export async function startS3(name: ServerName): Promise<S3Server> {
  setCredentials();
  const server = await openServer(name, (dir, port) => ({
    command: findServer(name),
    ...commandOf(name, dir, port),
  }));
  const client = await s3Client({ s3Endpoint: server.endpoint, s3PathStyle: true });
  let buckets = 0;
  const start = (): Promise<void> =>
    server.start(async () => (await client.send(new ListBucketsCommand({}))) !== undefined);
  await start();
  return {
    ...server,
    name,
    client,
    newBucket: async () => {
      const bucket = `audit-${++buckets}`;
      await client.send(
        new CreateBucketCommand({ Bucket: bucket, ObjectLockEnabledForBucket: true }),
      );
      return bucket;
    },
    start,
    close: async () => {
      await server.close();
      client.destroy();
    },
  };
}

function commandOf(
  name: ServerName,
  dir: string,
  port: number,
): { args: string[]; env: Record<string, string> } {
  const address = `127.0.0.1:${port}`;
  if (name === "versitygw") {
    // Absolute paths: a relative pair is refused.
    const [data, versions] = [join(dir, "data"), join(dir, "versions")];
    for (const path of [data, versions]) mkdirSync(path, { recursive: true });
    const posix = ["posix", "--versioning-dir", versions, data];
    const env = { ROOT_ACCESS_KEY: USER, ROOT_SECRET_KEY: PASSWORD };
    return { args: ["--quiet", "--port", address, ...posix], env };
  }
  if (name === "minio") {
    const env = { MINIO_ROOT_USER: USER, MINIO_ROOT_PASSWORD: PASSWORD, MINIO_BROWSER: "off" };
    return { args: ["server", "--address", address, "--quiet", join(dir, "data")], env };
  }
  return { args: ["-H", "127.0.0.1", "-p", String(port)], env: {} };
}
