/**
 * A Git remote: each checkpoint is a commit on a branch, on top of what is there. Others who pull the branch hold the history of checkpoints,
 * and a remote that took commits back is found. Nothing is ever forced. Exporters may share a branch: each writes a file of its own.
 *
 *     <data>/git/<name>                             a bare repository
 *     refs/meshseal/pushed                          the newest commit that the remote has taken
 *     checkpoints/<origin, percent-encoded>         the file in the branch
 */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../log/merkle.ts";
import { type Anchor, AnchorError, SUFFIXES, type Target } from "./anchor.ts";
import { type GitOptions, git } from "./git-command.ts";

/** URLs, `host:path`, and paths from the root on: nothing that git could take for an option or for a helper program. */
export const REMOTE_PATTERN: RegExp =
  /^(?:(?:https?|ssh|git|file):\/\/[^\s]+|\/[^\s]*|[A-Za-z0-9][A-Za-z0-9.@_-]*:(?!:)[^\s-][^\s]*)$/;
export const BRANCH_PATTERN: RegExp =
  /^(?!.*(?:\.\.|\/\/|\.lock(?:\/|$)|\/\.))[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,198}[A-Za-z0-9_-])?$/;

const REMOTE_REF = "refs/meshseal/remote";
const PUSHED_REF = "refs/meshseal/pushed";
const MAX_FILE_NAME = 200;

export type GitTarget = Omit<Target, "url"> & { readonly remote: string; readonly branch: string };

/** Returns the path in the branch where a log's newest checkpoint stands. */
export function checkpointPath(origin: string): string {
  const name = encodeURIComponent(origin);
  const short =
    name.length <= MAX_FILE_NAME ? name : Buffer.from(sha256(Buffer.from(origin))).toString("hex");
  return `checkpoints/${short}`;
}

/** Returns the anchor of the log named `origin`; its repositories are below `home`. */
export function gitRemote(target: GitTarget, home: string, origin: string): Anchor {
  const { remote, branch, ...rest } = target;
  const dir = join(home, target.name);
  const path = checkpointPath(origin);
  return {
    ...rest,
    kind: "git",
    suffix: SUFFIXES.git,
    keepEveryMs: 0,
    submit: async ({ size, note }, signal) => {
      const repository = new Repository(dir, signal);
      await repository.open();
      const tip = await repository.fetch(remote, branch);
      const message = `${origin}: checkpoint of ${size} entries\n`;
      const commit = await repository.commit(tip, path, note, message, origin);
      if (commit !== tip)
        await repository.must("push", "--quiet", "--", remote, `${commit}:refs/heads/${branch}`);
      await repository.must("update-ref", PUSHED_REF, commit);
      const proof = { remote: withoutPassword(remote), branch, commit, path };
      return { bytes: Buffer.from(`${JSON.stringify(proof)}\n`), isFinal: true };
    },
  };
}

class Repository {
  readonly #dir: string;
  readonly #signal: AbortSignal;

  constructor(dir: string, signal: AbortSignal) {
    this.#dir = dir;
    this.#signal = signal;
  }

  async open(): Promise<void> {
    if (existsSync(join(this.#dir, "HEAD"))) return;
    mkdirSync(this.#dir, { recursive: true });
    await this.must("init", "--quiet", "--bare", "--template=", ".");
  }

  /** Resolves to the branch's commit at the remote, "" if there is no such branch. Rejects with an alarm where what was pushed is gone. */
  async fetch(remote: string, branch: string): Promise<string> {
    const listed = await this.must("ls-remote", "--heads", "--", remote, `refs/heads/${branch}`);
    const pushed = await this.#resolve(PUSHED_REF);
    if (listed === "") {
      if (pushed === "") return "";
      throw new AnchorError(
        `the branch ${branch} is gone, which held commit ${pushed}: the remote was rewritten`,
        true,
      );
    }
    const spec = `+refs/heads/${branch}:${REMOTE_REF}`;
    await this.must("fetch", "--quiet", "--no-tags", "--", remote, spec);
    const tip = await this.#resolve(REMOTE_REF);
    if (pushed === "") return tip;
    const { code } = await this.#run(["merge-base", "--is-ancestor", pushed, tip]);
    if (code === 0) return tip;
    throw new AnchorError(
      `commit ${pushed}, which the remote had taken, is not below ${tip}: the branch ${branch} was rewritten`,
      true,
    );
  }

  /** Resolves to a commit on `tip` that has `bytes` at `path`: `tip` itself if it has them. */
  async commit(
    tip: string,
    path: string,
    bytes: Buffer,
    message: string,
    who: string,
  ): Promise<string> {
    const index = { GIT_INDEX_FILE: join(this.#dir, "meshseal-index") };
    const blob = await this.#must(["hash-object", "-w", "--stdin"], { input: bytes });
    await this.#must(tip === "" ? ["read-tree", "--empty"] : ["read-tree", tip], { env: index });
    await this.#must(["update-index", "--add", "--cacheinfo", `100644,${blob},${path}`], {
      env: index,
    });
    const tree = await this.#must(["write-tree"], { env: index });
    // An attempt before this one got through, and its answer did not.
    if (tip !== "" && tree === (await this.#resolve(`${tip}^{tree}`))) return tip;
    const ident = {
      GIT_AUTHOR_NAME: who,
      GIT_AUTHOR_EMAIL: "log@meshseal.invalid",
      GIT_COMMITTER_NAME: who,
      GIT_COMMITTER_EMAIL: "log@meshseal.invalid",
    };
    const parents = tip === "" ? [] : ["-p", tip];
    return await this.#must(["commit-tree", tree, ...parents], { input: message, env: ident });
  }

  must(...args: string[]): Promise<string> {
    return this.#must(args, {});
  }

  async #must(args: readonly string[], options: GitOptions): Promise<string> {
    const { code, stdout, stderr } = await this.#run(args, options);
    if (code === 0) return stdout.toString().trim();
    const said = withoutPassword(stderr.trim().slice(0, 400));
    throw new AnchorError(`git ${args[0]} failed (${code}): ${said}`);
  }

  async #resolve(name: string): Promise<string> {
    const { stdout } = await this.#run(["rev-parse", "--quiet", "--verify", name]);
    return stdout.toString().trim();
  }

  #run(args: readonly string[], options: GitOptions = {}): ReturnType<typeof git> {
    return git(this.#dir, args, { ...options, signal: this.#signal });
  }
}

/** Proofs and messages are public: a user's name and password in a URL are not. */
function withoutPassword(text: string): string {
  return text.replace(/(\w:\/\/)[^/@\s]*@/g, "$1");
}
