/**
 * The write-ahead log: what is receipted stands here, fsynced, until tiles hold it that survive a loss of power.
 *
 * A segment is `<first leaf index, 16 digits>.wal`: a random uint32, the seed of its check sums, and then records of
 *
 *     uint32 length of body || uint32 CRC-32 of body, from the seed || body: uint64 first leaf index || entries as in a batch
 *
 * big-endian, an entry being `uint16 length || 0x00 || bytes`. A record is all that one fsync made durable. Since it holds
 * its leaf index, a replay cannot double. Order on disk: data, fdatasync, answer; a segment's name is fsynced before.
 *
 * A bad record at the end is a write that a crash cut short: it was never receipted, and is dropped. A bad record with a good
 * one anywhere behind it was fsynced once, so it is damage, and stops the start. The seed is there so that nobody can
 * send an entry that looks like a record.
 */
import { randomBytes } from "node:crypto";
import { type FileHandle, open, readdir, readFile, rm, truncate } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { ENTRY_PREFIX_BYTES } from "../../record/wire.ts";
import { MeshsealError } from "../errors.ts";
import { makeDir, syncDir } from "../store/file.ts";

const SEED_BYTES = 4;
const HEADER_BYTES = 8;
const INDEX_BYTES = 8;
/** Bytes before the entries in a record. */
export const BODY_AT: number = HEADER_BYTES + INDEX_BYTES;
/** A segment is closed when it is longer, unless told otherwise. */
const SEGMENT_BYTES = 16 * 1024 * 1024;

export type WalRecord = { readonly firstIndex: number; readonly entries: Buffer };

export class Wal {
  readonly #dir: string;
  readonly #segmentBytes: number;
  #file: FileHandle | null = null;
  #length = 0;
  /** Of all segments of this process. */
  readonly seed: number = randomBytes(SEED_BYTES).readUInt32BE();
  /** First leaf index of each segment, oldest first. */
  #segments: number[] = [];
  /** Bytes of each segment, by its first leaf index. */
  readonly #sizes = new Map<number, number>();

  constructor(dir: string, segmentBytes: number = SEGMENT_BYTES) {
    this.#dir = dir;
    this.#segmentBytes = segmentBytes;
  }

  /** The first leaf index it holds, or -1 if it is empty. */
  get first(): number {
    return this.#segments[0] ?? -1;
  }

  /** Whether a segment is full, so that `prune` can take it away. */
  get isPrunable(): boolean {
    return this.#segments.length > 1;
  }

