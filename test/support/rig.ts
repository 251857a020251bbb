/** A log in this process: intake, sequencer, publisher and file store wired as exporter/serve wires them, without HTTP and threads. */
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ANONYMOUS } from "../../exporter/access/identity.ts";
import { openChains } from "../../exporter/intake/chains.ts";
import { Intake } from "../../exporter/intake/intake.ts";
import { Silence } from "../../exporter/intake/silence.ts";
import { loadKey } from "../../exporter/keys.ts";
import { HASH_BYTES } from "../../exporter/log/merkle.ts";
import { Publisher } from "../../exporter/log/publisher.ts";
import { openReceipt, type Receipt } from "../../exporter/log/receipt.ts";
import { Sequencer } from "../../exporter/log/sequencer.ts";
import { TILE_WIDTH, tilePath } from "../../exporter/log/tile.ts";
import { Wal } from "../../exporter/log/wal.ts";
import { fileStore } from "../../exporter/store/file.ts";
import { Scanner } from "../../record/codec.ts";
import { CHAIN_BYTES } from "../../record/fields.ts";

export type Rig = {
  /** Resolves to the receipt, or null where the batch was refused or the log ended. */
  readonly send: (batch: Uint8Array) => Promise<Receipt | null>;
  readonly publish: () => Promise<void>;
  /** A clean stop. */
  readonly close: () => Promise<void>;
  /** Lets go of what a killed process would not hold any more. */
  readonly abandon: () => Promise<void>;
};

/** Recovers the log in `dir` and opens it. A WAL segment is full after `segmentBytes`. `onFatal` is where a process would end. */
export async function openRig(
  dir: string,
  segmentBytes: number,
  onFatal: (error: unknown) => void,
): Promise<Rig> {
  mkdirSync(dir, { recursive: true });
  const { signer, verifier } = loadKey(dir, undefined);
  const store = fileStore(join(dir, "log"), join(dir, "unfinished"));
  const publisher = new Publisher({
    store,
    signer,
    signers: [signer],
    verifiers: [verifier],
    onDiskFull: () => undefined,
  });
  // LMDB's own calls are not node:fs: its directory is not below the planned one.
  const { chains, started } = await openChains(`${dir}.index`);
  started();
  const wal = new Wal(join(dir, "wal"), segmentBytes);
  const log: Sequencer = new Sequencer({
    wal,
    publisher,
    store,
    beforePrune: () => chains.save(log.size, log.whenDurable()),
    onFatal,
  });
  const scanner = new Scanner();
  try {
    await log.recover(chains.size, (entry, leaf, index) => {
      scanner.scan(entry, 0, entry.length);
      const id = entry.toString("hex", scanner.chainAt, scanner.chainAt + CHAIN_BYTES);
      chains.extend(id, scanner.seq, index, 1, leaf);
    });
  } catch (error) {
    await wal.close().catch(() => undefined);
    await chains.close();
    throw error;
  }
  const intake = new Intake({
    log,
    chains,
    signer,
    verifiers: [verifier],
    digestAt: async (index) => {
      if (index >= log.checkpoint.size) await log.publish();
      const tile = Math.floor(index / TILE_WIDTH);
      const width = Math.min(TILE_WIDTH, log.checkpoint.size - tile * TILE_WIDTH);
      const bytes = await store.get(tilePath({ level: 0, index: tile, width }));
      const at = (index % TILE_WIDTH) * HASH_BYTES;
      return bytes?.subarray(at, at + HASH_BYTES) ?? null;
    },
    onBound: () => undefined,
    origins: new Map(),
    onTakenUp: () => undefined,
    silence: new Silence(60_000, Date.now),
    quarantine: () => undefined,
  });
  return {
    send: async (batch) => {
      try {
        const answer = await intake.accept(Buffer.from(batch), ANONYMOUS);
        return "receipt" in answer ? openReceipt(Buffer.from(answer.receipt), verifier) : null;
      } catch {
        return null;
      }
    },
    publish: async () => {
      await log.publish().catch(() => undefined);
    },
    close: async () => {
      await log.close();
      await chains.close();
    },
    abandon: async () => {
      await wal.close().catch(() => undefined);
      await chains.close();
    },
  };
}

/** The checkpoint that a reader sees now, or null. */
export function checkpointIn(dir: string): Buffer | null {
  try {
    return readFileSync(join(dir, "log", "checkpoint"));
  } catch {
    return null;
  }
}
