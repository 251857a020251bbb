/**
 * What an anchor is: an outsider who is shown a checkpoint and gives a proof that it existed. No data of any entry leaves.
 *
 * Each kind has two files: one that talks to the outsider (this type), and a pure one that verifies its proofs offline,
 * which `verify` uses too. A proof is a file beside the log (proofs.ts), in the format that the kind's own tools read.
 */

/** What is anchored: the checkpoint as the log alone signed it. The signature is anchored with the root, and so is the key. */
export type Subject = {
  readonly size: number;
  readonly root: Uint8Array;
  /** The signed note, with no line but the log's own. */
  readonly note: Buffer;
  /** Returns the consistency proof from a smaller size. */
  readonly prove: (oldSize: number) => Promise<Uint8Array[]>;
};

export type Proof = {
  readonly bytes: Buffer;
  /** False where a later `poll` can make more of it. */
  readonly isFinal: boolean;
};

export type Anchor = {
  readonly kind: "witness" | "rfc3161" | "opentimestamps" | "rekor" | "git" | "put" | "peer";
  /** Unique, and part of file names: NAME_PATTERN. */
  readonly name: string;
  /** Ending of its proofs' names. */
  readonly suffix: string;
  /** Anchors when the log has grown, this often. */
  readonly everyMs: number;
  /** For one `submit` or `poll`. */
  readonly timeoutMs: number;
  /** Proofs that come sooner after the last one kept are not kept: they would only fill the disk. */
  readonly keepEveryMs: number;
  /** Shows the checkpoint to the outsider. Rejects with AnchorError or any other error; it is then tried again with a newer one. */
  readonly submit: (subject: Subject, signal: AbortSignal) => Promise<Proof>;
  /** Makes more of a proof that is not final. Resolves to null where there is nothing new. */
  readonly poll?: (note: Buffer, proof: Buffer, signal: AbortSignal) => Promise<Proof | null>;
};

/** An outsider at a URL, and how often it is asked. */
export type Target = Pick<Anchor, "name" | "everyMs" | "timeoutMs"> & { readonly url: string };

export const NAME_PATTERN: RegExp = /^[a-z0-9][a-z0-9-]{0,62}$/;

/** The name of the replicas together. They are no outsiders: nobody else has it. */
export const PEERS = "peers";

/** Endings of proofs' names, by kind. */
export const SUFFIXES = {
  witness: "cosignature",
  peer: "cosignature",
  rfc3161: "tsr",
  opentimestamps: "ots",
  rekor: "rekor",
  git: "git",
  put: "put",
} as const;

/** An outsider that answers, and not as it should. `isAlarm` where that may mean that the log has been changed. */
export class AnchorError extends Error {
  override name = "AnchorError";
  readonly isAlarm: boolean;

  constructor(message: string, isAlarm = false) {
    super(message);
    this.isAlarm = isAlarm;
  }
}
