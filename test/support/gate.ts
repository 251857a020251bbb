/** A TCP proxy before a server on loopback that can be shut, or be so slow that nothing ever comes. */
import { type AddressInfo, connect, createServer, type Socket } from "node:net";

export type Gate = {
  readonly port: number;
  readonly url: string;
  /** `shut`: connections are cut; `slow`: they are taken, and nothing passes. Those of the mode before are cut. */
  readonly set: (mode: "open" | "shut" | "slow") => void;
  readonly stop: () => Promise<void>;
};

/** Starts one before `target`, an http URL, and keeps its path. */
export async function startGate(target: string): Promise<Gate> {
  const { hostname, port: behind, pathname } = new URL(target);
  let mode: "open" | "shut" | "slow" = "open";
  const sockets = new Set<Socket>();
  const keep = (socket: Socket): void => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.once("close", () => sockets.delete(socket));
  };
  const server = createServer((incoming) => {
    keep(incoming);
    if (mode === "shut") return void incoming.destroy();
    if (mode === "slow") return void incoming.resume();
    const outgoing = connect(Number(behind), hostname);
    keep(outgoing);
    incoming.pipe(outgoing).pipe(incoming);
    incoming.once("close", () => outgoing.destroy());
    outgoing.once("close", () => incoming.destroy());
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address() as AddressInfo;
  const cut = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  return {
    port,
    url: `http://127.0.0.1:${port}${pathname.replace(/\/$/, "")}`,
    set: (next) => {
      mode = next;
      cut();
    },
    stop: async () => {
      cut();
      await new Promise((done) => server.close(done));
    },
  };
}
