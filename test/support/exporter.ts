/** A real exporter in a process of its own, on a port that was free, in a directory that is removed after the test. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { compiledMain } from "./compiled.ts";

export type ExporterOptions = {
  /** Data directory to go on with; a new one if absent. */
  readonly dir?: string;
  /** Port to listen on again after a restart; 0 if absent. */
  readonly port?: number;
  readonly args?: readonly string[];
  /** Gets each line that it logs, parsed, also before it listens. */
  readonly onLogged?: (event: Record<string, unknown>) => void;
};

export type Exporter = {
  readonly address: string;
  readonly url: string;
  readonly dir: string;
  readonly vkey: string;
  readonly pid: number;
  /** Lines that it logged, parsed. */
  readonly logged: readonly Record<string, unknown>[];
  /** SIGTERM, and waits for the end. Resolves to the exit code. */
  readonly stop: () => Promise<number | null>;
  /** SIGKILL, and waits for the end. */
  readonly kill: () => Promise<void>;
};

/** Starts an exporter and resolves when it listens. Rejects with what it said if it ends before. */
export async function startExporter(options: ExporterOptions = {}): Promise<Exporter> {
  const dir = options.dir ?? mkdtempSync(join(tmpdir(), "meshseal-exporter-"));
  const listen = ["--data", dir, "--listen", `127.0.0.1:${options.port ?? 0}`];
  const child = spawn(
    process.execPath,
    [compiledMain(), "serve", ...listen, ...(options.args ?? [])],
    { stdio: ["ignore", "inherit", "pipe"] },
  );
  const ended = new Promise<number | null>((resolve) =>
    child.once("exit", (code) => resolve(code)),
  );
  const logged: Record<string, unknown>[] = [];
  const address = await listening(child, ended, (event) => {
    logged.push(event);
    options.onLogged?.(event);
  });
  return {
    address,
    url: `http://${address}`,
    dir,
    vkey: readFileSync(join(dir, "log.vkey"), "utf8").trim(),
    pid: child.pid ?? 0,
    logged,
    stop: () => {
      child.kill("SIGTERM");
      return ended;
    },
    kill: async () => {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

function listening(
  child: ChildProcess,
  ended: Promise<number | null>,
  onLogged: (event: Record<string, unknown>) => void,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const said: string[] = [];
    if (child.stderr === null) throw new Error("no stderr");
    createInterface({ input: child.stderr }).on("line", (line) => {
      said.push(line);
      try {
        const event = JSON.parse(line) as Record<string, unknown>;
        onLogged(event);
        if (event["msg"] === "listening") resolve(String(event["address"]));
      } catch {
        // A sentence for people: it is in `said`.
      }
    });
    void ended.then((code) =>
      reject(new Error(`the exporter ended with ${code}: ${said.join("\n")}`)),
    );
  });
}
