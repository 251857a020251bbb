/**
 * Looks whether somebody has put an older commit back, before a start claims the log with it. No checkpoint is written before its
 * commit, so one that this log's key signed over more entries shows it; to go on would contradict what is signed. The moving
 * checkpoint may have gone back as well: those that are kept under their size are locked.
 */
import { each } from "../each.ts";
import { MeshsealError } from "../errors.ts";
import { parseCheckpoint } from "../log/checkpoint.ts";
import { MAX_NOTE_BYTES, parseNote } from "../log/note.ts";
import { type Bucket, TooLarge } from "./bucket.ts";
import { COMMIT_KEY } from "./claim.ts";
import { MAX_COMMIT_BYTES, parseCommit } from "./commit.ts";
import { keptCheckpointPath } from "./object.ts";

/** Requests at the same time. */
const AT_ONCE = 32;

/**
 * `signedSize` returns the size of a checkpoint that this log's key signed, or null: what is not signed says nothing, or anyone
 * who can write an object could stop the log. Throws MeshsealError with the way out.
 */
export async function refuseRollback(
  bucket: Pick<Bucket, "get" | "versions">,
  home: string,
  signedSize: (note: Buffer) => number | null,
): Promise<void> {
  const held = await bucket.get(`${home}${COMMIT_KEY}`, MAX_COMMIT_BYTES);
  const note = held === null ? null : parseNote(Buffer.from(parseCommit(held.bytes)?.note ?? ""));
  const size = (note === null ? null : parseCheckpoint(note.text))?.size ?? 0;
  const keys = [`${home}log/checkpoint`];
  // What is kept can be a thousand days' worth: only keys of larger sizes are listed.
  await each(largerThan(keptCheckpointPath(size)), AT_ONCE, async (prefix) => {
    for await (const { key, isLatest, isDeleteMarker } of bucket.versions(`${home}${prefix}`)) {
      if (isLatest && !isDeleteMarker) keys.push(key);
    }
  });
  await each(keys, AT_ONCE, async (key) => {
    const signed = await read(bucket, key).then((bytes) => bytes && signedSize(bytes));
    if (signed === null || signed <= size) return;
    throw new MeshsealError(
      `${key} covers ${signed} entries, ${home}${COMMIT_KEY} only ${size}: somebody has put an older version of it back, and to go on from there would contradict what is signed. Remove that version, then start again.`,
    );
  });
}

async function read(bucket: Pick<Bucket, "get">, key: string): Promise<Buffer | null> {
  try {
    return (await bucket.get(key, MAX_NOTE_BYTES))?.bytes ?? null;
  } catch (error) {
    if (error instanceof TooLarge) return null;
    throw error;
  }
}

/** Returns prefixes of all paths of kept checkpoints that are larger than one, and of no other. */
function largerThan(path: string): string[] {
  const prefixes: string[] = [];
  for (let at = "checkpoints/".length; at < path.length; at++) {
    for (let digit = Number(path[at]) + 1; digit < 10; digit++) {
      prefixes.push(`${path.slice(0, at)}${digit}`);
    }
  }
  return prefixes;
}
