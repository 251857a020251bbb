/**
 * What outsiders say about a log's checkpoints: each anchor that a key was given for, what it proves, and whether what the policy
 * asks for is there. Pure but for reading tiles.
 */
import { decodeEntry } from "../../record/codec.ts";
import { cosignedAt } from "../log/cosignature.ts";
import { openNote } from "../log/note.ts";
import { parseBundle, TILE_WIDTH } from "../log/tile.ts";
import { hasQuorum, type TlogPolicy } from "../log/tlog-policy.ts";
import type { AnchorKind, Policy, Requirement } from "./policy.ts";
import type { AnchorReport, Findings } from "./report.ts";
import type { Tiles } from "./tiles.ts";

/** How far the anchors of a kind reach. */
export type Reach = { readonly kind: AnchorKind; readonly name: string; readonly size: number };

/** Returns what the policy's witnesses say on a checkpoint's note, and the size that the quorum covers, or -1. */
export function readCosignatures(
  note: Uint8Array,
  size: number,
  policy: TlogPolicy,
): { reports: AnchorReport[]; quorumSize: number } {
  const reports: AnchorReport[] = [];
  const cosigners = new Set<string>();
  for (const { name, verifier } of policy.witnesses) {
    // One key at a time: a cosignature that does not verify spoils no other.
    const signature = openNote(note, [verifier])?.verified[0];
    if (signature === undefined) continue;
    cosigners.add(name);
    const time = isoTime(cosignedAt(signature));
    reports.push({
      kind: "witness",
      name: verifier.name,
      status: "verified",
      treeSize: size,
      time,
      says: `The first ${size} entries were witnessed by ${verifier.name} at ${time}: it has seen no other history of this log.`,
    });
  }
  const { quorum } = policy;
  const isEnough = quorum !== null && hasQuorum(policy, cosigners);
  return { reports, quorumSize: isEnough ? size : -1 };
}

/** Adds a finding for each requirement that `reached` does not meet. */
export async function checkRequired(
  tiles: Tiles,
  policy: Policy,
  reached: readonly Reach[],
  findings: Findings,
): Promise<void> {
  for (const required of policy.required) {
    const size = Math.max(
      0,
      ...reached.filter((reach) => meets(reach, required)).map((reach) => reach.size),
    );
    const lag = await lagSeconds(tiles, size);
    if (size > 0 && lag !== null && lag <= required.maxAgeSeconds) continue;
    const what = describe(required, policy);
    const late =
      lag === null ? "" : ` in ${Math.round(lag)} s, where ${required.maxAgeSeconds} s are allowed`;
    const message =
      size === 0
        ? `the policy asks for ${what}, and there is none`
        : `the policy asks for ${what}, and what came after the first ${size} entries has none${late}`;
    findings.add({ severity: "incomplete", cause: "anchor-missing", message });
  }
}

/** Time from the first entry that is not among the first `size` to the last entry: what the anchors leave open. */
async function lagSeconds(tiles: Tiles, size: number): Promise<number | null> {
  if (size >= tiles.size) return 0;
  const [first, last] = [await entryTime(tiles, size), await entryTime(tiles, tiles.size - 1)];
  return first === null || last === null ? null : Math.max(0, last - first) / 1e6;
}

async function entryTime(tiles: Tiles, index: number): Promise<number | null> {
  const at = Math.floor(index / TILE_WIDTH);
  const bundle = await tiles.bundle(at);
  const entries = bundle && parseBundle(bundle, tiles.tileAt("entries", at).width);
  const entry = entries?.[index % TILE_WIDTH];
  return (entry && decodeEntry(entry)?.time) ?? null;
}

function meets(reach: Reach, required: Requirement): boolean {
  if (reach.kind !== required.anchor) return false;
  return required.name === undefined || required.name === reach.name;
}

function describe({ anchor, name }: Requirement, { witnesses }: Policy): string {
  if (anchor === "witness") return `the quorum of witnesses "${witnesses.quorum}"`;
  return name === undefined ? `an anchor of kind ${anchor}` : `the anchor ${anchor} by ${name}`;
}

/** Returns Unix seconds as people read them. */
export function isoTime(seconds: number): string {
  return new Date(seconds * 1000).toISOString().replace(".000Z", "Z");
}
