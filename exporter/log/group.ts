/**
 * What one fsync makes durable: entries as the WAL's record will have them, and their leaf hashes. Its memory is used again, and is
 * shared, so that the publisher's thread reads it where it is.
 */
import { crc32 } from "node:zlib";
import { HASH_BYTES } from "./merkle.ts";
import { BODY_AT, startSum } from "./wal.ts";

/** Room at first; it doubles. */
const RECORD_BYTES = 64 * 1024;
const LEAVES_BYTES = 8 * 1024;
/** Memory beyond this is not kept. */
const MAX_KEPT_BYTES = 16 * 1024 * 1024;

export class Group {
  #record = shared(RECORD_BYTES);
  #recordEnd = BODY_AT;
  #leaves = shared(LEAVES_BYTES);
  #leavesEnd = 0;
  #first = 0;
  #sum = 0;

  get isEmpty(): boolean {
    return this.#leavesEnd === 0;
  }

  /** Bytes of its entries. */
  get bytes(): number {
    return this.#recordEnd - BODY_AT;
  }

  get count(): number {
    return this.#leavesEnd / HASH_BYTES;
  }

  /** Its entries behind room for a record's head. */
  get record(): Buffer {
    return this.#record.subarray(0, this.#recordEnd);
  }

  get leaves(): Buffer {
    return this.#leaves.subarray(0, this.#leavesEnd);
  }

  /** Leaf index of its first entry. */
  get first(): number {
    return this.#first;
  }

  /** The check sum of the record's body. */
  get sum(): number {
    return this.#sum;
  }

  /** Begins a record whose first entry gets leaf index `firstIndex`, of a WAL with this seed. */
  begin(firstIndex: number, seed: number): void {
    this.#first = firstIndex;
    this.#sum = startSum(firstIndex, seed);
  }

  /** Copies entries, as a batch has them, and their leaf hashes behind those that are there. */
  add(entries: Buffer, leaves: Buffer): void {
    // Now and not over all of the record later: they are still in a cache.
    this.#sum = crc32(entries, this.#sum);
    this.#record = withRoom(this.#record, this.#recordEnd, entries.length);
    this.#leaves = withRoom(this.#leaves, this.#leavesEnd, leaves.length);
    this.#recordEnd += entries.copy(this.#record, this.#recordEnd);
    this.#leavesEnd += leaves.copy(this.#leaves, this.#leavesEnd);
  }

  /** Empties it. Returns false where it has become too large to be kept. */
  clear(): boolean {
    this.#recordEnd = BODY_AT;
    this.#leavesEnd = 0;
    return this.#record.length + this.#leaves.length <= MAX_KEPT_BYTES;
  }
}

function shared(bytes: number): Buffer {
  return Buffer.from(new SharedArrayBuffer(bytes));
}

function withRoom(bytes: Buffer, end: number, more: number): Buffer {
  if (end + more <= bytes.length) return bytes;
  const larger = shared(Math.max(2 * bytes.length, end + more));
  bytes.copy(larger, 0, 0, end);
  return larger;
}
