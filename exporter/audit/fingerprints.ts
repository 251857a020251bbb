/**
 * Remembers of each full tile and bundle how its file looked last (inode, size and change time, or its version in a bucket), as 4 bytes. Files of a log are
 * written once, so a difference means that somebody touched one. Who is root can set clocks; the bytes are read as well.
 */
export class Fingerprints {
  readonly #rows = new Map<number | "entries", Uint32Array>();

  /** Notes how a file looks now, as a number that changes with it. Returns whether it looked otherwise before; false the first time. */
  note(level: number | "entries", index: number, mark: bigint): boolean {
    let row = this.#rows.get(level) ?? new Uint32Array(256);
    if (index >= row.length) {
      const larger = new Uint32Array(2 ** Math.ceil(Math.log2(index + 1)));
      larger.set(row);
      row = larger;
    }
    this.#rows.set(level, row);
    const mixed = BigInt.asUintN(64, mark);
    // 0 is for "never seen".
    const now = Number(BigInt.asUintN(32, mixed ^ (mixed >> 32n))) || 1;
    const before = row[index] ?? 0;
    row[index] = now;
    return before !== 0 && before !== now;
  }
}
