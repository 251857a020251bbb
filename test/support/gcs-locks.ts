/**
 * An HTTP proxy in front of fake-gcs-server that refuses what Google's documents say a locked object refuses, and lets all else through.
 * It shows how the exporter and doctor read a bucket that protects; not that Google's does.
 * https://cloud.google.com/storage/docs/object-lock
 */
import { createServer, type IncomingMessage, request as send } from "node:http";
import type { AddressInfo } from "node:net";
import { buffer } from "node:stream/consumers";

type Retention = { mode?: string; retainUntilTime?: string } | null | undefined;

export async function startLocks(port: number): Promise<{ endpoint: string; close: () => void }> {
  const backend = `http://127.0.0.1:${port}`;

  async function retentionOf(url: URL): Promise<Retention> {
    const generation = url.searchParams.get("generation");
    const query = generation === null ? "" : `?generation=${generation}`;
    const answer = await fetch(`${backend}${url.pathname}${query}`);
    return answer.ok ? ((await answer.json()) as { retention?: Retention }).retention : null;
  }

  async function isRefused(method: string, url: URL, body: Buffer): Promise<boolean> {
    const isObject = /\/o\/[^/]+$/.test(url.pathname);
    if (method === "PATCH" && !isObject) return true;
    if (method === "POST" && url.pathname.includes("/moveTo/")) return true;
    // Without a generation a delete makes the live version noncurrent, which retention allows.
    const isRemoval = method === "DELETE" && url.searchParams.has("generation");
    if (!isObject || !(isRemoval || method === "PATCH")) return false;
    const held = await retentionOf(url);
    const until = held?.mode === "Locked" ? (held.retainUntilTime ?? "") : "";
    if (until === "" || new Date(until) < new Date()) return false;
    if (isRemoval) return true;
    const { retention } = JSON.parse(body.toString()) as { retention?: Retention };
    if (retention === undefined) return false;
    const isLonger = new Date(retention?.retainUntilTime ?? 0) >= new Date(until);
    return retention?.mode !== "Locked" || !isLonger;
  }

  const server = createServer(async (incoming, outgoing) => {
    const { method = "", headers } = incoming;
    const url = new URL(incoming.url ?? "", backend);
    const body = await buffer(incoming);
    if (await isRefused(method, url, body)) {
      const message = "the object is under retention";
      const error = { code: 403, message, errors: [{ reason: "retentionPolicyNotMet", message }] };
      outgoing.writeHead(403, { "content-type": "application/json" });
      return void outgoing.end(JSON.stringify({ error }));
    }
    const answer = await new Promise<IncomingMessage>((resolve, reject) => {
      send(`${backend}${incoming.url}`, { method, headers }, resolve).on("error", reject).end(body);
    });
    const bytes = await buffer(answer);
    const isBucket = method === "GET" && /^\/storage\/v1\/b\/[^/]+$/.test(url.pathname);
    if (!isBucket) {
      outgoing.writeHead(answer.statusCode ?? 500, answer.headers);
      return void outgoing.end(bytes);
    }
    const state = { ...JSON.parse(bytes.toString()), objectRetention: { mode: "Enabled" } };
    outgoing.writeHead(200, { "content-type": "application/json" });
    outgoing.end(JSON.stringify(state));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () => void server.close().closeAllConnections(),
  };
}
