/** Real servers that speak the protocols of Google Cloud Storage and of Azure Blob Storage, on loopback. */

import { azureClient } from "../../exporter/store/azure-client.ts";
import { findServer } from "../../scripts/store-servers.mjs";
import { openServer, type ServerCommand } from "./store-server.ts";

export type CloudName = "fake-gcs-server" | "azurite";

export type CloudServer = {
  readonly port: number;
  /** Makes a bucket, with versions where the server has them, and returns its `--store`. */
  readonly newStore: () => Promise<string>;
  /** The flags with which it is found at `endpoint`: the server's own, or a proxy's in front of it. */
  readonly flagsAt: (endpoint: string) => { gcsEndpoint: string } | { azureEndpoint: string };
  /** Deletes an object as its newest version: it stays as an older one where there are versions. */
  readonly hide: (store: string, key: string) => Promise<void>;
  readonly endpoint: string;
  readonly close: () => Promise<void>;
};

/** Azurite's account, which everybody knows: https://github.com/Azure/Azurite#default-storage-account */
const ACCOUNT = "devstoreaccount1";
const KEY =
  "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/** What exporter, verify and doctor find in their environment; set here for this process and its children. */
export function setAzureKey(): void {
  process.env["AZURE_STORAGE_ACCOUNT"] = ACCOUNT;
  process.env["AZURE_STORAGE_KEY"] = KEY;
}

export async function startCloud(name: CloudName): Promise<CloudServer> {
  setAzureKey();
  const server = await openServer(name, (dir, port) => commandOf(name, dir, port));
  let stores = 0;
  if (name === "azurite") {
    const flagsAt = (endpoint: string): { azureEndpoint: string } => ({
      azureEndpoint: `${endpoint}/${ACCOUNT}`,
    });
    const client = await azureClient(flagsAt(server.endpoint).azureEndpoint);
    await server.start(async () => (await client.getProperties()) !== undefined);
    const newStore = async (): Promise<string> => {
      const container = `audit-${++stores}`;
      await client.createContainer(container);
      return `az://${container}/mesh`;
    };
    const hide = async (store: string, key: string): Promise<void> => {
      await client.getContainerClient(new URL(store).host).deleteBlob(key);
    };
    return { ...server, newStore, flagsAt, hide };
  }
  const buckets = `${server.endpoint}/storage/v1/b?project=p`;
  await server.start(async () => (await fetch(buckets)).ok);
  return {
    ...server,
    newStore: async () => {
      const bucket = `audit-${++stores}`;
      const body = JSON.stringify({ name: bucket, versioning: { enabled: true } });
      const headers = { "content-type": "application/json" };
      const answer = await fetch(buckets, { method: "POST", headers, body });
      if (!answer.ok) throw new Error(`${bucket}: ${answer.status} ${await answer.text()}`);
      return `gs://${bucket}/mesh`;
    },
    flagsAt: (gcsEndpoint) => ({ gcsEndpoint }),
    hide: async (store, key) => {
      const object = `/storage/v1/b/${new URL(store).host}/o/${encodeURIComponent(key)}`;
      const { ok } = await fetch(`${server.endpoint}${object}`, { method: "DELETE" });
      if (!ok) throw new Error(`${key} could not be deleted`);
    },
  };
}

function commandOf(name: CloudName, dir: string, port: number): ServerCommand {
  const found = findServer(name);
  if (name === "azurite") {
    const at = ["--blobHost", "127.0.0.1", "--blobPort", String(port), "--location", dir];
    const quiet = ["--silent", "--disableTelemetry", "--skipApiVersionCheck"];
    return { command: process.execPath, args: [found, ...at, ...quiet] };
  }
  // Its other store, on disk, keeps no versions.
  const at = ["-scheme", "http", "-host", "127.0.0.1", "-port", String(port)];
  return { command: found, args: [...at, "-backend", "memory", "-log-level", "warn"] };
}
