/**
 * What the host serialises as pairs: header maps, and the maps and lists of its expressions. u32 count, count times (u32 bytes of the
 * key, u32 bytes of the value), then each key and each value with a NUL behind it. A list has its items as keys.
 */

/** One walk over pairs. `next` until it says false; the fields are those of the pair it stands on. */
export class Pairs {
  key: usize = 0;
  keyBytes: usize = 0;
  value: usize = 0;
  valueBytes: usize = 0;
  private head: usize = 0;
  private left: usize = 0;
  private at: usize = 0;
  private to: usize = 0;

  /** Begins. False if the bytes can hold no pairs; then there is none. */
  begin(from: usize, bytes: usize): bool {
    this.left = 0;
    if (bytes < 4) return false;
    const count = load<u32>(from) as usize;
    if (count > (bytes - 4) / 8) return false;
    this.head = from + 4;
    this.left = count;
    this.at = from + 4 + 8 * count;
    this.to = from + bytes;
    return true;
  }

  next(): bool {
    if (this.left === 0) return false;
    const keyBytes = load<u32>(this.head) as usize;
    const bytes = load<u32>(this.head, 4) as usize;
    const at = this.at;
    if (at > this.to || keyBytes > this.to - at || bytes + 2 > this.to - at - keyBytes) {
      this.left = 0;
      return false;
    }
    this.key = at;
    this.keyBytes = keyBytes;
    this.value = at + keyBytes + 1;
    this.valueBytes = bytes;
    this.at = this.value + bytes + 1;
    this.head += 8;
    this.left--;
    return true;
  }
}
