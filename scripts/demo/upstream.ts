/** The small service behind Envoy: answers, is slow, or resets, by path. */
import { EventEmitter, once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export type Upstream = {
  readonly port: number;
  /** Emits the id in `x-demo-id` when a request to `/slow` has arrived. */
  readonly arrived: EventEmitter;
  readonly stop: () => Promise<void>;
};

/** Starts the service on a free port of loopback. */
export async function startUpstream(): Promise<Upstream> {
  const arrived = new EventEmitter().setMaxListeners(0);
  const held = new Set<ServerResponse>();
  const server = createServer({ maxHeaderSize: 65_536 }, (request, response) => {
    const { pathname } = new URL(request.url ?? "/", "http://upstream");
    request.on("error", () => undefined);
    if (pathname === "/reset") {
      request.socket.destroy();
      return;
    }
    request.resume();
    if (pathname === "/slow") {
      held.add(response);
      response.on("close", () => held.delete(response));
      arrived.emit(String(request.headers["x-demo-id"]));
      return;
    }
    request.on("end", () => {
      response.writeHead(pathname === "/missing" ? 404 : 200, { "content-type": "text/plain" });
      response.end(pathname === "/missing" ? "not here\n" : "ok\n");
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    arrived,
    stop: async () => {
      for (const response of held) response.destroy();
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}
