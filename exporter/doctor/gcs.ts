/** What doctor tries against a bucket of Google Cloud Storage, beyond what every bucket can (bucket.ts). */
import { gcsBucket, pathOf } from "../store/gcs.ts";
import { type GcsApi, gcsApi } from "../store/gcs-api.ts";
import type { Where } from "../store/settings.ts";
import type { Check } from "./check.ts";
import { type Attempt, answerOf, lockedByItself, softDelete, type Trial } from "./trial.ts";

const DAY_SECONDS = 86_400;

/** Of a bucket: https://cloud.google.com/storage/docs/json_api/v1/buckets. */
type GcsBucketState = {
  readonly versioning?: { readonly enabled?: boolean };
  readonly objectRetention?: { readonly mode?: string };
  readonly retentionPolicy?: { readonly retentionPeriod?: string };
  readonly defaultEventBasedHold?: boolean;
  readonly softDeletePolicy?: { readonly retentionDurationSeconds?: string };
};

export async function gcsTrial({ place, reach }: Where): Promise<Trial> {
  const api = await gcsApi(place.bucket, reach.gcsEndpoint);
  return { bucket: gcsBucket(api), attempts: attempts(api), whole: wholeChecks(api) };
}

function attempts(api: GcsApi): Attempt[] {
  const retain =
    (retention: (until: Date) => object | null): Attempt["run"] =>
    ({ key, version: generation, until }) => {
      // The right to override is asked for each time: of a Locked retention it must change nothing.
      const query = { generation, overrideUnlockedRetention: "true" };
      const json = { retention: retention(until) };
      return api({ method: "PATCH", path: pathOf(key), query, json });
    };
  const remove: Attempt["run"] = ({ key, version: generation }) =>
    api({ method: "DELETE", path: pathOf(key), query: { generation } });
  return [
    {
      name: "a retention cannot be shortened",
      run: retain(() => ({
        mode: "Locked",
        retainUntilTime: new Date(Date.now() + 60_000).toISOString(),
      })),
    },
    {
      name: "Locked cannot become Unlocked",
      run: retain((until) => ({ mode: "Unlocked", retainUntilTime: until.toISOString() })),
    },
    { name: "a retention cannot be removed", run: retain(() => null) },
    {
      // https://cloud.google.com/storage/docs/json_api/v1/objects/move
      name: "a locked file cannot be moved away",
      run: ({ key }) => {
        const path = `${pathOf(key)}/moveTo${pathOf(`${key}-moved`)}`;
        return api({ method: "POST", path });
      },
    },
    {
      name: "a locked version that is live cannot be deleted",
      run: remove,
    },
    {
      name: "writing over a locked file leaves its version",
      run: ({ key: name }) => {
        const query = { uploadType: "multipart", name };
        return api({ method: "POST", path: "/o", query, json: {}, upload: Buffer.from("other") });
      },
    },
    {
      name: "deleting a locked file leaves its version",
      run: ({ key }) => api({ method: "DELETE", path: pathOf(key) }),
    },
    { name: "a locked version cannot be deleted", run: remove },
  ];
}

function wholeChecks(api: GcsApi): Check[] {
  const state = async (): Promise<GcsBucketState> =>
    JSON.parse((await api({ path: "" })).bytes.toString()) as GcsBucketState;
  return [
    {
      name: "the bucket keeps versions and has object retention",
      run: async () => {
        const { versioning, objectRetention } = await state();
        const versions = versioning?.enabled === true;
        const retention = objectRetention?.mode === "Enabled";
        return versions && retention
          ? { status: "good", message: "both are enabled" }
          : {
              status: "bad",
              message: `versioning: ${versions ? "enabled" : "off"}; object retention: ${retention ? "enabled" : "off"}`,
            };
      },
    },
    {
      name: "the bucket locks nothing by itself",
      run: async () => {
        const { retentionPolicy, defaultEventBasedHold } = await state();
        const seconds = Number(retentionPolicy?.retentionPeriod ?? 0);
        const found = [
          ...(seconds > 0 ? [`a retention policy of ${seconds / DAY_SECONDS} days`] : []),
          ...(defaultEventBasedHold === true ? ["a default event-based hold"] : []),
        ];
        return lockedByItself(found);
      },
    },
    {
      name: "what is removed is not kept for long",
      run: async () => {
        const { softDeletePolicy } = await state();
        return softDelete(Number(softDeletePolicy?.retentionDurationSeconds ?? 0) / DAY_SECONDS);
      },
    },
    {
      name: "versioning cannot be suspended",
      run: async () => {
        const isOn = async (): Promise<boolean> => (await state()).versioning?.enabled === true;
        const set = (enabled: boolean): Promise<unknown> =>
          api({ method: "PATCH", path: "", json: { versioning: { enabled } } });
        if (!(await isOn())) return { status: "bad", message: "it is off" };
        const answer = await answerOf(() => set(false));
        if (await isOn()) return { status: "good", message: `${answer}; versioning is enabled` };
        await set(true);
        return {
          status: "bad",
          message: `${answer}; versioning was off (it is enabled again): take storage.buckets.update from these credentials`,
        };
      },
    },
  ];
}
