/**
 * Batches as a filter would send them, made fast enough to feed a benchmark: entries of `entryBytes` bytes with the facts
 * of a usual request, each linked to the one before. An entry is a template in which seq and prev are changed.
 */
import { hash, randomBytes } from "node:crypto";
import { encodeEntry, type FieldValue, Scanner } from "../../record/codec.ts";
import {
  F_AUTHORITY,
  F_BYTES_IN,
  F_BYTES_OUT,
  F_CHAIN,
  F_DESTINATION_ADDRESS,
  F_DURATION,
  F_FLAGS,
  F_FORMAT,
  F_KIND,
  F_METHOD,
  F_PATH,
  F_PREV,
  F_PROTOCOL,
  F_REQUEST_ID,
  F_ROUTE,
  F_SALT,
  F_SEQ,
  F_SOURCE_ADDRESS,
  F_STATUS,
  F_TIME,
  F_UPSTREAM_ADDRESS,
  F_UPSTREAM_CLUSTER,
  F_USER_AGENT,
  KIND_OPEN,
  KIND_REQUEST,
} from "../../record/fields.ts";
import {
  BATCH_CHAIN_AT,
  BATCH_COUNT_AT,
  BATCH_FIRST_SEQ_AT,
  BATCH_HEADER_BYTES,
  BATCH_MAGIC,
  ENTRY_PREFIX_BYTES,
} from "../../record/wire.ts";

const HASH_BYTES = 32;

const text = (value: string): Buffer => Buffer.from(value);

/** Facts of a request, as Envoy gives them. */
const FACTS: readonly FieldValue[] = [
  { number: F_STATUS, value: 200 },
  { number: F_METHOD, value: text("GET") },
  { number: F_PATH, value: text("/cart/1234567") },
  { number: F_AUTHORITY, value: text("shop.example") },
  { number: F_DURATION, value: 1830 },
  { number: F_BYTES_IN, value: 0 },
  { number: F_BYTES_OUT, value: 512 },
  { number: F_FLAGS, value: 0 },
  { number: F_PROTOCOL, value: text("HTTP/1.1") },
  { number: F_REQUEST_ID, value: text("0f8fad5b-d9cb-469f-a165-70867728950e") },
  { number: F_SOURCE_ADDRESS, value: text("10.0.3.17:41312") },
  { number: F_DESTINATION_ADDRESS, value: text("10.0.7.2:8080") },
  { number: F_ROUTE, value: text("cart") },
  { number: F_UPSTREAM_CLUSTER, value: text("cart") },
  { number: F_UPSTREAM_ADDRESS, value: text("10.0.9.4:8080") },
];

/** One chain: each `next` is its next batch. */
export class ChainMaker {
  readonly #chain = randomBytes(16);
  readonly #salt = randomBytes(16);
  readonly #time = Date.now() * 1000;
  readonly #entryBytes: number;
  /** Prefixed entry of the present length of seq, where seq and prev stand in it. */
  #entry: Buffer = Buffer.alloc(0);
  #seqAt = 0;
  #prevAt = 0;
  #seqBytes = 0;
  #prev: Buffer = Buffer.alloc(HASH_BYTES);
  #seq = 0;

  constructor(entryBytes: number) {
    this.#entryBytes = entryBytes;
  }

  /** Returns a batch of `count` entries. The first entry of all is the chain's `open`. */
  next(count: number): Buffer {
    const batch = Buffer.allocUnsafeSlow(
      BATCH_HEADER_BYTES + count * (ENTRY_PREFIX_BYTES + this.#entryBytes),
    );
    batch.fill(0, 0, BATCH_HEADER_BYTES);
    batch.writeUInt32LE(BATCH_MAGIC, 0);
    batch.set(this.#chain, BATCH_CHAIN_AT);
    batch.writeBigUInt64BE(BigInt(this.#seq), BATCH_FIRST_SEQ_AT);
    batch.writeUInt32BE(count, BATCH_COUNT_AT);
    let at = BATCH_HEADER_BYTES;
    for (let i = 0; i < count; i++) at += this.#make().copy(batch, at);
    return batch.subarray(0, at);
  }

  #make(): Buffer {
    if (this.#seq < 2 || varintBytes(this.#seq) !== this.#seqBytes) this.#layOut();
    const entry = this.#entry;
    let rest = this.#seq;
    for (let i = this.#seqAt; i < this.#seqAt + this.#seqBytes; i++) {
      entry[i] = (rest & 0x7f) | (i + 1 < this.#seqAt + this.#seqBytes ? 0x80 : 0);
      rest = Math.floor(rest / 128);
    }
    entry.set(this.#prev, this.#prevAt);
    this.#prev = hash("sha256", entry.subarray(2), "buffer");
    this.#seq++;
    return entry;
  }

  #layOut(): void {
    const isOpen = this.#seq === 0;
    const envelope: FieldValue[] = [
      { number: F_KIND, value: isOpen ? KIND_OPEN : KIND_REQUEST },
      { number: F_CHAIN, value: this.#chain },
      { number: F_SEQ, value: this.#seq },
      { number: F_PREV, value: this.#prev },
      { number: F_TIME, value: this.#time },
      { number: F_SALT, value: this.#salt },
    ];
    const make = (fill: number): Uint8Array =>
      encodeEntry(
        isOpen
          ? [...envelope, { number: F_FORMAT, value: 1 }]
          : [...envelope, ...FACTS, { number: F_USER_AGENT, value: Buffer.alloc(fill, "a") }],
      );
    const bare = make(0).length;
    if (bare > this.#entryBytes) throw new RangeError(`an entry has ${bare} bytes at least`);
    const bytes = isOpen ? make(0) : make(Math.max(0, this.#entryBytes - bare));
    this.#entry = Buffer.concat([Buffer.of(bytes.length >> 8, bytes.length & 0xff, 0), bytes]);
    this.#seqBytes = varintBytes(this.#seq);
    const from = ENTRY_PREFIX_BYTES;
    new Scanner().scan(this.#entry, from, this.#entry.length, (number, _type, _value, at) => {
      // For numbers `at` is the end of the value, for bytes its beginning.
      if (number === F_SEQ) this.#seqAt = at - this.#seqBytes;
      if (number === F_PREV) this.#prevAt = at;
    });
  }
}

function varintBytes(value: number): number {
  return value === 0 ? 1 : Math.floor(Math.log2(value) / 7) + 1;
}
