/** A witness in this process: our own server role, on a port that was free. */
import { createHash } from "node:crypto";
import { mkdtempSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fastify } from "fastify";
import { WitnessServer, witnessRoutes } from "../../exporter/anchor/witness-server.ts";
import { newCosigner } from "../../exporter/log/cosignature.ts";
import type { Verifier } from "../../exporter/log/note.ts";

export type TestWitness = {
  readonly name: string;
  readonly vkey: string;
  readonly url: string;
  readonly dir: string;
  /** `<kind> <origin>` of evidence that was kept. */
  readonly evidence: readonly string[];
  readonly stop: () => Promise<void>;
};

/** Starts one that knows `logs`. `dir` goes on from another; `now` is its clock, Unix seconds. */
export async function startWitness(
  name: string,
  logs: readonly Verifier[],
  options: { dir?: string; now?: () => number; port?: number } = {},
): Promise<TestWitness> {
  const dir = options.dir ?? mkdtempSync(join(tmpdir(), "meshseal-witness-"));
  const now = options.now ?? (() => Math.floor(Date.now() / 1000));
  const signer = newCosigner(name, createHash("sha256").update(name).digest(), now);
  const evidence: string[] = [];
  const server = new WitnessServer({
    dir,
    signer,
    logs,
    onEvidence: (kind, origin) => evidence.push(`${kind} ${origin}`),
  });
  const app = fastify({ forceCloseConnections: true });
  witnessRoutes(app, "", server);
  await app.listen({ host: "127.0.0.1", port: options.port ?? 0 });
  const { port } = app.server.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}`;
  return { name, vkey: signer.vkey, url, dir, evidence, stop: () => app.close() };
}
