/**
 * Serialised protobuf messages, as the host gives dynamic metadata: envoy.config.core.v3.Metadata, with google.protobuf.Struct in it.
 * https://protobuf.dev/programming-guides/encoding. Bytes that are no message end the walk.
 */

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

/** One walk over the fields of a message. `next` until it says false. */
export class Message {
  number: u32 = 0;
  /** Of a field with a length: its bytes. Others have none. */
  at: usize = 0;
  bytes: usize = 0;
  /** Of a field with a number: a bool or an enum. */
  value: u64 = 0;
  private from: usize = 0;
  private to: usize = 0;

  begin(from: usize, bytes: usize): void {
    this.from = from;
    this.to = from + bytes;
  }

  next(): bool {
    if (this.from >= this.to) return false;
    const key = this.varint();
    this.number = (key >> 3) as u32;
    this.value = 0;
    let bytes: u64 = 0;
    switch ((key as u32) & 7) {
      case VARINT:
        this.value = this.varint();
        break;
      case FIXED64:
        bytes = 8;
        break;
      case FIXED32:
        bytes = 4;
        break;
      case BYTES:
        bytes = this.varint();
        break;
      default:
        this.from = this.to + 1;
    }
    if (this.from > this.to || bytes > ((this.to - this.from) as u64)) {
      this.from = this.to;
      return false;
    }
    this.at = this.from;
    this.bytes = bytes as usize;
    this.from += this.bytes;
    return true;
  }

  /** Reads a varint. One that does not end in the message puts `from` behind it. */
  private varint(): u64 {
    let value: u64 = 0;
    for (let shift: u64 = 0; shift < 70; shift += 7) {
      if (this.from >= this.to) break;
      const byte = load<u8>(this.from++) as u64;
      value |= (byte & 127) << shift;
      if (byte < 128) return value;
    }
    this.from = this.to + 1;
    return 0;
  }
}

/** One walk over a map, which is the messages in field 1 of another: Metadata's namespaces, or the fields of a Struct. */
export class Entries {
  key: usize = 0;
  keyBytes: usize = 0;
  /** A Struct, or a google.protobuf.Value. */
  value: usize = 0;
  valueBytes: usize = 0;
  private map: Message = new Message();
  private entry: Message = new Message();

  begin(from: usize, bytes: usize): void {
    this.map.begin(from, bytes);
  }

  next(): bool {
    do {
      if (!this.map.next()) return false;
    } while (this.map.number !== 1);
    this.keyBytes = 0;
    this.valueBytes = 0;
    this.entry.begin(this.map.at, this.map.bytes);
    while (this.entry.next()) {
      if (this.entry.number === 1) {
        this.key = this.entry.at;
        this.keyBytes = this.entry.bytes;
      } else if (this.entry.number === 2) {
        this.value = this.entry.at;
        this.valueBytes = this.entry.bytes;
      }
    }
    return true;
  }

  /** Makes `value` what a Value holds as a text or a Struct; 0 bytes if it is something else. */
  open(kind: u32): void {
    this.entry.begin(this.value, this.valueBytes);
    this.valueBytes = 0;
    while (this.entry.next()) {
      if (this.entry.number !== kind) continue;
      this.value = this.entry.at;
      this.valueBytes = this.entry.bytes;
    }
  }

  /** Tells if a Value is the boolean true. */
  isTrue(): bool {
    this.entry.begin(this.value, this.valueBytes);
    return this.entry.next() && this.entry.number === 4 && this.entry.value === 1;
  }
}

/** What a Value holds. */
export const TEXT: u32 = 3;
export const STRUCT: u32 = 5;
