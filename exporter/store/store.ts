/**
 * Where a log's files are kept. Each store keeps these promises; test/store.test.ts holds all of them to it.
 *
 * - What `put` or `replace` has resolved for survives a loss of power, name and bytes.
 * - A reader sees the old bytes of a path or the new ones, never a part.
 * - Paths are those of tlog-tiles: relative, with forward slashes.
 */
export type Store = {
  /** Returns the bytes at `path`, or null if there are none. */
  readonly get: (path: string) => Promise<Buffer | null>;
  /** Writes bytes that never change. Writing the same bytes again is allowed: recovery does it. */
  readonly put: (path: string, bytes: Uint8Array) => Promise<void>;
  /** Writes bytes that may stand in the place of others: the checkpoint. */
  readonly replace: (path: string, bytes: Uint8Array) => Promise<void>;
  /** Removes the partial tiles of a tile that is now full. Nothing else is ever removed. */
  readonly removePartials: (fullTilePath: string) => Promise<void>;
};
