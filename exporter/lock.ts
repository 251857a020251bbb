/**
 * One writer a data directory: `lock` names the process that holds it. A lock whose process is gone is taken over. It guards
 * against mistakes on one machine, not against two machines on one network disk.
 */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { codeOf, MeshsealError } from "./errors.ts";

/** Takes the lock of `dir` and returns the function that gives it back. Throws MeshsealError if another holds it. */
export function takeLock(dir: string): () => void {
  const path = join(dir, "lock");
  const mine = `${process.pid} ${startOf(process.pid)}\n`;
  for (let tries = 0; tries < 3; tries++) {
    try {
      writeFileSync(path, mine, { flag: "wx" });
      return () => rmSync(path, { force: true });
    } catch (error) {
      if (codeOf(error) !== "EEXIST") throw error;
    }
    const [pid = "", start = ""] = readFileSync(path, "utf8").trim().split(" ");
    if (
      pid !== "" &&
      Number(pid) !== process.pid &&
      isAlive(Number(pid)) &&
      startOf(Number(pid)) === start
    ) {
      throw new MeshsealError(
        `process ${pid} already writes to ${dir}: stop it, or use another --data.`,
      );
    }
    rmSync(path, { force: true });
  }
  throw new MeshsealError(`${path} cannot be taken: another exporter starts at the same time.`);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return codeOf(error) === "EPERM";
  }
}

/** When a process started, as the kernel counts it: a pid that was given again is told apart. "" where /proc is not. */
function startOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? "";
  } catch {
    return "";
  }
}
