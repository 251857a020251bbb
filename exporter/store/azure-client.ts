/**
 * Microsoft's client of an Azure storage account. Credentials: AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, else Azure's usual chain
 * (environment, workload identity, managed identity, command line). Nothing is tried twice.
 */
import type { BlobServiceClient } from "@azure/storage-blob";
import { codeOf, MeshsealError } from "../errors.ts";
import { ServiceError } from "./service.ts";

/** A staged object may be some MiB. */
const REQUEST_MS = 30_000;

/** Returns a client of the account at `endpoint`, or of AZURE_STORAGE_ACCOUNT. Throws MeshsealError if there is neither. */
export async function azureClient(endpoint: string | undefined): Promise<BlobServiceClient> {
  const { AZURE_STORAGE_ACCOUNT, AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN } = process.env;
  if (endpoint === undefined && AZURE_STORAGE_ACCOUNT === undefined) {
    throw new MeshsealError(
      "az:// needs the storage account: give --azure-endpoint https://ACCOUNT.blob.core.windows.net, or set AZURE_STORAGE_ACCOUNT.",
    );
  }
  const url = endpoint ?? `https://${AZURE_STORAGE_ACCOUNT}.blob.core.windows.net`;
  const { BlobServiceClient, StorageSharedKeyCredential } = await import(
    "@azure/storage-blob"
  ).catch(explain);
  const options = { retryOptions: { maxTries: 1 } };
  if (AZURE_STORAGE_KEY !== undefined) {
    const account = AZURE_STORAGE_ACCOUNT ?? accountOf(url);
    const credential = new StorageSharedKeyCredential(account, AZURE_STORAGE_KEY);
    return new BlobServiceClient(url, credential, options);
  }
  if (AZURE_STORAGE_SAS_TOKEN !== undefined) {
    return new BlobServiceClient(`${url}?${AZURE_STORAGE_SAS_TOKEN}`, undefined, options);
  }
  const { DefaultAzureCredential } = await import("@azure/identity").catch(explain);
  return new BlobServiceClient(url, new DefaultAzureCredential(), options);
}

/** They are three quarters as large as everything else together, so who has no container need not have them (RATIONALE.md). */
function explain(error: unknown): never {
  if (codeOf(error) !== "ERR_MODULE_NOT_FOUND") throw error;
  throw new MeshsealError(
    "az:// needs two packages more: npm install @azure/storage-blob@12.32.0 @azure/identity@4.13.1",
  );
}

/** The account in `https://ACCOUNT.blob...`, or behind an address as test servers have it. */
function accountOf(url: string): string {
  const { hostname, pathname } = new URL(url);
  const [, first = ""] = pathname.split("/");
  return first === "" ? (hostname.split(".")[0] ?? "") : first;
}

/** What the SDK threw as a ServiceError; anything else as it is. */
function azureError(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { code, statusCode, details } = error as Thrown;
  const message = error.message.split("\n")[0] ?? "";
  if (/^(CredentialUnavailable|AggregateAuthentication|Authentication)/.test(error.name)) {
    return new ServiceError(error.name, message, 401);
  }
  if (error.name !== "RestError") return error;
  const name = details?.errorCode ?? code ?? `HTTP ${statusCode}`;
  return new ServiceError(name, message, statusCode ?? 0);
}

type Thrown = {
  readonly code?: string;
  readonly statusCode?: number;
  readonly details?: { readonly errorCode?: string };
};

/** Rejects with a ServiceError where the SDK rejects with an answer or without one. */
export async function asked<T>(call: Promise<T>): Promise<T> {
  return await call.catch((error: unknown) => {
    throw azureError(error);
  });
}

/** Options of each request: its time limit, from its start to its last byte. */
export function inTime(): { abortSignal: AbortSignal } {
  return { abortSignal: AbortSignal.timeout(REQUEST_MS) };
}
