/** A server that keeps what is put there, once. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

export type Shelf = {
  readonly url: string;
  readonly held: ReadonlyMap<string, Buffer>;
  readonly stop: () => Promise<void>;
};

export async function startShelf(): Promise<Shelf> {
  const held = new Map<string, Buffer>();
  const server = createServer((incoming, outgoing) => {
    const parts: Buffer[] = [];
    incoming.on("data", (part: Buffer) => parts.push(part));
    incoming.on("end", () => {
      const path = incoming.url ?? "";
      const isNew = incoming.method === "PUT" && !held.has(path);
      if (isNew) held.set(path, Buffer.concat(parts));
      outgoing.writeHead(isNew ? 201 : 412).end();
    });
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    held,
    stop: async () => {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    },
  };
}
