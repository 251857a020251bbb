/**
 * Where a log's files are kept. Each store keeps these promises; test/store.test.ts holds all of them to it.
 *
 * - A reader sees a path's bytes whole, or none. What `put` has resolved for is seen by the writer at once, and by every
 *   reader from the next `replace` of the checkpoint on: only a checkpoint leads to it.
 * - `put` is write-once: the same bytes again are fine, others reject with Conflict, at once or at the next `replace`, and
 *   change nothing.
 * - What was put survives a loss of power once `sync` has resolved; what `replace` has resolved for does at once.
 * - Paths are those of tlog-tiles: relative, with forward slashes.
 */
export type Store = {
  /** Returns the bytes at `path`, or null if there are none. */
  readonly get: (path: string) => Promise<Buffer | null>;
  /** Writes bytes that never change. Their memory may be used again once it has resolved. */
  readonly put: (path: string, bytes: Uint8Array) => Promise<void>;
  /** Writes bytes that may stand in the place of others: the checkpoint, and in recovery what a loss of power tore. */
  readonly replace: (path: string, bytes: Uint8Array) => Promise<void>;
  /** Resolves when everything put so far survives a loss of power. */
  readonly sync: () => Promise<void>;
  /** Called now and then while nothing is new: what is due by time alone. */
  readonly idle?: () => Promise<void>;
  /** Removes the partial tiles of a tile that is now full. Nothing else is ever removed. */
  readonly removePartials: (fullTilePath: string) => Promise<void>;
};

/** A path already holds other bytes. */
export class Conflict extends Error {
  override name = "Conflict";
}
