/** Git repositories over HTTP: git's own server program, `git http-backend`, as CGI (RFC 3875). */
import { execFileSync, spawn } from "node:child_process";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export type GitServer = { readonly port: number; readonly stop: () => Promise<void> };

/** Serves all bare repositories below `root`, to anybody, for reading and writing. */
export async function startGitServer(root: string): Promise<GitServer> {
  const core = execFileSync("git", ["--exec-path"], { encoding: "utf8" }).trim();
  const server = createServer((incoming, outgoing) => serve(core, root, incoming, outgoing));
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  return {
    port: (server.address() as AddressInfo).port,
    stop: async () => {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    },
  };
}

function serve(
  core: string,
  root: string,
  incoming: IncomingMessage,
  outgoing: ServerResponse,
): void {
  const { pathname, searchParams } = new URL(incoming.url ?? "/", "http://localhost");
  const text = (name: string): string => String(incoming.headers[name] ?? "");
  const child = spawn(`${core}/git-http-backend`, {
    env: {
      PATH: process.env["PATH"],
      GIT_PROJECT_ROOT: root,
      GIT_HTTP_EXPORT_ALL: "1",
      // Who pushes must be somebody: the name is not checked here.
      REMOTE_USER: "anybody",
      REQUEST_METHOD: incoming.method,
      PATH_INFO: pathname,
      QUERY_STRING: searchParams.toString(),
      CONTENT_TYPE: text("content-type"),
      CONTENT_LENGTH: text("content-length"),
      HTTP_CONTENT_ENCODING: text("content-encoding"),
      GIT_PROTOCOL: text("git-protocol"),
    },
    stdio: ["pipe", "pipe", "ignore"],
  });
  incoming.pipe(child.stdin);
  child.stdin.on("error", () => undefined);
  const parts: Buffer[] = [];
  child.stdout.on("data", (part: Buffer) => parts.push(part));
  child.once("close", () => {
    const answer = Buffer.concat(parts);
    const end = answer.indexOf("\r\n\r\n");
    for (const line of answer.toString("latin1", 0, end).split("\r\n")) {
      const [, name = "", value = ""] = /^([^:]+): *(.*)$/.exec(line) ?? [];
      if (name === "Status") outgoing.statusCode = Number(value.slice(0, 3));
      else if (name !== "") outgoing.setHeader(name, value);
    }
    outgoing.end(answer.subarray(end + 4));
  });
}
