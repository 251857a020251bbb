/**
 * Runs `git` (2.31 or newer), for the anchor and for verify: never asks anybody anything, never runs a program that a URL names, and takes no
 * repository from its environment.
 */
import { execFile } from "node:child_process";
import { codeOf } from "../errors.ts";

const MAX_OUTPUT_BYTES = 64 * 1024 * 1024;
/** What would lead git to another repository, index or configuration than the one it is given. */
const REPOSITORY = [
  "GIT_DIR",
  "GIT_WORK_TREE",
  "GIT_INDEX_FILE",
  "GIT_OBJECT_DIRECTORY",
  "GIT_ALTERNATE_OBJECT_DIRECTORIES",
  "GIT_COMMON_DIR",
  "GIT_NAMESPACE",
];
const SETTINGS = ["-c", "protocol.ext.allow=never", "-c", "gc.autoDetach=false"];

export type GitResult = {
  /** -1 where it was ended by a signal. */
  readonly code: number;
  readonly stdout: Buffer;
  readonly stderr: string;
};

export type GitOptions = {
  readonly signal?: AbortSignal | undefined;
  readonly input?: string | Buffer;
  readonly env?: Readonly<Record<string, string>>;
};

/** Resolves to what it answered, whatever its exit code. Rejects if it cannot be run, or was aborted. */
export function git(
  dir: string,
  args: readonly string[],
  { signal, input, env }: GitOptions = {},
): Promise<GitResult> {
  const inherited = { ...process.env };
  for (const name of REPOSITORY) delete inherited[name];
  const ssh = process.env["GIT_SSH_COMMAND"] ?? "ssh -oBatchMode=yes";
  const whole = {
    ...inherited,
    GIT_TERMINAL_PROMPT: "0",
    GIT_SSH_COMMAND: ssh,
    GIT_OPTIONAL_LOCKS: "0",
    LC_ALL: "C",
    ...env,
  };
  return new Promise((resolve, reject) => {
    const child = execFile(
      "git",
      ["-C", dir, ...SETTINGS, ...args],
      { encoding: "buffer", env: whole, maxBuffer: MAX_OUTPUT_BYTES, signal },
      (error, stdout, stderr) => {
        const fault = error === null ? "" : codeOf(error);
        if (signal?.aborted) reject(new Error(`git ${args[0]} took too long`));
        else if (fault !== "") reject(new Error(`git cannot be run: ${fault}`));
        else
          resolve({
            code: error === null ? 0 : exitCode(error),
            stdout,
            stderr: stderr.toString(),
          });
      },
    );
    // A child that ends before it has read all is no error of ours: its exit code says what was wrong.
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(input ?? "");
  });
}

function exitCode(error: Error): number {
  return "code" in error && typeof error.code === "number" ? error.code : -1;
}
