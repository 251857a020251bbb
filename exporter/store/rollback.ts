/**
 * Looks whether somebody has put an older commit back, before a start claims the log with it. No checkpoint is written before its
 * commit, so one that this log's key signed over more entries shows it; to go on would contradict what is signed. The moving
 * checkpoint may have gone back as well: those that are kept under their size are locked.
 */
import { each } from "../each.ts";
import { MeshsealError } from "../errors.ts";
import { parseCheckpoint } from "../log/checkpoint.ts";
import { MAX_NOTE_BYTES, parseNote } from "../log/note.ts";
import type { Bucket, Version } from "./bucket.ts";
import { COMMIT_KEY } from "./claim.ts";
import { MAX_COMMIT_BYTES, parseCommit } from "./commit.ts";
import { keptCheckpointPath } from "./object.ts";
import { nullIfTooLarge } from "./service.ts";

/** Requests at the same time. */
const AT_ONCE = 32;

/**
 * `signedSize` returns the size of a checkpoint that this log's key signed, or null: what is not signed says nothing, or anyone
 * who can write an object could stop the log. Throws MeshsealError with the way out.
 */
export async function refuseRollback(
  bucket: Pick<Bucket, "get" | "getVersion" | "versions" | "versionsAfter">,
  home: string,
  signedSize: (note: Buffer) => number | null,
): Promise<void> {
  const held = await bucket.get(`${home}${COMMIT_KEY}`, MAX_COMMIT_BYTES);
  const note = held === null ? null : parseNote(Buffer.from(parseCommit(held.bytes)?.note ?? ""));
  const size = (note === null ? null : parseCheckpoint(note.text))?.size ?? 0;
  const refuse = (key: string, bytes: Buffer | undefined): void => {
    const signed = bytes === undefined ? null : signedSize(bytes);
    if (signed === null || signed <= size) return;
    throw new MeshsealError(
      `${key} covers ${signed} entries, ${home}${COMMIT_KEY} only ${size}: somebody has put an older version of it back, and to go on from there would contradict what is signed. Remove that version, then start again.`,
    );
  };
  const moving = `${home}log/checkpoint`;
  refuse(moving, await newest(bucket, moving));
  const found: Version[] = [];
  await each(larger(bucket, `${home}${keptCheckpointPath(size)}`), AT_ONCE, async (list) => {
    for await (const version of list) if (!version.isDeleteMarker) found.push(version);
  });
  // Every version: what is locked cannot be removed, but anyone who can write can put something above it.
  await each(found, AT_ONCE, async ({ key, version }) => {
    const read =
      version === ""
        ? newest(bucket, key)
        : bucket.getVersion(key, version, MAX_NOTE_BYTES).then((one) => one?.bytes);
    refuse(key, await read);
  });
}

async function newest(bucket: Pick<Bucket, "get">, key: string): Promise<Buffer | undefined> {
  const blob = await bucket.get(key, MAX_NOTE_BYTES).catch(nullIfTooLarge);
  return blob?.bytes;
}

/**
 * Returns lists of the versions of all kept checkpoints that are larger than the one at `key`: a size always has as many digits, so
 * their keys are behind it. What is kept can be a thousand days' worth: a list of all takes too long.
 */
function larger(
  bucket: Pick<Bucket, "versions" | "versionsAfter">,
  key: string,
): AsyncGenerator<Version>[] {
  const digits = key.lastIndexOf("/") + 1;
  if (bucket.versionsAfter !== undefined) return [bucket.versionsAfter(key.slice(0, digits), key)];
  const lists: AsyncGenerator<Version>[] = [];
  for (let at = digits; at < key.length; at++) {
    for (let digit = Number(key[at]) + 1; digit < 10; digit++)
      lists.push(bucket.versions(`${key.slice(0, at)}${digit}`));
  }
  return lists;
}
