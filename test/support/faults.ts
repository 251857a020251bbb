/**
 * Faults of the file system, for code that runs in this process: every call of node:fs that touches a file below a planned
 * directory is counted, and the one that the plan names fails. Calls elsewhere are as they were.
 */
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { join } from "node:path";

/**
 * What happens at the call:
 * - `EIO`, `ENOSPC`: it fails and does nothing. `EIO-done`: it is done, and fails all the same.
 * - `short`: of a write only the first half is written, and the call says so.
 * - `torn`: half is written, and then the process is dead. `dead`: it is dead before. Every later call fails.
 */
export type FaultKind = "EIO" | "EIO-done" | "ENOSPC" | "short" | "torn" | "dead";

export type Plan = {
  /** Number of the call that fails, from 1; 0: none does. */
  readonly at: number;
  readonly kind: FaultKind;
  /** Names of the calls so far. */
  readonly calls: string[];
  isDead: boolean;
  /** Name of the call that failed, "" as long as none did. */
  failed: string;
};

const plans = new Map<string, Plan>();
const planOfFile = new Map<number, Plan>();

/** Plans a fault below `dir`, in place of the plan before. */
export function plan(dir: string, at: number, kind: FaultKind): Plan {
  const made: Plan = { at, kind, calls: [], isDead: false, failed: "" };
  plans.set(dir, made);
  return made;
}

/** Ends the plan of `dir`: nothing fails there from now on. */
export function unplan(dir: string): void {
  plans.delete(dir);
}

function planOf(path: unknown): Plan | undefined {
  if (typeof path === "number") return planOfFile.get(path);
  if (typeof path !== "string") return undefined;
  for (const [dir, found] of plans) if (path.startsWith(join(dir, "/"))) return found;
  return undefined;
}

const WRITES = /^(writeSync|FileHandle\.write)$/;
const CHANGES = /write|link|rename|mkdir|truncate|rm|sync/i;
const NEED_ROOM = /open|write|link|rename|mkdir|sync/i;

/** Tells if a fault of this kind at a call of this name is another case than an EIO or a death there. */
export function isCase(kind: FaultKind, name: string): boolean {
  if (kind === "short" || kind === "torn") return WRITES.test(name);
  if (kind === "EIO-done") return CHANGES.test(name);
  if (kind === "ENOSPC") return NEED_ROOM.test(name);
  return true;
}

type Call = (...args: unknown[]) => unknown;

function failure(code: string, name: string): Error {
  return Object.assign(new Error(`${code}: ${name}, as planned`), { code });
}

/** Runs one call under its plan. `half` does half of a write. */
function under(found: Plan, name: string, call: () => unknown, half?: () => unknown): unknown {
  if (found.isDead) throw failure("EDEAD", name);
  if (found.calls.push(name) !== found.at) return call();
  found.failed = name;
  switch (found.kind) {
    case "short":
      return half === undefined ? call() : half();
    case "torn":
      found.isDead = true;
      half?.();
      throw failure("EDEAD", name);
    case "dead":
      found.isDead = true;
      throw failure("EDEAD", name);
    case "EIO-done": {
      const done = call();
      if (done instanceof Promise)
        return done.then(async (result) => {
          if (name === "open") await (result as fs.promises.FileHandle).close();
          throw failure("EIO", name);
        });
      if (name === "openSync") fs.closeSync(done as number);
      throw failure("EIO", name);
    }
    default:
      throw failure(found.kind, name);
  }
}

/** Half of a write of `buffer, offset, length, position`: at least one byte. */
function halved(args: readonly unknown[]): unknown[] {
  const [buffer, offset, length, position] = args;
  const from = typeof offset === "number" ? offset : 0;
  const all = typeof length === "number" ? length : (buffer as Uint8Array).length - from;
  return [buffer, from, Math.max(1, all >> 1), position];
}

/** Not done: no test here takes the power away, and a disk takes milliseconds for each. */
const SYNCS = new Set(["fsyncSync", "fdatasyncSync", "sync", "datasync"]);

