/** Real S3 servers with versions and object lock, each in a process and a directory of its own, on loopback. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { CreateBucketCommand, ListBucketsCommand, type S3Client } from "@aws-sdk/client-s3";
import { s3Client } from "../../exporter/store/s3.ts";
import { findServer } from "../../scripts/s3-servers.mjs";

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
const START_MS = 60_000;

/** What exporter, verify and doctor find in their environment; set here for this process and its children. */
export function setCredentials(): void {
  process.env["AWS_ACCESS_KEY_ID"] = USER;
  process.env["AWS_SECRET_ACCESS_KEY"] = PASSWORD;
  process.env["AWS_EC2_METADATA_DISABLED"] = "true";
}

export async function startS3(name: ServerName): Promise<S3Server> {
  setCredentials();
  const binary = findServer(name);
  const dir = mkdtempSync(join(tmpdir(), `meshseal-${name}-`));
  const port = await freePort();
  const endpoint = `http://127.0.0.1:${port}`;
  const client = await s3Client({ endpoint, pathStyle: true });
  let child: ChildProcess | null = null;
  let buckets = 0;

  async function start(): Promise<void> {
    const { args, env } = commandOf(name, dir, port);
    const output: string[] = [];
    const process_ = spawn(binary, args, {
      env: { ...process.env, ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    child = process_;
    for (const stream of [process_.stdout, process_.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => output.push(text));
    }
    const until = Date.now() + START_MS;
    while (process_.exitCode === null && Date.now() < until) {
      const answer = await client.send(new ListBucketsCommand({})).catch(() => null);
      if (answer !== null) return;
      await sleep(100);
    }
    throw new Error(`${name} did not start:\n${output.join("")}`);
  }

  async function kill(): Promise<void> {
    const running = child;
    child = null;
    if (running === null || running.exitCode !== null) return;
    const ended = new Promise((resolve) => running.once("exit", resolve));
    running.kill("SIGKILL");
    await ended;
  }

  await start();
  return {
    name,
    endpoint,
    port,
    client,
    newBucket: async () => {
      const bucket = `audit-${++buckets}`;
      await client.send(
        new CreateBucketCommand({ Bucket: bucket, ObjectLockEnabledForBucket: true }),
      );
      return bucket;
    },
    kill,
    start,
    close: async () => {
      await kill();
      client.destroy();
      rmSync(dir, { recursive: true, force: true });
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

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const at = server.address();
      server.close(() => resolve(typeof at === "object" && at !== null ? at.port : 0));
    });
  });
}
