/** A Rekor v2 log that others wrote: sigstore's rekor-tiles on a directory. */
import { spawn } from "node:child_process";
import { createPublicKey, generateKeyPairSync } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { request } from "undici";
import { ED25519, keyId } from "../../exporter/log/note.ts";
import { goTool } from "./go-tools.ts";

export type RekorServer = {
  readonly url: string;
  readonly vkey: string;
  readonly stop: () => Promise<void>;
};

/** Starts one whose log is named `origin`. Needs Go, or what it has built before. */
export async function startRekor(origin: string): Promise<RekorServer> {
  const program = goTool("rekor");
  const dir = mkdtempSync(join(tmpdir(), "meshseal-rekor-"));
  const { privateKey } = generateKeyPairSync("ed25519");
  const key = join(dir, "key.pem");
  writeFileSync(key, privateKey.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
  // It cannot say which ports it took: they must be known before.
  const [http = 0, grpc = 0, metrics = 0] = await freePorts(3);
  const args = ["serve", "--signer-filepath", key, "--storage-dir", join(dir, "log")];
  args.push("--hostname", origin, "--http-port", `${http}`, "--grpc-port", `${grpc}`);
  args.push("--http-metrics-port", `${metrics}`, "--checkpoint-interval", "1s");
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
  const said: string[] = [];
  child.stderr.on("data", (part: Buffer) => said.push(part.toString()));
  const ended = new Promise<number | null>((done) => child.once("exit", (code) => done(code)));
  const url = `http://127.0.0.1:${http}`;
  const stop = async (): Promise<void> => {
    child.kill("SIGTERM");
    await ended;
    rmSync(dir, { recursive: true, force: true });
  };
  let exit: number | null | undefined;
  void ended.then((code) => {
    exit = code;
  });
  while (!(await answers(url))) {
    if (exit !== undefined) throw new Error(`rekor ended with ${exit}: ${said.join("")}`);
    await new Promise((done) => setTimeout(done, 50));
  }
  const jwk = createPublicKey(privateKey).export({ format: "jwk" });
  const raw = Buffer.from(jwk.x ?? "", "base64url");
  const id = Buffer.from(keyId(origin, ED25519, raw)).toString("hex");
  const body = Buffer.concat([Buffer.of(ED25519), raw]).toString("base64");
  return { url, vkey: `${origin}+${id}+${body}`, stop };
}

async function answers(url: string): Promise<boolean> {
  try {
    const answer = await request(`${url}/healthz`);
    await answer.body.dump();
    return answer.statusCode < 500;
  } catch {
    return false;
  }
}

/** All at once, so that they differ. */
async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  await Promise.all(
    servers.map((server) => new Promise<void>((done) => server.listen(0, "127.0.0.1", done))),
  );
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => new Promise((done) => server.close(done))));
  return ports;
}
