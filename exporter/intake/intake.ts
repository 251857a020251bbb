/**
 * Takes batches in: checks every entry and every link, decides what is new, and answers with a receipt or a refusal
 * (FORMAT.md section 5). Knows no HTTP.
 */
import { type BatchHeader, parseBatchHeader } from "../../record/batch.ts";
import { DIGEST_BYTES, SENDER_NONE } from "../../record/fields.ts";
import {
  ENTRY_PREFIX_BYTES,
  MAX_BATCH_BYTES,
  REFUSED_BUSY,
  REFUSED_FORBIDDEN,
  REFUSED_FORK,
  REFUSED_HOLE,
  REFUSED_MALFORMED,
  REFUSED_ROLLBACK,
  REFUSED_TOO_LARGE,
} from "../../record/wire.ts";
import type { Sender } from "../access/identity.ts";
import type { Checkpoint } from "../log/checkpoint.ts";
import { parseNote, type Signer, type Verifier } from "../log/note.ts";
import { openReceipt, parseReceipt, type Receipt, signReceipt } from "../log/receipt.ts";
import type { Chain, Chains } from "./chains.ts";
import { checkEntries } from "./check.ts";
import type { Checked } from "./desk.ts";
import { type Origins, openForeignReceipt } from "./origins.ts";
import type { Silence } from "./silence.ts";

/** What the intake needs of the log. */
export type Log = {
  readonly checkpoint: Checkpoint;
  readonly isDiskFull: boolean;
  /** Why no batch can be taken now, if there is something. */
  readonly refusing?: string | null;
  readonly waitingBytes: number;
  readonly append: (
    entries: Buffer,
    leaves: Buffer,
  ) => { firstIndex: number; durable: Promise<void> };
  readonly whenDurable: () => Promise<void>;
};

export type Refusal = {
  readonly refusal: string;
  readonly message: string;
  /** With "hole": the seq that is needed next. */
  readonly want?: number;
};

export type Answer =
  | { readonly receipt: string; readonly added: number; readonly skipped: number }
  | Refusal;

export type IntakeOptions = {
  readonly log: Log;
  readonly chains: Chains;
  readonly signer: Signer;
  /** This log's keys, also those before a rotation. */
  readonly verifiers: readonly Verifier[];
  /** Returns the digest of the leaf at `index`. */
  readonly digestAt: (index: number) => Promise<Uint8Array | null>;
  /** A chain's sender is known from now on: says so in the log. Called in the same turn as the chain's `append`. */
  readonly onBound: (chain: Uint8Array, sender: Sender) => void;
  /** The other logs whose chains are taken up here. */
  readonly origins: Origins;
  /** A chain is taken up with this receipt of another log: says so in the log. Called before the chain's `append`, in the same turn. */
  readonly onTakenUp: (receipt: Uint8Array) => void;
  /** Hears of every batch that is taken: silence.ts. */
  readonly silence: Silence;
  /** Keeps the bytes of a refused batch as evidence. */
  readonly quarantine: (cause: string, batch: Buffer) => void;
};

/** More bytes than this that wait for their fsync, and the sender is asked to wait. */
const MAX_WAITING_BYTES = 64 * 1024 * 1024;

export class Intake {
  readonly #options: IntakeOptions;
  isDraining = false;

  constructor(options: IntakeOptions) {
    this.#options = options;
  }

  /**
   * Answers one batch. `taken` is called once nothing of `batch` is needed any more, which is before its receipt. A recovery
   * brings home what another sender made: whoever asks for one must have been allowed to.
   */
  async accept(
    batch: Buffer,
    sender: Sender,
    isRecovery = false,
    taken: () => void = () => {},
  ): Promise<Answer> {
    const { log, quarantine } = this.#options;
    if (this.isDraining) return refused(REFUSED_BUSY, "this exporter is shutting down");
    if (log.refusing) return refused(REFUSED_BUSY, log.refusing);
    if (log.isDiskFull) return refused(REFUSED_BUSY, "the disk is full");
    if (log.waitingBytes > MAX_WAITING_BYTES) return refused(REFUSED_BUSY, "the disk is behind");
    if (batch.length > MAX_BATCH_BYTES) {
      return refused(REFUSED_TOO_LARGE, `a batch has at most ${MAX_BATCH_BYTES} bytes`);
    }
    const answer = await this.#judge(batch, sender, isRecovery, taken);
    if (
      "refusal" in answer &&
      [REFUSED_MALFORMED, REFUSED_FORK, REFUSED_ROLLBACK].includes(answer.refusal)
    ) {
      quarantine(answer.refusal, batch);
    }
    return answer;
  }

