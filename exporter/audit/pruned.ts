/**
 * Logs that were pruned (FORMAT.md section 6): where one begins, what stands for the entries before, and whether its `retention` and
 * `hold` entries allow that.
 */
import { createHash } from "node:crypto";
import { bytesOf, type Entry, uintOf } from "../../record/codec.ts";
import {
  F_HOLD_ACTION,
  F_HOLD_FROM,
  F_HOLD_NAME,
  F_RETENTION_DIGEST,
  F_RETENTION_INDEX,
  HOLD_PLACED,
  KIND_HOLD,
  KIND_RETENTION,
} from "../../record/fields.ts";
import {
  formatRetention,
  MAX_RETENTION_BYTES,
  PRUNE_STEP,
  parseRetention,
  RetentionState,
  takeBundle,
} from "../log/retention.ts";
import { TILE_WIDTH, tilePath } from "../log/tile.ts";
import type { Findings } from "./report.ts";
import { retentionName } from "./retention-texts.ts";
import type { Source } from "./source.ts";
import { MAX_BUNDLE_BYTES, type Tiles } from "./tiles.ts";

/** Texts of one log that are looked at: more than a century of monthly ones. */
const MAX_TEXTS = 2000;

/** What a pruned log begins with. */
export type Pruned = {
  /** The minimum index. */
  readonly index: number;
  /** SHA-256 of the text, in hex. */
  readonly digest: string;
  /** Null where the text is none. */
  readonly state: RetentionState | null;
};

/** Returns where the log of `size` entries in `source` begins; null where it has its first bundle, or says nothing of a later beginning. */
export async function readPruned(source: Source, size: number): Promise<Pruned | null> {
  const { retention } = source;
  if (retention === undefined || size === 0) return null;
  const isThere = async (index: number): Promise<boolean> => {
    const width = Math.min(TILE_WIDTH, size - index);
    const path = tilePath({ level: "entries", index: index / TILE_WIDTH, width });
    return (await source.read(path, MAX_BUNDLE_BYTES)) !== null;
  };
  if (await isThere(0)) return null;
  const texts = (await retention.list())
    .filter((index) => index > 0 && index < size && index % PRUNE_STEP === 0)
    .sort((a, b) => a - b)
    .slice(-MAX_TEXTS);
  for (const index of texts) {
    if (!(await isThere(index))) continue;
    const bytes = await retention.read(index, MAX_RETENTION_BYTES);
    const parsed = bytes === null ? null : parseRetention(bytes);
    const digest = createHash("sha256")
      .update(bytes ?? "")
      .digest("hex");
    return { index, digest, state: parsed?.index === index ? parsed : null };
  }
  return null;
}

/** What a log says of retention and holds, in its order. Pure. */
export class RetentionWords {
  readonly #findings: Findings;
  /** First entry of each hold in force, by name. */
  readonly #holds: Map<string, number>;
  readonly said: { readonly index: number; readonly minimum: number; readonly digest: string }[] =
    [];

  /** `begin` stands for the entries before the first that is visited. */
  constructor(findings: Findings, begin: RetentionState | null) {
    this.#findings = findings;
    this.#holds = new Map([...(begin?.holds ?? [])].map(([name, { from }]) => [name, from]));
  }

  visit(entry: Entry, index: number): void {
    if (entry.kind === KIND_HOLD) {
      const name = Buffer.from(bytesOf(entry, F_HOLD_NAME) ?? []).toString("latin1");
      if (uintOf(entry, F_HOLD_ACTION) !== HOLD_PLACED) this.#holds.delete(name);
      else this.#holds.set(name, uintOf(entry, F_HOLD_FROM) ?? 0);
    }
    if (entry.kind !== KIND_RETENTION) return;
    const minimum = uintOf(entry, F_RETENTION_INDEX) ?? -1;
    const digest = Buffer.from(bytesOf(entry, F_RETENTION_DIGEST) ?? []).toString("hex");
    this.said.push({ index, minimum, digest });
    const at = { severity: "tampered", index, seq: entry.seq } as const;
    if (minimum < 0 || minimum > index || minimum % PRUNE_STEP !== 0) {
      const message = `the retention entry ${index} names ${minimum} as the first entry that stays, which it cannot be`;
      this.#findings.add({ ...at, cause: "retention", message });
    }
    for (const [name, from] of this.#holds) {
      if (minimum <= from) continue;
      const message = `the retention entry ${index} lets go of entries below ${minimum}, which the hold ${JSON.stringify(name)} keeps from ${from} on`;
      this.#findings.add({ ...at, cause: "hold-broken", message });
    }
  }
}

/** Whether what is gone may be gone, and whether what stands for entries that are still there is what they give. */
export async function checkRetention(
  tiles: Tiles,
  pruned: Pruned | null,
  { said }: RetentionWords,
  origin: string,
  findings: Findings,
  notes: string[],
): Promise<void> {
  if (pruned !== null) {
    const { index, digest, state } = pruned;
    const file = `retention/${retentionName(index)}`;
    const entry = said.find((one) => one.minimum === index && one.digest === digest);
    const fault =
      state === null
        ? `${file} is damaged: it should stand for ${index} pruned entries`
        : state.origin !== origin
          ? `${file} is of the log ${state.origin}`
          : entry === undefined
            ? `the first ${index} entries are gone, and no retention entry says so with the digest of ${file}`
            : null;
    if (fault !== null) {
      findings.add({ severity: "tampered", cause: "retention", file, message: fault });
    } else {
      notes.push(
        `Entries 0 to ${index - 1} were pruned, as entry ${entry?.index} says; their hashes are in the tree, and ${state?.chains.size} chains go on from ${file}.`,
      );
    }
  }
  const first = pruned?.index ?? 0;
  const rest = said.filter(({ minimum }) => minimum > first && minimum <= tiles.size);
  if (rest.length === 0 || (pruned !== null && pruned.state === null)) return;
  rest.sort((a, b) => a.minimum - b.minimum);
  const digests = await digestsAt(tiles, pruned?.state ?? null, origin, rest);
  for (const { index, minimum, digest } of rest) {
    const found = digests.get(minimum);
    if (found === undefined || found === digest) continue;
    const message = `the retention entry ${index} commits to something else than the first ${minimum} entries give`;
    findings.add({ severity: "tampered", cause: "retention", index, message });
  }
  notes.push(
    `Entries below ${rest.at(-1)?.minimum} may be pruned; those from ${first} on are there.`,
  );
}

/** Makes the texts again that retention entries commit to, from the entries that are there. */
async function digestsAt(
  tiles: Tiles,
  begin: RetentionState | null,
  origin: string,
  wanted: readonly { readonly minimum: number }[],
): Promise<Map<number, string>> {
  const digests = new Map<number, string>();
  const state = begin === null ? new RetentionState(origin) : copyOf(begin);
  for (const { minimum } of wanted) {
    while (state.index < minimum) {
      const index = state.index / TILE_WIDTH;
      const bundle = await tiles.bundle(index);
      // What is wrong with it is named by who checks the entries.
      if (bundle === null || !takeBundle(state, bundle, tiles.tileAt("entries", index).width))
        return digests;
    }
    digests.set(minimum, createHash("sha256").update(formatRetention(state)).digest("hex"));
  }
  return digests;
}

function copyOf(state: RetentionState): RetentionState {
  return parseRetention(formatRetention(state)) ?? state;
}
