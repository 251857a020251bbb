/** Time stamps by an authority of RFC 3161, over HTTP (section 3.4). What comes back is verified before it is kept. */
import { randomBytes } from "node:crypto";
import { request } from "undici";
import { sha256 } from "../log/merkle.ts";
import { type Anchor, AnchorError, SUFFIXES, type Target } from "./anchor.ts";
import { readBody } from "./http.ts";
import {
  formatTimestampRequest,
  MAX_RESPONSE_BYTES,
  NONCE_BYTES,
  type TimestampTrust,
  verifyTimestamp,
} from "./timestamp-token.ts";

/** One a minute is kept for good. */
const KEEP_EVERY_MS = 60_000;

/**
 * Returns the anchor that asks the authority `target`. With roots in `trust` its chain must lead to one of them. `onClock` gets by how many
 * milliseconds the authority's clock is ahead of ours: 0 where its time is between question and answer.
 */
export function timestamps(
  target: Target,
  trust: TimestampTrust,
  onClock: (aheadMs: number) => void = () => undefined,
): Anchor {
  return {
    kind: "rfc3161",
    name: target.name,
    suffix: SUFFIXES.rfc3161,
    everyMs: target.everyMs,
    timeoutMs: target.timeoutMs,
    keepEveryMs: KEEP_EVERY_MS,
    submit: async ({ note }, signal) => {
      const digest = sha256(note);
      const nonce = randomBytes(NONCE_BYTES);
      nonce[0] = ((nonce[0] ?? 0) & 0x3f) | 0x40;
      const asked = Date.now();
      const answer = await request(target.url, {
        method: "POST",
        headers: { "content-type": "application/timestamp-query" },
        body: formatTimestampRequest(digest, nonce),
        signal,
      });
      const bytes = await readBody(answer.body, MAX_RESPONSE_BYTES);
      if (answer.statusCode !== 200) throw new AnchorError(`it answered ${answer.statusCode}`);
      const stamp = verifyTimestamp(bytes, digest, trust, nonce);
      if (
        stamp.status === "verified" ||
        (stamp.status === "untrusted" && trust.roots.length === 0)
      ) {
        onClock(offBy(stamp.time, stamp.accuracyMs, asked, Date.now()));
        return { bytes, isFinal: true };
      }
      throw new AnchorError(`its time stamp is no good: ${stamp.reason}`);
    },
  };
}

/** A token has whole seconds, or its accuracy where that is less good. */
function offBy(time: number, accuracyMs: number, from: number, to: number): number {
  const slack = Math.max(1000, accuracyMs);
  if (time < from - slack) return time - from;
  return time > to + slack ? time - to : 0;
}
