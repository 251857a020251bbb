/** The checkpoints of a log in the history of a clone that the verifier fetched himself: what the anchor `git` wrote there, and anybody else. */
import { checkpointPath } from "../anchor/git.ts";
import { git } from "../anchor/git-command.ts";
import { MAX_NOTE_BYTES } from "../log/note.ts";
import type { GitTrust } from "./trust.ts";

/** Commits that are read at most, the newest ones: one every ten minutes for ten years. */
const MAX_COMMITS = 500_000;
const COMMITS_AT_ONCE = 1_000;

export type CommittedNote = {
  readonly commit: string;
  /** When it was committed, by the committer's own clock, Unix seconds. */
  readonly time: number;
  readonly note: Buffer;
};

/** Yields what each commit of the branch that changed the log's file has there, oldest first. Throws an Error that says what is wrong with the clone. */
export async function* readHistory(
  { clone, branch }: GitTrust,
  origin: string,
): AsyncGenerator<CommittedNote> {
  const path = checkpointPath(origin);
  const tip = await tipOf(clone, branch);
  const format = ["--format=%H %ct", "--topo-order", `--max-count=${MAX_COMMITS}`];
  const { code, stdout, stderr } = await git(clone, ["log", ...format, tip, "--", path]);
  if (code !== 0) throw new Error(`git log failed: ${stderr.slice(0, 200).trim()}`);
  const commits = stdout.toString().split("\n").filter(Boolean).reverse();
  for (let at = 0; at < commits.length; at += COMMITS_AT_ONCE) {
    const some = commits.slice(at, at + COMMITS_AT_ONCE).map((line) => line.split(" "));
    const notes = await blobs(
      clone,
      some.map(([commit]) => `${commit}:${path}`),
    );
    for (const [i, [commit = "", time = ""]] of some.entries()) {
      const note = notes[i];
      if (note != null) yield { commit, time: Number(time), note };
    }
  }
}

/** In a clone the remote's branch is the one that was fetched; in a mirror there is only the branch itself. */
async function tipOf(clone: string, branch: string): Promise<string> {
  for (const ref of [`refs/remotes/origin/${branch}`, `refs/heads/${branch}`]) {
    const { code, stdout } = await git(clone, ["rev-parse", "--quiet", "--verify", ref]).catch(
      (error: unknown) => {
        throw new Error(`${clone}: ${error instanceof Error ? error.message : error}`);
      },
    );
    if (code === 0) return stdout.toString().trim();
  }
  throw new Error(`${clone} is no clone with a branch ${branch}`);
}

/** Resolves to the bytes of each object; null where there is none, or more than a note has. */
async function blobs(clone: string, names: readonly string[]): Promise<(Buffer | null)[]> {
  const input = `${names.join("\n")}\n`;
  const { code, stdout } = await git(clone, ["cat-file", "--batch"], { input });
  if (code !== 0) throw new Error(`git cat-file failed on ${clone}`);
  const found: (Buffer | null)[] = [];
  for (let at = 0; at < stdout.length; ) {
    const end = stdout.indexOf("\n", at);
    const line = stdout.toString("latin1", at, end);
    at = end + 1;
    const [, kind, bytes] = /^[0-9a-f]{40,64} (\w+) (\d{1,10})$/.exec(line) ?? [];
    if (kind === undefined) {
      found.push(null);
      continue;
    }
    const size = Number(bytes);
    const isNote = kind === "blob" && size <= MAX_NOTE_BYTES;
    found.push(isNote ? stdout.subarray(at, at + size) : null);
    at += size + 1;
  }
  return found;
}
