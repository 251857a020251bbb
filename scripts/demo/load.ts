/**
 * A mixed load of real requests, bounded by rate and time. What counts as sent is what undici says it wrote the headers
 * of: no pipelining, no retries, and a connection that fails does not count.
 */
import { channel } from "node:diagnostics_channel";
import { H2CClient, Pool } from "undici";
import type { Upstream } from "./upstream.ts";

type Dispatcher = Pool | H2CClient;

export type LoadOptions = {
  readonly port: number;
  readonly upstream: Upstream;
  readonly seconds: number;
  /** Requests a second. */
  readonly rate: number;
  readonly onProgress?: (sent: number) => void;
};

/** Turns one kind of request into another, in the order of the mix: most are plain reads. */
const MIX = [
  "get",
  "get",
  "post",
  "get",
  "missing",
  "get",
  "denied",
  "get",
  "reset",
  "post",
  "get",
  "abort",
] as const;

const STEP_MS = 20;

/** Sends until the time is over and every answer is in. Returns how many requests were sent. */
export async function runLoad(options: LoadOptions): Promise<number> {
  const origin = `http://127.0.0.1:${options.port}`;
  const h1 = new Pool(origin, { connections: 32, pipelining: 1 });
  const h2 = new H2CClient(origin, { maxConcurrentStreams: 50, pipelining: 50 });
  let sent = 0;
  const count = (message: unknown): void => {
    const { request } = message as { request: { origin?: unknown } };
    if (String(request.origin) === origin) sent++;
  };
  const sendHeaders = channel("undici:client:sendHeaders");
  sendHeaders.subscribe(count);
  const running = new Set<Promise<void>>();
  const started = performance.now();
  try {
    for (let number = 0; ; ) {
      const elapsed = performance.now() - started;
      if (elapsed >= options.seconds * 1000) break;
      const due = Math.floor((elapsed / 1000) * options.rate);
      for (; number < due; number++) {
        const dispatcher = number % 3 === 0 ? h2 : h1;
        const one = send(dispatcher, options.upstream, number).finally(() => running.delete(one));
        running.add(one);
      }
      options.onProgress?.(sent);
      await new Promise((resolve) => setTimeout(resolve, STEP_MS));
    }
    await Promise.all(running);
  } finally {
    sendHeaders.unsubscribe(count);
    await h1.destroy();
    await h2.destroy();
  }
  options.onProgress?.(sent);
  return sent;
}

async function send(dispatcher: Dispatcher, upstream: Upstream, number: number): Promise<void> {
  const kind = MIX[number % MIX.length] ?? "get";
  const headers = { "user-agent": "meshseal-demo/1.0", "x-demo-id": String(number) };
  try {
    if (kind === "abort") return await abort(dispatcher, upstream, headers);
    const answer = await dispatcher.request({
      method: kind === "post" ? "POST" : "GET",
      path: pathOf(kind, number),
      headers,
      ...(kind === "post" ? { body: "x".repeat(number % 5000) } : {}),
    });
    await answer.body.dump();
  } catch {
    // A reset is part of the load: what counts is that its headers were sent.
  }
}

function pathOf(kind: string, number: number): string {
  if (kind === "missing") return "/missing";
  if (kind === "denied") return "/admin/users";
  if (kind === "reset") return "/reset";
  return `/cart/${number % 100}?token=never-recorded`;
}

/** Aborts when the upstream has the request: an abort inside the header block would not reach an HTTP filter. */
async function abort(
  dispatcher: Dispatcher,
  upstream: Upstream,
  headers: Record<string, string>,
): Promise<void> {
  const aborter = new AbortController();
  upstream.arrived.once(String(headers["x-demo-id"]), () => aborter.abort());
  await dispatcher.request({ method: "GET", path: "/slow", headers, signal: aborter.signal });
}
