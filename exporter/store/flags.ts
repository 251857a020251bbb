/**
 * The immutable flag of Linux file systems (chattr(1)): a file that has it cannot be written, renamed or removed, by root neither, as long
 * as it is there. Who has CAP_LINUX_IMMUTABLE sets it and takes it away; where the file system or the rights are missing, that is said.
 */
import { execFile } from "node:child_process";
import { rmSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { codeOf } from "../errors.ts";

const run = promisify(execFile);

/** Paths in one call: the kernel takes some hundred KiB of arguments. */
const AT_ONCE = 500;

/** Sets the flag of files that are there, or takes it away. Rejects with what chattr said. */
export async function setImmutable(paths: readonly string[], isOn: boolean): Promise<void> {
  for (let at = 0; at < paths.length; at += AT_ONCE) {
    await run("chattr", [isOn ? "+i" : "-i", "--", ...paths.slice(at, at + AT_ONCE)]);
  }
}

/** Tries the flag on a file of its own in `dir`. Resolves to null if it holds, or why not. */
export async function tryImmutable(dir: string): Promise<string | null> {
  const probe = join(dir, "immutable.probe");
  try {
    rmSync(probe, { force: true });
    writeFileSync(probe, "");
    await setImmutable([probe], true);
    let answer = "it could be removed all the same";
    try {
      unlinkSync(probe);
    } catch (error) {
      if (codeOf(error) === "EPERM") answer = "";
    }
    if (answer === "") await setImmutable([probe], false);
    rmSync(probe, { force: true });
    return answer === "" ? null : answer;
  } catch (error) {
    rmSync(probe, { force: true });
    if (codeOf(error) === "ENOENT") return "there is no chattr";
    const { stderr = "" } = error as { stderr?: string };
    return stderr.trim() || String(error);
  }
}
