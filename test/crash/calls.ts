/**
 * The system calls that an exporter makes on its data, as strace(1) shows them, and how strace is told of one of them.
 *
 * strace counts calls for each thread. `when=3` alone means the third of every thread, and whichever comes first ends the exporter: the
 * others are never tried. So a call is the n-th of its name on its place, which one thread has to itself nearly always.
 */
import { createHash } from "node:crypto";
import { dirname, join } from "node:path";

export type Call = {
  readonly name: string;
  /** Path in the data directory; a `*` stands for the numbers of drafts and of partial tiles. */
  readonly place: string;
  /** From 1. */
  readonly nth: number;
  readonly faults: readonly string[];
};

const EIO = "error=EIO";
const ENOSPC = "error=ENOSPC";
const KILL = "signal=KILL";

/**
 * Names of calls that touch data, with the faults that they are given. A kill before a call that changes nothing is the kill before the next one
 * that does; and only what may need room finds none.
 */
const FAULTS: Readonly<Record<string, readonly string[]>> = {
  openat: [EIO],
  access: [EIO],
  statx: [EIO],
  newfstatat: [EIO],
  getdents64: [EIO],
  read: [EIO],
  pread64: [EIO],
  mmap: [EIO],
  fcntl: [EIO],
  close: [EIO, ENOSPC],
  write: [EIO, ENOSPC, KILL],
  pwrite64: [EIO, ENOSPC, KILL],
  fsync: [EIO, ENOSPC, KILL],
  fdatasync: [EIO, ENOSPC, KILL],
  ftruncate: [EIO, ENOSPC, KILL],
  mkdir: [EIO, ENOSPC, KILL],
  link: [EIO, ENOSPC, KILL],
  rename: [EIO, ENOSPC, KILL],
  unlink: [EIO, ENOSPC, KILL],
  rmdir: [EIO, ENOSPC, KILL],
};

export const TRACE_ALL: readonly string[] = ["-y", "-e", `trace=${Object.keys(FAULTS)}`];

/** Returns the calls on `dir` in what strace wrote with `-f` and TRACE_ALL. */
export function callsIn(trace: string, dir: string): Call[] {
  const counts = new Map<string, number>();
  const calls = new Map<string, Call>();
  for (const line of trace.split("\n")) {
    const [, thread, name = "", args = ""] = /^(\d+) +(\w+)\((.*)/.exec(line) ?? [];
    const path = [...args.matchAll(/["<]([^"<>]+)[">]/g)]
      .map(([, path = ""]) => path)
      .find((path) => path === dir || path === dirname(dir) || path.startsWith(`${dir}/`));
    if (path === undefined) continue;
    const place = placeOf(path, dir);
    const nth = (counts.get(`${thread} ${name} ${place}`) ?? 0) + 1;
    counts.set(`${thread} ${name} ${place}`, nth);
    const isCreating = name === "openat" && args.includes("O_CREAT");
    const faults = isCreating ? [EIO, ENOSPC, KILL] : (FAULTS[name] ?? []);
    const key = `${name} ${place} ${nth}`;
    if (!calls.has(key)) calls.set(key, { name, place, nth, faults });
  }
  return [...calls.values()];
}

/** Returns strace's arguments that inject `fault` at `call` of an exporter on `dir`. */
export function injection({ name, place, nth }: Call, fault: string, dir: string): string[] {
  const paths = pathsOf(place, dir).flatMap((path) => ["-P", path]);
  const args = ["-y", ...paths, "-e", `trace=${name}`, "-e", `inject=${name}:${fault}:when=${nth}`];
  // A filter in the kernel is faster, but with it strace 6.1 does not send every signal that it was told to.
  return fault === KILL ? args : ["--seccomp-bpf", ...args];
}

/** Returns which of `parts` parts the word belongs to, from 0: the same in every process. */
export function partOf(word: string, parts: number): number {
  return createHash("sha256").update(word).digest().readUInt32BE(0) % parts;
}

const DRAFTS = "unfinished/*";

function placeOf(path: string, dir: string): string {
  if (path === dirname(dir)) return "..";
  if (path === dir) return ".";
  return path
    .slice(dir.length + 1)
    .replace(/^unfinished\/\d+$/, DRAFTS)
    .replace(/\.p\/\d+$/, ".p/*");
}

/** strace takes whole paths only. */
function pathsOf(place: string, dir: string): string[] {
  if (!place.endsWith("*")) return [join(dir, place)];
  const from = place === DRAFTS ? 0 : 1;
  return Array.from({ length: 255 }, (_, i) => join(dir, place.slice(0, -1) + (from + i)));
}
