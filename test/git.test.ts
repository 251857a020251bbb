import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { type Anchor, SUFFIXES, type Subject } from "../exporter/anchor/anchor.ts";
import {
  BRANCH_PATTERN,
  checkpointPath,
  gitRemote,
  REMOTE_PATTERN,
} from "../exporter/anchor/git.ts";
import { Proofs } from "../exporter/anchor/proofs.ts";
import { parsePolicy } from "../exporter/audit/policy.ts";
import { inDirectory } from "../exporter/audit/proofs.ts";
import type { VerifyReport } from "../exporter/audit/report.ts";
import { verifyLog } from "../exporter/audit/verify.ts";
import { openCheckpoint } from "../exporter/log/checkpoint.ts";
import { startGitServer } from "./support/git-server.ts";
import { type MemoryLog, memoryLog } from "./support/memory-log.ts";

const T0 = 1_767_139_200;
const ORIGIN = "log.example/git";
let home = "";
let remote = "";
let log: MemoryLog;

const git = (dir: string, ...args: string[]): string =>
  execFileSync("git", ["-C", dir, ...args], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
  }).trim();

function bare(name: string): string {
  const dir = join(home, name);
  mkdirSync(dir);
  git(dir, "init", "--quiet", "--bare", "--initial-branch=main");
  return dir;
}

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), "meshseal-git-"));
  remote = bare("remote.git");
  log = await memoryLog(ORIGIN, "git");
});

function anchorOf(of: string, name = "archive"): Anchor {
  const times = { everyMs: 1000, timeoutMs: 60_000 };
  return gitRemote({ name, remote: of, branch: "main", ...times }, join(home, "data"), ORIGIN);
}

async function grown(from: MemoryLog, entries: number): Promise<Subject> {
  const note = await from.grow(entries, T0);
  const { size, root } = openCheckpoint(note, from.verifier) ?? { size: -1, root: Buffer.alloc(0) };
  return { size, root, note, prove: async () => [] };
}

const submit = async (
  anchor: Anchor,
  subject: Subject,
): Promise<{ commit: string; remote: string }> =>
  JSON.parse((await anchor.submit(subject, AbortSignal.timeout(60_000))).bytes.toString());

async function verified(clone: string, of = log): Promise<VerifyReport> {
  const policy = {
    logs: [{ key: of.verifier.vkey }],
    git: [{ name: "archive", clone, remote: "https://git.example/archive" }],
    require: [{ anchor: "git", maxAgeSeconds: 60 }],
  };
  const parsed = parsePolicy(JSON.stringify(policy), (name) => readFileSync(name));
  return await verifyLog(of.source, { policy: parsed });
}

test("each checkpoint is a commit on top of what is there; a clone proves it offline", async () => {
  const anchor = anchorOf(remote);
  for (const entries of [3, 300, 1]) await submit(anchor, await grown(log, entries));
  // Somebody else writes to the branch too: nothing of theirs is touched.
  const other = join(home, "other");
  git(home, "clone", "--quiet", remote, other);
  writeFileSync(join(other, "README"), "of others\n");
  git(other, "add", ".");
  git(other, "-c", "user.name=o", "-c", "user.email=o@o", "commit", "--quiet", "-m", "other");
  git(other, "push", "--quiet");
  const subject = await grown(log, 2);
  const { commit } = await submit(anchor, subject);
  expect(git(remote, "show", "main:README")).toBe("of others");
  expect(git(remote, "rev-parse", "main")).toBe(commit);
  expect(git(remote, "rev-list", "--count", "main")).toBe("5");
  // The same once more, as after an answer that was lost: no second commit.
  expect((await submit(anchor, subject)).commit).toBe(commit);

  const clone = join(home, "clone");
  git(home, "clone", "--quiet", remote, clone);
  const report = await verified(clone);
  expect(report.verdict).toBe("verified");
  const [found] = report.anchors;
  expect(found?.says).toMatch(
    new RegExp(
      `^The first 306 entries are in the history of https://git.example/archive at commit ${commit}, committed at 2.*Z by the log's own clock; 4 checkpoints`,
    ),
  );
});

test("a remote that took commits back, or lost its branch, is an alarm, and is not written to", async () => {
  const own = bare("rewritten.git");
  const anchor = anchorOf(own, "rewritten");
  await submit(anchor, await grown(log, 1));
  const { commit } = await submit(anchor, await grown(log, 1));
  git(own, "update-ref", "refs/heads/main", git(own, "rev-parse", `${commit}~1`));
  await expect(submit(anchor, await grown(log, 1))).rejects.toMatchObject({ isAlarm: true });
  expect(git(own, "rev-parse", "main")).not.toBe(commit);
  git(own, "update-ref", "-d", "refs/heads/main");
  await expect(submit(anchor, await grown(log, 1))).rejects.toThrow(/the branch main is gone/);
  // A new home has no memory, and begins anew.
  expect((await submit(anchorOf(own, "anew"), await grown(log, 1))).commit).toMatch(
    /^[0-9a-f]{40}$/,
  );
});

