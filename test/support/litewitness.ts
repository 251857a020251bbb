/**
 * A witness that others wrote: filippo.io/torchwood's litewitness, offline. It takes its key from an ssh agent, and its logs from an
 * SQLite file, which its own witnessctl fills in; that one cannot be built alone, so Python does what it does.
 */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { emptyRoot } from "../../exporter/log/merkle.ts";
import { goTool } from "./go-tools.ts";

export type LiteWitness = {
  readonly url: string;
  readonly vkey: string;
  readonly stop: () => Promise<void>;
};

const ADD_LOGS = `
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("CREATE TABLE IF NOT EXISTS log (origin TEXT PRIMARY KEY, tree_size INTEGER NOT NULL, tree_hash TEXT NOT NULL)")
db.execute("CREATE TABLE IF NOT EXISTS key (origin TEXT NOT NULL, key TEXT NOT NULL, FOREIGN KEY(origin) REFERENCES log(origin))")
db.execute("CREATE TABLE IF NOT EXISTS bastion (origin TEXT NOT NULL, bastion TEXT NOT NULL, FOREIGN KEY(origin) REFERENCES log(origin))")
for vkey in sys.argv[3:]:
    origin = vkey.split("+")[0]
    db.execute("INSERT INTO log VALUES (?, 0, ?)", (origin, sys.argv[2]))
    db.execute("INSERT INTO key VALUES (?, ?)", (origin, vkey))
db.commit()
`;

/** Starts one on a free port that knows the logs with these keys. Needs Go, Python, ssh-agent and ssh-keygen. */
export async function startLiteWitness(
  name: string,
  logs: readonly string[],
): Promise<LiteWitness> {
  // A socket's path has a limit of about 100 bytes.
  const dir = mkdtempSync(join(tmpdir(), "lw-"));
  const program = goTool("litewitness");
  const children: ChildProcess[] = [];
  const stop = async (): Promise<void> => {
    for (const child of children) {
      const ended = new Promise((done) => child.once("exit", done));
      if (child.kill("SIGTERM")) await ended;
    }
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", join(dir, "key")]);
    const socket = join(dir, "s");
    children.push(spawn("ssh-agent", ["-D", "-a", socket], { stdio: "ignore" }));
    while (!existsSync(socket)) await new Promise((done) => setTimeout(done, 20));
    const env = { ...process.env, SSH_AUTH_SOCK: socket };
    execFileSync("ssh-add", ["-q", join(dir, "key")], { env });
    const [, print = ""] = execFileSync("ssh-keygen", ["-lf", join(dir, "key.pub")])
      .toString()
      .split(" ");
    const empty = Buffer.from(emptyRoot()).toString("base64");
    execFileSync("python3", ["-c", ADD_LOGS, join(dir, "w.db"), empty, ...logs]);
    // It says where it was told to listen, not where it does: the port must be known before.
    const address = `127.0.0.1:${await freePort()}`;
    const args = ["-db", join(dir, "w.db"), "-name", name, "-ssh-agent", socket, "-key", print];
    const child = spawn(program, [...args, "-listen", address], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    children.push(child);
    return { url: `http://${address}`, vkey: await listening(child), stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address() as AddressInfo;
  await new Promise((done) => server.close(done));
  return port;
}

/** Resolves to its verifier key once it listens. */
function listening(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    const said: string[] = [];
    let vkey = "";
    if (child.stderr === null) throw new Error("no stderr");
    createInterface({ input: child.stderr }).on("line", (line) => {
      said.push(line);
      vkey = /vkey=(\S+)/.exec(line)?.[1] ?? vkey;
      if (line.includes("msg=listening")) resolve(vkey);
    });
    child.once("exit", (code) =>
      reject(new Error(`litewitness ended with ${code}: ${said.join("\n")}`)),
    );
  });
}
