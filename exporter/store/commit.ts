/**
 * The commit: one object a log, replaced by compare-and-swap, that says how far the log goes. Whoever wrote it last may write
 * on; to take a log over is to replace it under a higher fencing number, after which every swap of the one before fails.
 * Its bytes never repeat (a fencing number is used by one start, and a tree only grows), so an etag never comes back.
 */
import { z } from "zod";

/** A commit is longer than any this writes: not ours. */
export const MAX_COMMIT_BYTES = 65_536;

export type Commit = {
  /** Grows with every start of an exporter on this log. */
  readonly fence: number;
  /** The writer's lease, as a number that grows; 0 before the first one. */
  readonly epoch: number;
  /** Random, one a start: who has its WAL knows it. */
  readonly writer: string;
  /** The writer began without the WAL of the one before, and has committed nothing yet. */
  readonly isFresh: boolean;
  /** What receipts wait for: where it is the WAL, the log cannot be taken over without that. */
  readonly ack: "wal" | "store";
  /** The newest signed checkpoint; "" at the beginning. */
  readonly note: string;
  /** The object with the tiles of this checkpoint, until these stand in their places; null with a WAL. */
  readonly staged: { readonly key: string; readonly version: string } | null;
};

const Schema = z.strictObject({
  fence: z.int().min(1),
  epoch: z.int().min(0),
  writer: z.string().regex(/^[0-9a-f]{32}$/),
  isFresh: z.boolean(),
  ack: z.enum(["wal", "store"]),
  note: z.string().max(16_384),
  staged: z
    .strictObject({
      key: z.string().regex(/^staged\/[0-9]{1,16}-[0-9a-f]{64}$/),
      version: z.string().max(1024),
    })
    .nullable(),
});

export function formatCommit(commit: Commit): Buffer {
  return Buffer.from(`${JSON.stringify(commit)}\n`);
}

/** Returns the commit in `bytes`, or null unless it is exactly one. */
export function parseCommit(bytes: Uint8Array): Commit | null {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    const parsed = Schema.safeParse(JSON.parse(text));
    return parsed.success ? parsed.data : null;
  } catch {
    return null;
  }
}

const LENGTH_BYTES = 4;

/** Packs files for staging: `uint32 length || path || uint32 length || bytes` of each, big-endian. */
export function formatStaged(files: Iterable<readonly [string, Uint8Array]>): Buffer {
  const parts: Uint8Array[] = [];
  for (const [path, bytes] of files) {
    for (const part of [Buffer.from(path), bytes]) {
      const length = Buffer.alloc(LENGTH_BYTES);
      length.writeUInt32BE(part.length);
      parts.push(length, part);
    }
  }
  return Buffer.concat(parts);
}

/** Returns what formatStaged packed, or null unless `bytes` is exactly that. */
export function parseStaged(bytes: Buffer): [string, Buffer][] | null {
  const parts: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    if (at + LENGTH_BYTES > bytes.length) return null;
    const end = at + LENGTH_BYTES + bytes.readUInt32BE(at);
    if (end > bytes.length) return null;
    parts.push(bytes.subarray(at + LENGTH_BYTES, end));
    at = end;
  }
  if (parts.length % 2 !== 0) return null;
  const files: [string, Buffer][] = [];
  for (let i = 0; i < parts.length; i += 2) {
    files.push([(parts[i] ?? Buffer.of()).toString("utf8"), parts[i + 1] ?? Buffer.of()]);
  }
  return files;
}
