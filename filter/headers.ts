/** Headers: those that every entry looks for, and those that the configuration lists. One read of the host's map for all of them. */
import {
  HASH_BYTES,
  MAX_HASHED_HEADER,
  MAX_HEADER,
  MAX_HEADERS,
  MAX_KEY_NAME,
} from "../record/fields";
import { Capture, KEEP_HASH, KEEP_PLAIN } from "./config";
import { noteCut, putBytes, putTwo } from "./entry";
import * as hash from "./hash";
import * as host from "./host";
import { isText, Text } from "./host";
import { Pairs } from "./pairs";

// What every entry looks for, by place in NAMES.
export const METHOD = 0;
export const PATH = 1;
export const AUTHORITY = 2;
export const REQUEST_ID = 3;
export const USER_AGENT = 4;
export const CONTENT_TYPE = 5;
export const ORIGINAL_PATH = 6;
export const ORIGINAL_HOST = 7;
export const AUTHORIZATION = 8;
export const CLIENT_CERT = 9;
export const TRACEPARENT = 10;
export const B3 = 11;
export const B3_TRACE = 12;
export const B3_SPAN = 13;
export const B3_SAMPLED = 14;
const NAMES: StaticArray<string> = [
  ":method",
  ":path",
  ":authority",
  "x-request-id",
  "user-agent",
  "content-type",
  "x-envoy-original-path",
  "x-envoy-original-host",
  "authorization",
  "x-forwarded-client-cert",
  "traceparent",
  "b3",
  "x-b3-traceid",
  "x-b3-spanid",
  "x-b3-sampled",
];

/** How many of them there are. */
export const KNOWN: i32 = 15;

/** All that listed headers may take in one entry, in bytes. */
const BUDGET: u32 = 16_384;
/** Names this long or longer share one list. */
const LENGTHS: u32 = 64;

/** The headers of one direction. */
export class Headers {
  /** The three fields: plain, hash, present. */
  private field: u32;
  private map: i32;
  private known: i32;
  private texts: Text[] = [];
  /** "name: " of a listed header. */
  private labels: Text[] = [];
  private keeps: u32[] = [];
  private first: StaticArray<i32> = new StaticArray<i32>(LENGTHS);
  private later: i32[] = [];
  private places: StaticArray<usize> = new StaticArray<usize>(KNOWN);
  private sizes: StaticArray<u32> = new StaticArray<u32>(KNOWN);
  private hits: i32 = 0;
  private isOver: bool = false;
  private hit: StaticArray<i32> = new StaticArray<i32>(MAX_HEADERS);
  private hitAt: StaticArray<usize> = new StaticArray<usize>(MAX_HEADERS);
  private hitBytes: StaticArray<u32> = new StaticArray<u32>(MAX_HEADERS);
  private pairs: Pairs = new Pairs();

  /** `map` of the host; `field` is the number of the plain one, hash and present follow it. */
  constructor(map: i32, field: u32, known: i32) {
    this.map = map;
    this.field = field;
    this.known = known;
  }

  /** Takes up the configured list, once a configuration. */
  prepare(captures: Capture[]): void {
    this.texts = [];
    this.labels = [];
    this.keeps = [];
    this.later = [];
    for (let i: u32 = 0; i < LENGTHS; i++) unchecked((this.first[i] = -1));
    for (let i = 0; i < this.known; i++) this.add(NAMES[i]);
    for (let i = 0; i < captures.length; i++) {
      this.add(captures[i].name);
      this.labels.push(new Text(captures[i].name + ": "));
      this.keeps.push(captures[i].keep);
    }
  }

  private add(name: string): void {
    const length = min(name.length as u32, LENGTHS - 1);
    this.later.push(unchecked(this.first[length]));
    unchecked((this.first[length] = this.texts.length));
    this.texts.push(new Text(name));
  }

  /** True if there is anything to look for. */
  get isWanted(): bool {
    return this.texts.length > 0;
  }

  /** Reads the map of the current stream. Of a header that is there more than once, the first counts; a listed one counts each time. */
  read(): void {
    this.forget();
    if (!host.headerPairs(this.map) || !this.pairs.begin(host.data, host.size)) return;
    const pairs = this.pairs;
    while (pairs.next()) {
      let i = unchecked(this.first[min(pairs.keyBytes as u32, LENGTHS - 1)]);
      for (; i >= 0; i = unchecked(this.later[i])) {
        if (isText(pairs.key, pairs.keyBytes, unchecked(this.texts[i]))) this.found(i);
      }
    }
  }

  forget(): void {
    this.hits = 0;
    this.isOver = false;
    for (let i = 0; i < this.known; i++) unchecked((this.places[i] = 0));
  }

  private found(which: i32): void {
    const at = this.pairs.value;
    const bytes = this.pairs.valueBytes as u32;
    if (which < this.known) {
      if (unchecked(this.places[which]) !== 0) return;
      unchecked((this.places[which] = at));
      unchecked((this.sizes[which] = bytes));
    } else if (this.hits < (MAX_HEADERS as i32)) {
      unchecked((this.hit[this.hits] = which - this.known));
      unchecked((this.hitAt[this.hits] = at));
      unchecked((this.hitBytes[this.hits] = bytes));
      this.hits++;
    } else this.isOver = true;
  }

  has(which: i32): bool {
    return unchecked(this.places[which]) !== 0;
  }

  at(which: i32): usize {
    return unchecked(this.places[which]);
  }

  /** Bytes of the value, 0 where the header is not there. */
  bytes(which: i32): u32 {
    return this.has(which) ? unchecked(this.sizes[which]) : 0;
  }

  /** Writes the first value, if the header is there. */
  put(number: u32, which: i32, most: u32): void {
    if (this.has(which)) putBytes(number, this.at(which), this.bytes(which), most);
  }

  /** Writes the listed headers: in plain, as hashes, and the names of those that are only to be known as present. */
  putListed(): void {
    if (this.hits === 0) return;
    let room = BUDGET;
    for (let keep = KEEP_PLAIN; keep <= KEEP_PLAIN + 2; keep++) {
      const number = this.field + keep - KEEP_PLAIN;
      for (let i = 0; i < this.hits; i++) {
        const which = unchecked(this.hit[i]);
        if (unchecked(this.keeps[which]) !== keep) continue;
        const label = unchecked(this.labels[which]);
        if (keep === KEEP_PLAIN) {
          const bytes = label.bytes + unchecked(this.hitBytes[i]);
          const most = min(MAX_HEADER, room);
          putTwo(
            number,
            label.at,
            label.bytes,
            unchecked(this.hitAt[i]),
            bytes - label.bytes,
            most,
          );
          room -= min(bytes, most);
        } else if (keep === KEEP_HASH) {
          hash.hex(unchecked(this.hitAt[i]), unchecked(this.hitBytes[i]));
          putTwo(number, label.at, label.bytes, hash.HEX, 2 * HASH_BYTES, MAX_HASHED_HEADER);
        } else putBytes(number, label.at, label.bytes - 2, MAX_KEY_NAME);
      }
    }
    if (this.isOver) noteCut(this.field);
  }
}
