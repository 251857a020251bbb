/**
 * Any server that takes an HTTP PUT: the checkpoint is written there under its size. What it proves is only what that server promises: the
 * bytes of a write-once bucket or of a repository that others pull from are evidence, a disk of the same operator is none.
 */
import { request } from "undici";
import { type Anchor, AnchorError, SUFFIXES, type Target } from "./anchor.ts";
import { readBody } from "./http.ts";

const KEEP_EVERY_MS = 60_000;
const MAX_ANSWER_BYTES = 65_536;

export type PutTarget = Target & { readonly headers: Readonly<Record<string, string>> };

/** Returns the anchor. `{size}` in the URL becomes the size, in 20 digits so that names sort. */
export function httpPut({ url, headers, ...rest }: PutTarget): Anchor {
  return {
    ...rest,
    kind: "put",
    suffix: SUFFIXES.put,
    keepEveryMs: KEEP_EVERY_MS,
    submit: async ({ size, note }, signal) => {
      const at = url.replaceAll("{size}", String(size).padStart(20, "0"));
      const answer = await request(at, {
        method: "PUT",
        headers: { "content-type": "text/plain; charset=utf-8", "if-none-match": "*", ...headers },
        body: note,
        signal,
      });
      await readBody(answer.body, MAX_ANSWER_BYTES);
      const { statusCode } = answer;
      // 412: an attempt before this one got through, and its answer did not.
      if ((statusCode >= 200 && statusCode < 300) || statusCode === 412) {
        const { etag, date } = answer.headers;
        const proof = { url: at, status: statusCode, etag, date };
        return { bytes: Buffer.from(`${JSON.stringify(proof)}\n`), isFinal: true };
      }
      throw new AnchorError(`it answered ${statusCode}`);
    },
  };
}
