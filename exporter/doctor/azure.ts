/** What doctor tries against a container of Azure Blob Storage, beyond what every bucket can (bucket.ts). */
import { randomBytes } from "node:crypto";
import type { BlobClient, ContainerClient } from "@azure/storage-blob";
import { azureBucket } from "../store/azure.ts";
import { asked, azureClient } from "../store/azure-client.ts";
import type { Where } from "../store/settings.ts";
import type { Check } from "./check.ts";
import {
  type Attempt,
  answerOf,
  lockedByItself,
  type Probe,
  softDelete,
  type Trial,
} from "./trial.ts";

export async function azureTrial({ place, reach }: Where): Promise<Trial> {
  const client = await azureClient(reach.azureEndpoint);
  const container = client.getContainerClient(place.bucket);
  return {
    bucket: azureBucket(container),
    attempts: attempts(container),
    whole: [
      ...wholeChecks(container, place.prefix),
      {
        name: "what is removed is not kept for long",
        run: async () => {
          const { deleteRetentionPolicy: policy } = await asked(client.getProperties());
          return softDelete(policy?.enabled === true ? (policy.days ?? 1) : 0);
        },
      },
    ],
  };
}

function attempts(container: ContainerClient): Attempt[] {
  const current = ({ key }: Probe): BlobClient => container.getBlobClient(key);
  const version = (probe: Probe): BlobClient => current(probe).withVersion(probe.version);
  return [
    {
      name: "an immutability policy cannot be shortened",
      run: (probe) => {
        const expiriesOn = new Date(Date.now() + 60_000);
        return asked(version(probe).setImmutabilityPolicy({ expiriesOn, policyMode: "Locked" }));
      },
    },
    {
      name: "Locked cannot become Unlocked",
      run: (probe) => {
        const policy = { expiriesOn: probe.until, policyMode: "Unlocked" as const };
        return asked(version(probe).setImmutabilityPolicy(policy));
      },
    },
    {
      name: "an immutability policy cannot be removed",
      run: (probe) => asked(version(probe).deleteImmutabilityPolicy()),
    },
    {
      name: "writing over a locked file leaves its version",
      run: ({ key }) => asked(container.getBlockBlobClient(key).upload("other", 5)),
    },
    {
      name: "deleting a locked file, with its snapshots, leaves its version",
      run: (probe) => asked(current(probe).delete({ deleteSnapshots: "include" })),
    },
    {
      name: "a locked version cannot be deleted",
      run: (probe) => asked(version(probe).delete()),
    },
  ];
}

function wholeChecks(container: ContainerClient, prefix: string): Check[] {
  const newBlob = async (): Promise<BlobClient> => {
    const name = `${prefix}doctor/${randomBytes(6).toString("hex")}`;
    const blob = container.getBlockBlobClient(name);
    await asked(blob.upload("meshseal doctor\n", 16));
    return blob;
  };
  return [
    {
      name: "the container has version-level immutability",
      run: async () => {
        const found = await asked(container.getProperties());
        return found.isImmutableStorageWithVersioningEnabled === true
          ? { status: "good", message: "it is enabled" }
          : { status: "bad", message: "it is not: no version can be locked" };
      },
    },
    {
      name: "the container locks nothing by itself",
      run: async () => {
        const { hasImmutabilityPolicy, hasLegalHold } = await asked(container.getProperties());
        const { immutabilityPolicyExpiresOn: until } = await asked(
          (await newBlob()).getProperties(),
        );
        const found = [
          ...(hasLegalHold === true ? ["a legal hold of the container"] : []),
          ...(until !== undefined ? ["a default policy"] : []),
          ...(hasImmutabilityPolicy === true && until === undefined
            ? ["an immutability policy of the container"]
            : []),
        ];
        return lockedByItself(found);
      },
    },
    {
      name: "a file cannot be sent to the archive",
      run: async () => {
        const blob = await newBlob();
        const answer = await answerOf(() => asked(blob.setAccessTier("Archive")));
        const { accessTier } = await asked(blob.getProperties());
        await asked(blob.delete()).catch(() => undefined);
        return accessTier === "Archive"
          ? {
              status: "warning",
              message: `${answer}: these credentials can make files unreadable for hours, though not change them`,
            }
          : { status: "good", message: answer };
      },
    },
  ];
}