describe("verify", () => {
  test("a history that contradicts the log is tampering: rolled back, or forked", async () => {
    const clone = join(home, "clone");
    const shorter = await memoryLog(ORIGIN, "git");
    await shorter.grow(100, T0);
    const report = await verified(clone, shorter);
    expect(report.verdict).toBe("tampered");
    expect(report.findings[0]).toMatchObject({ cause: "anchor-contradicted" });
    expect(report.findings[0]?.message).toContain("https://git.example/archive at commit ");
  });

  test("a commit that the remote had taken, and that is not in its history any more, is named", async () => {
    const proofs = new Proofs(join(home, "proofs"));
    const size = 300;
    const other = await memoryLog(ORIGIN, "git");
    const note = await other.grow(size, T0);
    const [day, suffix] = ["2026-01-01", SUFFIXES.git];
    const proof = { remote: "https://git.example/archive", branch: "main", commit: "f".repeat(40) };
    proofs.keepCheckpoint(day, size, note);
    proofs.keep(
      { day, size, name: "archive", suffix, isPending: false },
      Buffer.from(JSON.stringify(proof)),
    );
    const given = { logs: [{ key: log.verifier.vkey }] };
    const report = async (git: object[]): Promise<VerifyReport> => {
      const policy = parsePolicy(JSON.stringify({ ...given, git }), (name) => readFileSync(name));
      return await verifyLog(log.source, { policy, proofs: inDirectory(proofs.dir) });
    };
    const rewritten = await report([{ name: "archive", clone: join(home, "clone") }]);
    expect(rewritten.findings).toMatchObject([{ severity: "tampered", cause: "git-rewritten" }]);
    // Without a clone nothing is said of it.
    const blind = await report([]);
    expect(blind.verdict).toBe("verified");
    expect(blind.anchors).toMatchObject([{ kind: "git", status: "not-checked" }]);
  });

  test("what another key signed counts for nothing, and a clone that is none cannot be said", async () => {
    const own = bare("foreign.git");
    const foreign = await memoryLog(ORIGIN, "another key");
    await submit(anchorOf(own, "foreign"), await grown(foreign, 5));
    const missing = await verified(own);
    expect(missing.findings).toMatchObject([{ severity: "incomplete", cause: "anchor-missing" }]);
    const none = await verified(join(home, "nothing"));
    expect(none.verdict).toBe("cannot-say");
  });
});

test("over HTTP, as git's own server speaks it", async () => {
  bare("http.git");
  const server = await startGitServer(home);
  try {
    const url = `http://user:secret@127.0.0.1:${server.port}/http.git`;
    const proof = await submit(anchorOf(url, "http"), await grown(log, 1));
    await submit(anchorOf(url, "http"), await grown(log, 1));
    expect(proof.remote).toBe(`http://127.0.0.1:${server.port}/http.git`);
    expect(git(join(home, "http.git"), "rev-list", "--count", "main")).toBe("2");
    await expect(
      submit(anchorOf(`http://127.0.0.1:${server.port}/none.git`, "none"), await grown(log, 1)),
    ).rejects.toMatchObject({ name: "AnchorError", isAlarm: false });
  } finally {
    await server.stop();
  }
});

test("remotes and branches that git could take for something else are refused", () => {
  for (const good of [
    "https://git.example/a.git",
    "git@git.example:a/b.git",
    "/srv/a.git",
    "file:///a",
  ])
    expect(good).toMatch(REMOTE_PATTERN);
  for (const bad of [
    "--upload-pack=x",
    "ext::sh -c x",
    "a b",
    "",
    "x",
    "-oProxyCommand=x:y",
    "h:-x",
  ])
    expect(bad).not.toMatch(REMOTE_PATTERN);
  for (const bad of ["-x", "a..b", "a//b", "/a", "a.lock", "a b", "", "a/", ".a", "a~1", "a:b"])
    expect(bad).not.toMatch(BRANCH_PATTERN);
  fc.assert(
    fc.property(fc.string({ unit: "grapheme", minLength: 1, maxLength: 600 }), (origin) => {
      if (!origin.isWellFormed()) return;
      expect(checkpointPath(origin)).toMatch(/^checkpoints\/[A-Za-z0-9\-_.!~*'()%]{1,200}$/);
    }),
  );
});
