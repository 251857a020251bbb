/**
 * The log's side of c2sp.org/tlog-witness: one checkpoint is shown to all witnesses of a policy at the same time, since a
 * quorum counts on one checkpoint only. What arrives too late, or is short of the quorum, is not lost: `onCosigned` gets it.
 */
import { request } from "undici";
import { parseDecimal } from "../log/checkpoint.ts";
import type { Witness } from "../log/tlog-policy.ts";
import { hasQuorum, type TlogPolicy } from "../log/tlog-policy.ts";
import { type Anchor, AnchorError, type Proof, type Subject } from "./anchor.ts";
import { readBody } from "./http.ts";
import { ADD_CHECKPOINT, formatRequest, readAnswer } from "./witness-protocol.ts";

/** A witness may have seen another checkpoint in between: so often it is asked anew. */
const MAX_TRIES = 3;
const MAX_ANSWER_BYTES = 65_536;

export type WitnessesOptions = Pick<
  Anchor,
  "kind" | "name" | "everyMs" | "timeoutMs" | "keepEveryMs"
> & {
  readonly policy: TlogPolicy;
  /** Gets the cosignature lines for a checkpoint as they arrive, verified. */
  readonly onCosigned: (subject: Subject, lines: readonly string[]) => void;
  readonly onFailed: (witness: string, error: unknown) => void;
};

/** Returns the anchor that is the policy's witnesses together. */
export function witnesses(options: WitnessesOptions): Anchor {
  const { policy, onCosigned, onFailed, ...rest } = options;
  const clients = policy.witnesses
    .filter(({ url }) => url !== undefined)
    .map((witness) => new WitnessClient(witness));
  const submit = async (subject: Subject, signal: AbortSignal): Promise<Proof> => {
    const cosigners = new Set<string>();
    const lines: string[] = [];
    const errors: unknown[] = [];
    await Promise.all(
      clients.map(async (client) => {
        try {
          const made = await client.cosign(subject, signal);
          cosigners.add(client.name);
          lines.push(...made);
          onCosigned(subject, made);
        } catch (error) {
          errors.push(error);
          onFailed(client.name, error);
        }
      }),
    );
    const isEnough = policy.quorum === null ? lines.length > 0 : hasQuorum(policy, cosigners);
    if (isEnough) return { bytes: Buffer.from(lines.join("")), isFinal: true };
    const messages = errors.map((error) =>
      error instanceof Error ? error.message : String(error),
    );
    const isAlarm = errors.some((error) => error instanceof AnchorError && error.isAlarm);
    throw new AnchorError(
      `${cosigners.size} of ${clients.length} cosigned, which is no quorum: ${messages.join("; ")}`,
      isAlarm,
    );
  };
  return { ...rest, suffix: "cosignature", submit };
}

/** Asks one witness. Remembers the size it cosigned last; after a restart the witness says it itself. */
class WitnessClient {
  readonly #witness: Witness;
  #lastSize = 0;

  constructor(witness: Witness) {
    this.#witness = witness;
  }

  get name(): string {
    return this.#witness.name;
  }

  /** Resolves to the verified cosignature lines. Rejects with AnchorError. */
  async cosign(subject: Subject, signal: AbortSignal): Promise<string[]> {
    const { name, url, verifier } = this.#witness;
    const text = subject.note.toString().slice(0, subject.note.indexOf("\n\n") + 1);
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      // What it cosigned last may be more than this subject: then it answers 409, and decides.
      const oldSize = Math.min(this.#lastSize, subject.size);
      const proof = await subject.prove(oldSize);
      const answer = await request(`${url?.replace(/\/+$/, "")}/${ADD_CHECKPOINT}`, {
        method: "POST",
        headers: { "content-type": "text/plain; charset=utf-8" },
        body: formatRequest(oldSize, proof, subject.note),
        signal,
      });
      const body = (await readBody(answer.body, MAX_ANSWER_BYTES)).toString();
      if (answer.statusCode === 200) {
        const lines = readAnswer(body, text, verifier);
        if (lines.length === 0) throw new AnchorError(`${name} answered without its cosignature`);
        this.#lastSize = subject.size;
        return lines;
      }
      const size = answer.statusCode === 409 ? parseDecimal(body.replace(/\n$/, "")) : null;
      if (size === null || size === oldSize) {
        // 409 without another size, and 422: the witness holds another history of this log.
        const isAlarm = answer.statusCode === 409 || answer.statusCode === 422;
        throw new AnchorError(
          `${name} answered ${answer.statusCode}: ${body.slice(0, 200).trim()}`,
          isAlarm,
        );
      }
      if (size > subject.size) {
        throw new AnchorError(
          `${name} has cosigned ${size} entries of this log, and here are ${subject.size}: it was rolled back, or forked`,
          true,
        );
      }
      this.#lastSize = size;
    }
    throw new AnchorError(`${name} changed its mind ${MAX_TRIES} times`);
  }
}
