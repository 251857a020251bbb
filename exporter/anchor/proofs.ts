/**
 * The proofs, as files beside the log, a directory a day (UTC):
 *
 *     <data>/anchors/2026-11-25/1234.checkpoint             what was anchored: the checkpoint of size 1234, byte for byte
 *     <data>/anchors/2026-11-25/1234.freetsa.tsr            the proof by the anchor named freetsa
 *     <data>/anchors/2026-11-25/1234.bitcoin.ots.pending    a proof that more can be made of
 *     <data>/anchors/checkpoint                             the newest checkpoint with all its cosignatures
 *
 * They are also the queue: what is pending after a restart is polled again. A file appears whole and fsynced, or not at all.
 */
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { codeOf } from "../errors.ts";
import { syncDir } from "../store/file.ts";

/** One proof's file name, taken apart. */
export type ProofName = {
  readonly day: string;
  readonly size: number;
  readonly name: string;
  readonly suffix: string;
  readonly isPending: boolean;
};

const DAY = /^\d{4}-\d{2}-\d{2}$/;
const PROOF = /^(0|[1-9]\d{0,15})\.([a-z0-9][a-z0-9-]{0,62})\.([a-z0-9]{1,16})(\.pending)?$/;
/** Files that one day's directory can hold, at most: an anchor a second. */
export const MAX_FILES = 200_000;

/** Returns the parts of a proof's file name, or null. */
export function parseProofName(day: string, file: string): ProofName | null {
  const [, size, name, suffix, pending] = PROOF.exec(file) ?? [];
  if (size === undefined || name === undefined || suffix === undefined || !DAY.test(day))
    return null;
  if (!Number.isSafeInteger(Number(size))) return null;
  return { day, size: Number(size), name, suffix, isPending: pending !== undefined };
}

export function isDay(name: string): boolean {
  return DAY.test(name);
}

export class Proofs {
  readonly dir: string;
  readonly #onFinal: (path: string, bytes: Buffer) => void;

  /** `onFinal` gets what does not change any more, once it is kept. */
  constructor(dir: string, onFinal: (path: string, bytes: Buffer) => void = () => undefined) {
    this.dir = dir;
    this.#onFinal = onFinal;
    mkdirSync(dir, { recursive: true });
  }

  /** Writes what is anchored, once. */
  keepCheckpoint(day: string, size: number, note: Buffer): void {
    this.#write(join(day, `${size}.checkpoint`), note);
    this.#onFinal(`${day}/${size}.checkpoint`, note);
  }

  /** Writes a proof; a final one takes the place of the pending one. */
  keep(proof: ProofName, bytes: Buffer): void {
    this.#write(pathOf(proof), bytes);
    if (proof.isPending) return;
    rmSync(join(this.dir, pathOf({ ...proof, isPending: true })), { force: true });
    this.#onFinal(pathOf(proof), bytes);
  }

  /** Writes the newest checkpoint with cosignatures. */
  keepCosigned(note: Buffer): void {
    this.#write("checkpoint", note);
  }

  read(proof: ProofName): Promise<Buffer> {
    return readFile(join(this.dir, pathOf(proof)));
  }

  /** Resolves to when a proof was written, Unix milliseconds. */
  async keptAt(proof: ProofName): Promise<number> {
    return Math.floor((await stat(join(this.dir, pathOf(proof)))).mtimeMs);
  }

  readCheckpoint({ day, size }: ProofName): Promise<Buffer> {
    return readFile(join(this.dir, day, `${size}.checkpoint`));
  }

  /** Returns all proofs of the newest `days`, newest day first. */
  async list(days: number): Promise<ProofName[]> {
    const found = (await readdir(this.dir)).filter(isDay).sort().reverse().slice(0, days);
    const proofs: ProofName[] = [];
    for (const day of found) {
      for (const file of await readdir(join(this.dir, day))) {
        const proof = parseProofName(day, file);
        if (proof !== null) proofs.push(proof);
      }
    }
    return proofs;
  }

  #write(path: string, bytes: Buffer): void {
    const target = join(this.dir, path);
    try {
      mkdirSync(dirname(target));
      syncDir(this.dir);
    } catch (error) {
      if (codeOf(error) !== "EEXIST") throw error;
    }
    const draft = join(this.dir, "unfinished");
    const file = openSync(draft, "w", 0o444);
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(draft, target);
    syncDir(dirname(target));
  }
}

/** Returns the day that a Unix time in milliseconds falls into. */
export function dayOf(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10);
}

/** Returns a proof's path below the directory. */
export function pathOf({ day, size, name, suffix, isPending }: ProofName): string {
  return `${day}/${size}.${name}.${suffix}${isPending ? ".pending" : ""}`;
}