  /** Bytes on disk. */
  get bytes(): number {
    let sum = 0;
    for (const size of this.#sizes.values()) sum += size;
    return sum;
  }

  /** Finds the segments, and drops a last record that was cut short. To be called before anything else. */
  async open(): Promise<void> {
    makeDir(this.#dir);
    const names = (await readdir(this.#dir)).filter((name) => /^\d{16}\.wal$/.test(name)).sort();
    for (const [at, name] of names.entries()) {
      const path = join(this.#dir, name);
      const bytes = await readFile(path);
      const { end, isDamaged } = checkSegment(bytes);
      if (isDamaged || (end < bytes.length && at < names.length - 1)) {
        throw new MeshsealError(
          `${path} is damaged at byte ${end}: restore it from a copy, or move the data directory away and keep it as evidence.`,
        );
      }
      if (end <= SEED_BYTES) {
        await rm(path);
        continue;
      }
      if (end < bytes.length) await truncate(path, end);
      this.#segments.push(Number(name.slice(0, -4)));
      this.#sizes.set(Number(name.slice(0, -4)), end);
    }
    syncDir(this.#dir);
  }

  /**
   * Yields every record in order, one segment in memory at a time. With `from`, only those that begin there or behind it: the
   * WAL may grow meanwhile, and the caller stops before a record that was not durable when it began.
   */
  async *records(from = 0): AsyncGenerator<WalRecord> {
    for (const [i, first] of [...this.#segments].entries()) {
      if ((this.#segments[i + 1] ?? Number.POSITIVE_INFINITY) <= from) continue;
      const bytes = await readFile(join(this.#dir, segmentName(first)));
      for (let at = SEED_BYTES; at + BODY_AT <= bytes.length; ) {
        const end = at + HEADER_BYTES + bytes.readUInt32BE(at);
        if (end > bytes.length) return;
        const record = parseRecord(bytes.subarray(at, end));
        if (record.firstIndex >= from) yield record;
        at = end;
      }
    }
  }

  /**
   * Writes `record`, whose entries stand behind room for its head (BODY_AT), which is filled in: when it resolves they survive
   * a loss of power. On an error nothing of it counts. `sum` is the check sum of its body, if that is known already.
   */
  async append(firstIndex: number, record: Buffer, sum?: number): Promise<void> {
    if (this.#file === null || this.#length > this.#segmentBytes) await this.#begin(firstIndex);
    const file = this.#file;
    if (file === null) throw new Error("no segment is open");
    fillHead(record, firstIndex, this.seed, sum);
    try {
      await writeAll(file, record, this.#length);
      await file.datasync();
    } catch (error) {
      // What was written of it is cut away: a later record must not stand behind half a one.
      await file.truncate(this.#length).catch(() => undefined);
      throw error;
    }
    this.#length += record.length;
    this.#sizes.set(this.#segments.at(-1) ?? firstIndex, this.#length);
  }

  /** Removes the full segments whose records all lie below `size`. */
  async prune(size: number): Promise<void> {
    for (let next = this.#segments[1]; next !== undefined && next <= size; ) {
      const first = this.#segments.shift() ?? 0;
      await rm(join(this.#dir, segmentName(first)));
      this.#sizes.delete(first);
      next = this.#segments[1];
    }
    syncDir(this.#dir);
  }

  async close(): Promise<void> {
    await this.#file?.close();
    this.#file = null;
  }

  async #begin(firstIndex: number): Promise<void> {
    await this.close();
    const path = join(this.#dir, segmentName(firstIndex));
    const seed = Buffer.alloc(SEED_BYTES);
    seed.writeUInt32BE(this.seed);
    // Not over one that is there: in a shared directory it would be another exporter's.
    const file = await open(path, "wx", 0o600);
    try {
      await writeAll(file, seed, 0);
      syncDir(this.#dir);
    } catch (error) {
      await file.close();
      await rm(path, { force: true });
      throw error;
    }
    this.#file = file;
    this.#length = SEED_BYTES;
    this.#segments.push(firstIndex);
  }
}

function segmentName(firstIndex: number): string {
  return `${String(firstIndex).padStart(16, "0")}.wal`;
}

async function writeAll(file: FileHandle, bytes: Buffer, to: number): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, at, bytes.length - at, to + at);
    at += bytesWritten;
  }
}

/** Returns the record of `entries`, whose first has leaf index `firstIndex`, in an ArrayBuffer of its own. */
export function formatRecord(firstIndex: number, entries: readonly Buffer[], seed: number): Buffer {
  const size = entries.reduce((sum, { length }) => sum + length, BODY_AT);
  const record = Buffer.allocUnsafeSlow(size);
  let at = BODY_AT;
  for (const part of entries) at += part.copy(record, at);
  fillHead(record, firstIndex, seed);
  return record;
}

/** Fills in the head of a record whose entries stand behind room for it, with the check sum of its body if that is known. */
export function fillHead(record: Buffer, firstIndex: number, seed: number, sum?: number): void {
  record.writeUInt32BE(record.length - HEADER_BYTES, 0);
  record.writeBigUInt64BE(BigInt(firstIndex), HEADER_BYTES);
  record.writeUInt32BE(sum ?? crc32(record.subarray(HEADER_BYTES), seed), 4);
}

/** Returns the check sum of the body of a record that begins at `firstIndex` and has no entries yet: crc32 adds those. */
export function startSum(firstIndex: number, seed: number): number {
  const index = Buffer.alloc(INDEX_BYTES);
  index.writeBigUInt64BE(BigInt(firstIndex));
  return crc32(index, seed);
}

/** Returns what stands in a record that is whole. */
export function parseRecord(record: Buffer): WalRecord {
  const firstIndex = Number(record.readBigUInt64BE(HEADER_BYTES));
  return { firstIndex, entries: record.subarray(BODY_AT) };
}

/**
 * Returns where the last whole record of a segment ends, and whether what follows was once whole: a good record stands
 * behind it. Any bytes in, no throw.
 */
export function checkSegment(bytes: Buffer): { end: number; isDamaged: boolean } {
  if (bytes.length < SEED_BYTES) return { end: 0, isDamaged: false };
  const seed = bytes.readUInt32BE(0);
  let end = SEED_BYTES;
  for (let next = endOfRecord(bytes, end, seed); next > 0; ) {
    end = next;
    next = endOfRecord(bytes, end, seed);
  }
  for (let at = end + 1; at + BODY_AT <= bytes.length; at++) {
    if (endOfRecord(bytes, at, seed) > 0) return { end, isDamaged: true };
  }
  return { end, isDamaged: false };
}

/** Returns where the record at `at` ends, or -1 if none that is whole stands there. */
function endOfRecord(bytes: Buffer, at: number, seed: number): number {
  if (at + BODY_AT > bytes.length) return -1;
  const end = at + HEADER_BYTES + bytes.readUInt32BE(at);
  if (end < at + BODY_AT || end > bytes.length) return -1;
  // An index below 2^53; looked at first, since it is cheap and the search for records behind damage asks every byte.
  if (bytes.readUInt16BE(at + HEADER_BYTES) !== 0 || (bytes[at + HEADER_BYTES + 2] ?? 0) > 0x1f) {
    return -1;
  }
  let next = at + BODY_AT;
  while (next + ENTRY_PREFIX_BYTES <= end) next += ENTRY_PREFIX_BYTES + bytes.readUInt16BE(next);
  if (next !== end) return -1;
  return crc32(bytes.subarray(at + HEADER_BYTES, end), seed) === bytes.readUInt32BE(at + 4)
    ? end
    : -1;
}
