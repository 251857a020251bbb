/**
 * The write-ahead log: what is receipted stands here, fsynced, until tiles and checkpoint hold it.
 *
 * A segment is `<first leaf index, 16 digits>.wal`; a record in it is
 *
 *     uint32 length of body || uint32 CRC-32 of body || body: uint64 first leaf index || entries as in a batch
 *
 * big-endian, an entry being `uint16 length || 0x00 || bytes`. Since a record holds its leaf index, a replay cannot
 * double. A record that is cut off at the very end was never receipted, and is dropped; damage anywhere else is
 * an error that stops the start. Order on disk: data, fdatasync, answer; a new segment's name is fsynced before it is used.
 */
import { type FileHandle, mkdir, open, readdir, readFile, rm, truncate } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { MeshsealError } from "../errors.ts";
import { syncDir } from "../store/file.ts";

const HEADER_BYTES = 8;
const INDEX_BYTES = 8;
/** A segment is closed when it is longer. */
const SEGMENT_BYTES = 64 * 1024 * 1024;

export type WalRecord = { readonly firstIndex: number; readonly entries: Buffer };

export class Wal {
  readonly #dir: string;
  #file: FileHandle | null = null;
  #length = 0;
  /** First leaf index of each segment, oldest first. */
  #segments: number[] = [];

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** Yields every record in order, and drops a last one that was cut off. */
  async *recover(): AsyncGenerator<WalRecord> {
    await mkdir(this.#dir, { recursive: true });
    const names = (await readdir(this.#dir)).filter((name) => name.endsWith(".wal")).sort();
    for (const [at, name] of names.entries()) {
      const path = join(this.#dir, name);
      const bytes = await readFile(path);
      const { records, end, isCut } = readSegment(bytes);
      if (end < bytes.length && !(isCut && at === names.length - 1)) {
        throw new MeshsealError(
          `${path} is damaged at byte ${end}: restore it from a copy, or move the data directory away and keep it as evidence.`,
        );
      }
      if (records.length === 0) {
        await rm(path);
        continue;
      }
      if (end < bytes.length) await truncate(path, end);
      this.#segments.push(Number(name.slice(0, -4)));
      yield* records;
    }
  }

  /** Writes records durably: when it resolves they survive a loss of power. On an error nothing of them counts. */
  async append(records: readonly WalRecord[]): Promise<void> {
    const first = records[0];
    if (first === undefined) return;
    if (this.#file === null || this.#length > SEGMENT_BYTES) await this.#open(first.firstIndex);
    const file = this.#file;
    if (file === null) throw new Error("no segment is open");
    const parts = records.flatMap(formatRecord);
    const bytes = parts.reduce((sum, part) => sum + part.length, 0);
    try {
      let at = this.#length;
      // writev may write less than asked, so one buffer and a loop.
      let rest = Buffer.concat(parts);
      while (rest.length > 0) {
        const { bytesWritten } = await file.write(rest, 0, rest.length, at);
        rest = rest.subarray(bytesWritten);
        at += bytesWritten;
      }
      await file.datasync();
    } catch (error) {
      // What was written of them is cut away: a later record must not stand behind half a one.
      await file.truncate(this.#length).catch(() => undefined);
      throw error;
    }
    this.#length += bytes;
  }

  /** Removes the segments whose records all lie below `size`. */
  async prune(size: number, durable: number): Promise<void> {
    while (this.#segments.length > 0) {
      const next = this.#segments[1];
      const end = next ?? durable;
      if (end > size) return;
      if (next === undefined) {
        // The one that is written to goes too, so that a quiet log has an empty WAL. Taken away before anything
        // is awaited: an append that comes meanwhile opens a new one.
        const file = this.#file;
        this.#file = null;
        const [last = 0] = this.#segments.splice(0, 1);
        await file?.close();
        await rm(join(this.#dir, segmentName(last)), { force: true });
        break;
      }
      const [first = 0] = this.#segments.splice(0, 1);
      await rm(join(this.#dir, segmentName(first)), { force: true });
    }
    await syncDir(this.#dir);
  }

  async close(): Promise<void> {
    await this.#file?.close();
    this.#file = null;
  }

  async #open(firstIndex: number): Promise<void> {
    await this.#file?.close();
    this.#file = null;
    this.#file = await open(join(this.#dir, segmentName(firstIndex)), "w");
    this.#length = 0;
    await syncDir(this.#dir);
    if (this.#segments.at(-1) !== firstIndex) this.#segments.push(firstIndex);
  }
}

function segmentName(firstIndex: number): string {
  return `${String(firstIndex).padStart(16, "0")}.wal`;
}

function formatRecord({ firstIndex, entries }: WalRecord): Buffer[] {
  const head = Buffer.alloc(HEADER_BYTES + INDEX_BYTES);
  head.writeUInt32BE(INDEX_BYTES + entries.length, 0);
  head.writeBigUInt64BE(BigInt(firstIndex), HEADER_BYTES);
  head.writeUInt32BE(crc32(entries, crc32(head.subarray(HEADER_BYTES))), 4);
  return [head, entries];
}

function readSegment(bytes: Buffer): { records: WalRecord[]; end: number; isCut: boolean } {
  const records: WalRecord[] = [];
  let end = 0;
  while (end < bytes.length) {
    if (end + HEADER_BYTES > bytes.length) return { records, end, isCut: true };
    const length = bytes.readUInt32BE(end);
    const body = bytes.subarray(end + HEADER_BYTES, end + HEADER_BYTES + length);
    if (body.length < length) return { records, end, isCut: true };
    if (length < INDEX_BYTES || crc32(body) !== bytes.readUInt32BE(end + 4)) {
      // Half-written pages at the end are a cut; a bad record with good bytes behind it is damage.
      return { records, end, isCut: end + HEADER_BYTES + length >= bytes.length };
    }
    const firstIndex = Number(body.readBigUInt64BE(0));
    records.push({ firstIndex, entries: body.subarray(INDEX_BYTES) });
    end += HEADER_BYTES + length;
  }
  return { records, end, isCut: false };
}
