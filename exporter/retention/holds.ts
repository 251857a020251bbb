/**
 * The holds in force, as the exporter remembers them between starts: a file beside the texts of retention. It follows from the `hold`
 * entries in the log, and is made from them again where it is missing.
 */
import { z } from "zod";
import type { HeldRange } from "../log/retention.ts";

export type Hold = HeldRange & {
  readonly reason: string;
  /** Up to which entry the bundles in it have a legal hold; buckets only. */
  readonly appliedTo: number;
};

export const HOLDS_FILE = "holds";
export const MAX_HOLDS = 1000;

/** What people call a hold: it stands in commands, paths and logs. */
export const HOLD_NAME: RegExp = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

const index = z.int().min(0);
const Schema = z.array(
  z.strictObject({
    name: z.string().max(512),
    from: index,
    to: index.nullable(),
    reason: z.string().max(512),
    appliedTo: index,
  }),
);

export function formatHolds(holds: ReadonlyMap<string, Hold>): Buffer {
  const list = [...holds].map(([name, hold]) => ({ name, ...hold }));
  return Buffer.from(`${JSON.stringify(list, null, 2)}\n`);
}

/** Returns the holds in `bytes`, or null unless they are such a file. */
export function parseHolds(bytes: Uint8Array): Map<string, Hold> | null {
  try {
    const parsed = Schema.safeParse(JSON.parse(Buffer.from(bytes).toString()));
    if (!parsed.success || parsed.data.length > MAX_HOLDS) return null;
    const holds = new Map(parsed.data.map(({ name, ...hold }) => [name, hold]));
    return holds.size === parsed.data.length ? holds : null;
  } catch {
    return null;
  }
}
