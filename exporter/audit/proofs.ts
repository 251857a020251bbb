/** Where verify reads proofs by outsiders from: the `anchors` directory beside a log, or the same over HTTP. All of it may be forged. */
import { lstat, open, readdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { isDay, MAX_FILES, type ProofName, parseProofName, pathOf } from "../anchor/proofs.ts";
import { codeOf } from "../errors.ts";
import { readLimited } from "../limited.ts";
import { MAX_NOTE_BYTES } from "../log/note.ts";
import { type BucketView, oldestFirst } from "./bucket-source.ts";
import { Unreachable } from "./unreachable.ts";

/** A proof at most, in bytes. */
export const MAX_PROOF_BYTES = 262_144;
const MAX_LIST_BYTES = 16 * 1024 * 1024;
/** Days at most: a century. */
const MAX_DAYS = 36_525;
const TIMEOUT_MS = 15_000;
const READS_AHEAD = 32;

export type ProofSource = {
  /** Returns all proofs, oldest day first. Asked for before the log's checkpoint is read: what comes later is not in it. */
  readonly list: () => Promise<ProofName[]>;
  /** Returns a file below the directory, or null where there is none or it is longer than `limit`. */
  readonly read: (path: string, limit: number) => Promise<Buffer | null>;
};

/** Returns the proofs beside the log at `where`, or null where there are none. */
export async function openProofs(where: string): Promise<ProofSource | null> {
  if (/^https?:\/\//.test(where)) {
    const url = where.replace(/\/+$/, "");
    return overHttp(`${url.endsWith("/log") ? url.slice(0, -"/log".length) : url}/anchors`);
  }
  const isLog = basename(where) === "log" && !(await isDirectory(join(where, "log")));
  const dir = join(isLog ? dirname(where) : where, "anchors");
  return (await isDirectory(dir)) ? inDirectory(dir) : null;
}

/** Returns the copies of proofs in a log's bucket. Of each file the oldest version counts: it is locked, and others can be added by anyone. */
export function inBucket({ versions, readVersion }: BucketView): ProofSource {
  const days = new Map<string, string[]>();
  for (const path of versions.keys()) {
    const [, day, file] = /^anchors\/([^/]+)\/([^/]+)$/.exec(path) ?? [];
    if (day === undefined || file === undefined) continue;
    const files = days.get(day);
    if (files === undefined) days.set(day, [file]);
    else files.push(file);
  }
  return listed(
    async (path) => (path === "" ? [...days.keys()] : (days.get(path) ?? [])),
    async (path, limit) => {
      const held = versions.get(`anchors/${path}`) ?? [];
      const [oldest] = oldestFirst(held.filter(({ isDeleteMarker }) => !isDeleteMarker));
      return oldest === undefined
        ? null
        : await readVersion(`anchors/${path}`, oldest.version, limit);
    },
  );
}

export function inDirectory(dir: string): ProofSource {
  return listed(
    async (path) => readdir(join(dir, path)).catch(() => []),
    async (path, limit) => {
      try {
        const file = await open(join(dir, path), "r");
        try {
          const { size } = await file.stat();
          return size > limit ? null : await file.readFile();
        } finally {
          await file.close();
        }
      } catch (error) {
        if (codeOf(error) === "ENOENT") return null;
        throw error;
      }
    },
  );
}

function overHttp(base: string): ProofSource {
  const read = async (path: string, limit: number): Promise<Buffer | null> => {
    const { request } = await import("undici");
    const times = { headersTimeout: TIMEOUT_MS, bodyTimeout: TIMEOUT_MS };
    const answer = await request(`${base}/${path}`, times).catch((error: unknown) => {
      throw new Unreachable(`${base}: ${error instanceof Error ? error.message : error}`);
    });
    if (answer.statusCode !== 200) {
      await answer.body.dump();
      return null;
    }
    return await readLimited(answer.body, limit);
  };
  const names = async (path: string): Promise<string[]> => {
    const bytes = await read(path === "" ? "" : `${path}/`, MAX_LIST_BYTES);
    try {
      const list: unknown = JSON.parse(bytes?.toString() ?? "[]");
      return Array.isArray(list) ? list.filter((name) => typeof name === "string") : [];
    } catch {
      return [];
    }
  };
  return listed(names, read);
}

function listed(
  names: (path: string) => Promise<string[]>,
  read: ProofSource["read"],
): ProofSource {
  const list = async (): Promise<ProofName[]> => {
    const proofs: ProofName[] = [];
    for (const day of (await names("")).filter(isDay).sort().slice(-MAX_DAYS)) {
      for (const file of (await names(day)).sort().slice(0, MAX_FILES)) {
        const proof = parseProofName(day, file);
        if (proof !== null) proofs.push(proof);
      }
    }
    return proofs;
  };
  return { list, read };
}

async function isDirectory(path: string): Promise<boolean> {
  return (await lstat(path).catch(() => null))?.isDirectory() ?? false;
}

/** A proof, its file, and what it is of. */
export type ReadProof = {
  proof: ProofName;
  file: string;
  note: Buffer | null;
  bytes: Buffer | null;
};

/** Yields the proofs in their order with what they are of; some are read ahead, since each is a request where they are not on a disk. */
export async function* readAhead(
  source: ProofSource,
  proofs: readonly ProofName[],
): AsyncGenerator<ReadProof> {
  const asked: Promise<ReadProof>[] = [];
  let path = "";
  let note: Promise<Buffer | null> = Promise.resolve(null);
  for (const proof of proofs) {
    if (path !== `${proof.day}/${proof.size}`) {
      path = `${proof.day}/${proof.size}`;
      note = source.read(`${path}.checkpoint`, MAX_NOTE_BYTES);
    }
    const file = pathOf(proof);
    const read = Promise.all([note, source.read(file, MAX_PROOF_BYTES)]).then(
      ([of, bytes]): ReadProof => ({ proof, file, note: of, bytes }),
    );
    // Told of where it is waited for.
    read.catch(() => undefined);
    asked.push(read);
    if (asked.length >= READS_AHEAD) yield await (asked.shift() as Promise<ReadProof>);
  }
  for (const read of asked) yield await read;
}