const SYNC = [
  "openSync",
  "readFileSync",
  "readdirSync",
  "mkdirSync",
  "linkSync",
  "renameSync",
  "unlinkSync",
  "rmSync",
  "rmdirSync",
  "truncateSync",
  "writeFileSync",
  "writeSync",
  "writevSync",
  "fsyncSync",
  "fdatasyncSync",
  "ftruncateSync",
  "closeSync",
] as const;

const PROMISES = [
  "open",
  "readFile",
  "readdir",
  "mkdir",
  "link",
  "rename",
  "unlink",
  "rm",
  "truncate",
  "writeFile",
] as const;

const HANDLE = ["write", "writev", "sync", "datasync", "truncate", "readFile", "stat"] as const;

/** Patches node:fs in this process, once and for good. */
export async function installFaults(): Promise<void> {
  const sync = fs as unknown as Record<string, Call>;
  for (const name of SYNC) {
    const real = sync[name] as Call;
    sync[name] = (...args) => {
      const found = planOf(args[0]) ?? (name === "linkSync" ? planOf(args[1]) : undefined);
      if (found === undefined) {
        const result = real(...args);
        // A number that was another file's before: of one that was let go without being closed.
        if (name === "openSync") planOfFile.delete(result as number);
        return result;
      }
      if (name === "closeSync") {
        // Descriptors are given back even by the dead: the test's own process goes on.
        planOfFile.delete(args[0] as number);
        return real(...args);
      }
      const half = name === "writeSync" ? () => real(args[0], ...halved(args.slice(1))) : undefined;
      const result = under(found, name, () => (SYNCS.has(name) ? undefined : real(...args)), half);
      if (name === "openSync") planOfFile.set(result as number, found);
      return result;
    };
  }
  const fsync = sync["fsync"] as Call;
  sync["fsync"] = (file, done) => {
    const found = planOf(file);
    if (found === undefined) return fsync(file, done);
    const answer = done as (error: unknown) => void;
    const call = async (): Promise<unknown> => under(found, "fsync", () => undefined);
    return call().then(() => answer(null), answer);
  };
  for (const name of ["fsync", "fdatasync"]) {
    const real = sync[name] as Call;
    sync[name] = (file, done) => {
      const found = planOf(file);
      if (found === undefined) return real(file, done);
      let error: unknown = null;
      try {
        under(found, name, () => undefined);
      } catch (thrown) {
        error = thrown;
      }
      return process.nextTick(done as (error: unknown) => void, error);
    };
  }
  const promises = fs.promises as unknown as Record<string, Call>;
  for (const name of PROMISES) {
    const real = promises[name] as Call;
    promises[name] = async (...args) => {
      const found = planOf(args[0]);
      if (found === undefined) {
        const result = await real(...args);
        if (name === "open") planOfFile.delete((result as { fd: number }).fd);
        return result;
      }
      const result = await under(found, name, () => real(...args));
      if (name === "open") planOfFile.set((result as { fd: number }).fd, found);
      return result;
    };
  }
  const probe = await fs.promises.open(import.meta.filename, "r");
  const handle = Object.getPrototypeOf(probe) as Record<string, Call>;
  await probe.close();
  for (const name of HANDLE) {
    const real = handle[name] as Call;
    handle[name] = async function (this: { fd: number }, ...args: unknown[]) {
      const found = planOf(this.fd);
      if (found === undefined) return real.apply(this, args);
      const half = name === "write" ? () => real.apply(this, halved(args)) : undefined;
      const call = (): unknown => (SYNCS.has(name) ? undefined : real.apply(this, args));
      return under(found, `FileHandle.${name}`, call, half);
    };
  }
  const realClose = handle["close"] as Call;
  handle["close"] = async function (this: { fd: number }) {
    planOfFile.delete(this.fd);
    return realClose.call(this);
  };
  syncBuiltinESMExports();
}
