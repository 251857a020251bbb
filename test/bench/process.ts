/** What the operating system says of a process. Linux only: proc(5). */
import { readdirSync, readFileSync } from "node:fs";

/** A clock tick of Linux, USER_HZ, in microseconds. */
const TICK_US = 10_000;

/** Returns utime + stime of a process in microseconds: fields 14 and 15 of its stat, counted after the name. */
export function cpuMicros(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * TICK_US;
}

/**
 * Returns the same in nanoseconds' steps, as the scheduler counts it for each thread (sched-stats): threads that ended in
 * between are missed. Falls back to clock ticks where the kernel does not tell.
 */
export function fineCpuMicros(pid: number): number {
  try {
    let nanos = 0;
    for (const task of readdirSync(`/proc/${pid}/task`)) {
      nanos += Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, "utf8").split(" ")[0]);
    }
    return nanos / 1000;
  } catch {
    return cpuMicros(pid);
  }
}

/** Returns the most memory a process has held so far, in MiB: VmHWM. */
export function peakMebibytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / 1024;
}

/** Returns the memory a process holds now, in MiB: VmRSS. */
export function residentMebibytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) / 1024;
}
