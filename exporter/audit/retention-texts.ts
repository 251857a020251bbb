/** Where the texts are found that stand for pruned entries: their names, by minimum index. */

export type RetentionTexts = {
  /** Returns the minimum indexes for which there is a text, in any order. */
  readonly list: () => Promise<number[]>;
  /** Null where there is none, or it is longer than `limit` bytes. */
  readonly read: (index: number, limit: number) => Promise<Buffer | null>;
};

/** Returns the name of the text for a minimum index. */
export function retentionName(index: number): string {
  return String(index).padStart(20, "0");
}

/** Returns the minimum indexes among names of files. */
export function parseNames(names: readonly string[]): number[] {
  const found = names.filter((name) => /^[0-9]{20}$/.test(name)).map(Number);
  return found.filter((index) => Number.isSafeInteger(index));
}
