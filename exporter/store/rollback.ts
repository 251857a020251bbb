/**
 * Looks whether somebody has put an older commit back, before a start claims the log with it. No checkpoint is written before its
 * commit, so one that this log's key signed over more entries shows it; to go on would contradict what is signed. The moving
 * checkpoint may have gone back as well: those that are kept under their size are locked.
 */
import { each } from "../each.ts";
import { MeshsealError } from "../errors.ts";
import { parseCheckpoint } from "../log/checkpoint.ts";
import { MAX_NOTE_BYTES, parseNote } from "../log/note.ts";
import { type Bucket, TooLarge, type Version } from "./bucket.ts";
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
  bucket: Pick<Bucket, "get" | "versions" | "keysAfter">,
  home: string,
  signedSize: (note: Buffer) => number | null,
): Promise<void> {
  const held = await bucket.get(`${home}${COMMIT_KEY}`, MAX_COMMIT_BYTES);
  const note = held === null ? null : parseNote(Buffer.from(parseCommit(held.bytes)?.note ?? ""));
  const size = (note === null ? null : parseCheckpoint(note.text))?.size ?? 0;
  const keys = [`${home}log/checkpoint`];
  await each(larger(bucket, `${home}${keptCheckpointPath(size)}`), AT_ONCE, async (list) => {
    for await (const key of list) keys.push(key);
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

/**
 * Returns lists of the keys of all kept checkpoints that are larger than the one at `key`: a size always has as many digits, so their
 * keys are behind it. What is kept can be a thousand days' worth: a list of all takes too long.
 */
function larger(
  bucket: Pick<Bucket, "versions" | "keysAfter">,
  key: string,
): AsyncGenerator<string>[] {
  const digits = key.lastIndexOf("/") + 1;
  if (bucket.keysAfter !== undefined) return [bucket.keysAfter(key.slice(0, digits), key)];
  const lists: AsyncGenerator<string>[] = [];
  for (let at = digits; at < key.length; at++) {
    for (let digit = Number(key[at]) + 1; digit < 10; digit++)
      lists.push(live(bucket.versions(`${key.slice(0, at)}${digit}`)));
  }
  return lists;
}

async function* live(versions: AsyncIterable<Version>): AsyncGenerator<string> {
  for await (const { key, isLatest, isDeleteMarker } of versions)
    if (isLatest && !isDeleteMarker) yield key;
}
