/** What a start reads again from the WAL: entries above the index make chains and their senders what they were. */
import { bytesOf, decodeEntry, Scanner } from "../record/codec.ts";
import { CHAIN_BYTES, F_SENDER_CHAIN, F_SENDER_NAME, KIND_SENDER } from "../record/fields.ts";
import { MeshsealError } from "./errors.ts";
import type { Chains } from "./intake/chains.ts";
import type { Sequencer } from "./log/sequencer.ts";

/** Recovers log and chains; entries below `minimum` were pruned. Throws a MeshsealError that says what is wrong with the log. */
export async function recover(log: Sequencer, chains: Chains, minimum = 0): Promise<void> {
  const scanner = new Scanner();
  try {
    await log.recover(Math.max(chains.size, minimum), (entry, leaf, index) => {
      scanner.scan(entry, 0, entry.length);
      const id = entry.toString("hex", scanner.chainAt, scanner.chainAt + CHAIN_BYTES);
      chains.extend(id, scanner.seq, index, 1, leaf);
      if (scanner.kind === KIND_SENDER) bindAgain(chains, entry);
    });
  } catch (error) {
    throw new MeshsealError(error instanceof Error ? error.message : String(error));
  }
}

function bindAgain(chains: Chains, bytes: Buffer): void {
  const entry = decodeEntry(bytes);
  const chain = entry && bytesOf(entry, F_SENDER_CHAIN);
  const name = entry && bytesOf(entry, F_SENDER_NAME);
  if (chain && name) chains.bind(Buffer.from(chain).toString("hex"), Buffer.from(name).toString());
}
