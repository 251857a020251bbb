/**
 * OpenTimestamps: calendars gather digests into one Bitcoin transaction. A calendar's first answer is a promise only; it becomes a proof
 * when its block is there, an hour or more later, and is asked for until then.
 */
import { randomBytes } from "node:crypto";
import { request } from "undici";
import { sha256 } from "../log/merkle.ts";
import { type Anchor, AnchorError, type Proof, SUFFIXES } from "./anchor.ts";
import { readBody } from "./http.ts";
import {
  addOp,
  attestationsOf,
  emptyNode,
  formatOts,
  MAX_CALENDAR_BYTES,
  mergeInto,
  type OtsNode,
  parseCalendarAnswer,
  parseOts,
} from "./ots.ts";

const ACCEPT = { accept: "application/vnd.opentimestamps.v1" } as const;
const NONCE_BYTES = 16;

export type CalendarsOptions = Pick<Anchor, "name" | "everyMs" | "timeoutMs"> & {
  readonly calendars: readonly string[];
  /** Calendars that a promise may name: a pool hands on to others. No other URL is ever asked. */
  readonly upgradeFrom: readonly string[];
  /** Calendars that must have answered. */
  readonly minimum: number;
};

export function openTimestamps(options: CalendarsOptions): Anchor {
  const { calendars, upgradeFrom, minimum, ...rest } = options;
  const known = [...calendars, ...upgradeFrom].map((url) => url.replace(/\/+$/, ""));
  return {
    ...rest,
    kind: "opentimestamps",
    suffix: SUFFIXES.opentimestamps,
    keepEveryMs: 0,
    submit: async ({ note }, signal) => {
      const digest = sha256(note);
      const root = emptyNode();
      // The calendar sees neither the checkpoint's digest nor, from one digest, another.
      const nonce = randomBytes(NONCE_BYTES);
      const asked = addOp(addOp(root, "append", nonce), "sha256");
      const message = Buffer.from(sha256(Buffer.concat([digest, nonce])));
      const answers = await Promise.allSettled(
        calendars.map((url) => ask(`${url.replace(/\/+$/, "")}/digest`, message, message, signal)),
      );
      const failed: string[] = [];
      for (const answer of answers) {
        if (answer.status === "fulfilled" && answer.value !== null) mergeInto(asked, answer.value);
        else failed.push(answer.status === "rejected" ? String(answer.reason) : "no answer");
      }
      if (answers.length - failed.length < minimum) {
        throw new AnchorError(`${failed.length} calendars failed: ${failed.join("; ")}`);
      }
      return proofOf(digest, root);
    },
    poll: async (note, proof, signal) => {
      const digest = sha256(note);
      const root = parseOts(proof, digest);
      let isChanged = false;
      for (const found of attestationsOf(root, digest)) {
        if (found.kind !== "pending" || !known.includes(found.uri.replace(/\/+$/, ""))) continue;
        const url = `${found.uri.replace(/\/+$/, "")}/timestamp/${found.message.toString("hex")}`;
        // One calendar that is away holds up no other.
        const answer = await ask(url, found.message, null, signal).catch(() => null);
        if (answer === null) continue;
        mergeInto(found.node, answer);
        isChanged = true;
      }
      if (!isChanged) return null;
      const made = proofOf(digest, root);
      return made.bytes.equals(proof) ? null : made;
    },
  };
}

function proofOf(digest: Uint8Array, root: OtsNode): Proof {
  const isFinal = attestationsOf(root, digest).some(({ kind }) => kind === "bitcoin");
  return { bytes: formatOts(digest, root), isFinal };
}

/** Resolves to what a calendar says about `message`, or null with 404. With `body` it is asked to take it up. */
async function ask(
  url: string,
  message: Buffer,
  body: Buffer | null,
  signal: AbortSignal,
): Promise<OtsNode | null> {
  const answer = await request(url, {
    method: body === null ? "GET" : "POST",
    headers: ACCEPT,
    body,
    signal,
  });
  const bytes = await readBody(answer.body, MAX_CALENDAR_BYTES);
  if (answer.statusCode === 404 && body === null) return null;
  if (answer.statusCode !== 200) throw new AnchorError(`${url} answered ${answer.statusCode}`);
  return parseCalendarAnswer(bytes, message);
}
