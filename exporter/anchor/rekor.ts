/**
 * Rekor v2: the checkpoint's digest, signed with a key of this exporter's own, becomes an entry of a public log. Whoever watches that log for
 * the key sees every checkpoint, and so a second history. What comes back is verified before it is kept.
 */
import { createPublicKey, type KeyObject, sign } from "node:crypto";
import { request } from "undici";
import { sha256 } from "../log/merkle.ts";
import type { Verifier } from "../log/note.ts";
import { type Anchor, AnchorError, SUFFIXES, type Target } from "./anchor.ts";
import { readBody } from "./http.ts";
import { formatRekorRequest, MAX_REKOR_BYTES, verifyRekor } from "./rekor-entry.ts";

const ENTRIES = "api/v2/log/entries";

/** `keys` are the log's; with none only the form of its answers is checked. */
export type RekorTarget = Target & { readonly keys: readonly Verifier[] };

/** Returns the anchor. `signer` is a P-256 key: Rekor's hashedrekord takes no plain Ed25519. */
export function rekor({ url, keys, ...rest }: RekorTarget, signer: KeyObject): Anchor {
  const spki = createPublicKey(signer).export({ type: "spki", format: "der" });
  return {
    ...rest,
    kind: "rekor",
    suffix: SUFFIXES.rekor,
    keepEveryMs: 0,
    submit: async ({ note }, signal) => {
      const digest = sha256(note);
      const answer = await request(`${url.replace(/\/+$/, "")}/${ENTRIES}`, {
        method: "POST",
        headers: { "content-type": "application/json", accept: "application/json" },
        body: formatRekorRequest(digest, sign("sha256", note, signer), spki),
        signal,
      });
      const bytes = await readBody(answer.body, MAX_REKOR_BYTES);
      if (answer.statusCode !== 201 && answer.statusCode !== 200) {
        const said = bytes.toString("utf8", 0, 200);
        throw new AnchorError(`it answered ${answer.statusCode}: ${said.trim()}`);
      }
      const verdict = verifyRekor(bytes, digest, keys);
      if (verdict.status === "invalid") throw new AnchorError(`its entry: ${verdict.reason}`);
      if (verdict.status === "untrusted" && keys.length > 0)
        throw new AnchorError(`its entry is in the log ${verdict.origin}, which has another name`);
      return { bytes, isFinal: true };
    },
  };
}