  async #judge(
    batch: Buffer,
    sender: Sender,
    isRecovery: boolean,
    taken: () => void,
  ): Promise<Answer> {
    const { log, chains, signer } = this.#options;
    const header = parseBatchHeader(batch);
    if (header === null) return refused(REFUSED_MALFORMED, "no batch header");
    let checked = checkEntries(batch, header);
    if (typeof checked === "string") return refused(REFUSED_MALFORMED, checked);
    const id = Buffer.from(header.chain).toString("hex");
    const known = chains.get(id);
    const owner = known?.sender ?? "";
    if (owner !== "" && owner !== sender.name && !isRecovery) {
      return refused(REFUSED_FORBIDDEN, `chain ${id} began with another sender`);
    }
    const takenUp = known === undefined && header.firstSeq > 0 ? this.#takeUp(header, id) : null;
    const next = known?.nextSeq ?? takenUp?.nextSeq ?? 0;
    if (header.receipt.length > 0) {
      // Only who claims more than is held is asked for a signature: it takes as long as checking 100 entries.
      const claim = claimOf(header.receipt);
      if (
        claim?.chain === id &&
        claim.nextSeq > next &&
        openReceipt(header.receipt, ...this.#options.verifiers) !== null
      ) {
        const message = `this log receipted the chain up to seq ${claim.nextSeq} and holds it up to ${next}`;
        return refused(REFUSED_ROLLBACK, message);
      }
    }
    if (header.firstSeq > next) {
      return { ...refused(REFUSED_HOLE, `seq ${next} is needed next`), want: next };
    }
    const skipped = Math.min(header.count, next - header.firstSeq);
    if (known !== undefined && skipped > 0) {
      const isSame = await this.#holds(
        id,
        known,
        header.firstSeq + skipped - 1,
        checked,
        skipped - 1,
      );
      // Entries from before it was taken up are in another log: there is nothing here to compare them with.
      if (isSame === null) {
        return { ...refused(REFUSED_HOLE, `seq ${next} is needed next`), want: next };
      }
      if (!isSame) {
        return refused(
          REFUSED_FORK,
          `another entry with seq ${header.firstSeq + skipped - 1} is held`,
        );
      }
      // The lookup may have waited: another batch of this chain may have been taken in meanwhile.
      if (known.nextSeq !== next) return this.#judge(batch, sender, isRecovery, taken);
      // Others were looked at meanwhile.
      checked = checkEntries(batch, header);
      if (typeof checked === "string") return refused(REFUSED_MALFORMED, checked);
    }
    const added = header.count - skipped;
    if (added > 0) {
      const { prevAt } = checked;
      const prev = batch.subarray(prevAt, prevAt + DIGEST_BYTES);
      const before = known?.head ?? (takenUp === null ? null : Buffer.from(takenUp.head, "hex"));
      if (before !== null && skipped === 0 && !before.equals(prev)) {
        return refused(REFUSED_FORK, `seq ${next} does not follow the head that is held`);
      }
      const from = skipped === 0 ? header.entriesAt : checked.endOf(skipped - 1);
      const leaves = checked.digests.subarray(skipped * DIGEST_BYTES);
      if (takenUp !== null) this.#options.onTakenUp(header.receipt);
      const { firstIndex } = log.append(batch.subarray(from), leaves);
      const head = checked.digests.subarray(-DIGEST_BYTES);
      chains.extend(id, header.firstSeq + skipped, firstIndex, added, head);
      if (owner === "" && sender.auth !== SENDER_NONE && !isRecovery) {
        chains.bind(id, sender.name);
        this.#options.onBound(Buffer.from(header.chain), sender);
      }
    }
    const chain = chains.get(id);
    if (chain === undefined) throw new Error("a chain without entries");
    if (!isRecovery) this.#hear(id, batch, header, checked);
    taken();
    const { nextSeq } = chain;
    const newest = chain.head.toString("hex");
    await log.whenDurable();
    const { size, root } = log.checkpoint;
    const receipt = signReceipt(
      {
        origin: signer.name,
        chain: id,
        nextSeq,
        head: newest,
        treeSize: size,
        treeRoot: root,
      },
      signer,
    );
    return { receipt, added, skipped };
  }

  #hear(
    id: string,
    batch: Buffer,
    { firstSeq, entriesAt, count }: BatchHeader,
    { endOf }: Checked,
  ): void {
    const entryAt = (i: number): Buffer => {
      const from = (i === 0 ? entriesAt : endOf(i - 1)) + ENTRY_PREFIX_BYTES;
      return batch.subarray(from, endOf(i));
    };
    // The kind is the first field of an entry, in one byte behind its tag.
    const kindAt = (i: number): number => (i < 0 ? 0 : (entryAt(i)[1] ?? 0));
    const first = firstSeq === 0 ? entryAt(0) : null;
    this.#options.silence.heard(id, first, [kindAt(count - 2), kindAt(count - 1)]);
  }

  /** Returns the receipt of another log with which a chain that is not held here goes on at the batch's first seq, or null. */
  #takeUp({ receipt, firstSeq }: BatchHeader, id: string): Receipt | null {
    if (receipt.length === 0) return null;
    const foreign = openForeignReceipt(receipt, this.#options.origins);
    return foreign?.chain === id && foreign.nextSeq === firstSeq ? foreign : null;
  }

  /**
   * Tells if the chain holds the entry with `seq` as it is in the batch. Then it holds the ones before it in the
   * batch too: each carries the digest of its predecessor. Null if the chain is held from a later seq on only.
   */
  async #holds(
    id: string,
    chain: Chain,
    seq: number,
    checked: Checked,
    at: number,
  ): Promise<boolean | null> {
    const digest = Buffer.from(
      checked.digests.subarray(at * DIGEST_BYTES, (at + 1) * DIGEST_BYTES),
    );
    if (seq === chain.nextSeq - 1) return chain.head.equals(digest);
    await this.#options.log.whenDurable();
    const index = this.#options.chains.indexOf(id, seq);
    if (index < 0) return null;
    const held = await this.#options.digestAt(index);
    // Not a fork: nothing was compared. The sender tries again.
    if (held === null) throw new Error(`leaf ${index} of the log cannot be read: run verify`);
    return digest.equals(held);
  }
}

/** Returns what a receipt claims, unverified, or null if it is none. */
function claimOf(bytes: Uint8Array): Receipt | null {
  const note = parseNote(bytes);
  return note === null ? null : parseReceipt(note.text);
}

function refused(refusal: string, message: string): Refusal {
  return { refusal, message };
}
