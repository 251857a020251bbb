/**
 * An HTTP proxy in front of an S3 server that does what networks and busy services do: answers 500 or 503 SlowDown, cuts
 * bodies, changes bytes, loses answers after the request went through, and is slow. Each fault strikes by chance.
 */
import {
  createServer,
  type IncomingMessage,
  type ServerResponse,
  request as send,
} from "node:http";
import type { AddressInfo } from "node:net";

export type Fault =
  | "500"
  | "503"
  | "cut-answer"
  | "cut-request"
  | "wrong-byte"
  | "lost-answer"
  | "slow";

export type FaultProxy = {
  readonly endpoint: string;
  /** Which faults strike how often, 0 to 1; empty for none. */
  chances: Partial<Record<Fault, number>>;
  /** How often each has struck. */
  readonly struck: Record<Fault, number>;
  readonly close: () => Promise<void>;
};

const SLOW_MS = 400;

export async function startFaultProxy(targetPort: number): Promise<FaultProxy> {
  const struck: Record<Fault, number> = {
    "500": 0,
    "503": 0,
    "cut-answer": 0,
    "cut-request": 0,
    "wrong-byte": 0,
    "lost-answer": 0,
    slow: 0,
  };
  const proxy = { chances: {} as FaultProxy["chances"] };
  const pick = (): Fault | null => {
    let at = Math.random();
    for (const [fault, chance = 0] of Object.entries(proxy.chances)) {
      at -= chance;
      if (at < 0) return fault as Fault;
    }
    return null;
  };

  async function handle(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const parts: Buffer[] = [];
    for await (const part of incoming) parts.push(part as Buffer);
    const body = Buffer.concat(parts);
    const fault = pick();
    if (fault !== null) struck[fault]++;
    if (fault === "500" || fault === "503") {
      const code = fault === "500" ? "InternalError" : "SlowDown";
      outgoing.writeHead(Number(fault), { "content-type": "application/xml" });
      outgoing.end(
        `<?xml version="1.0"?><Error><Code>${code}</Code><Message>${code}</Message></Error>`,
      );
      return;
    }
    if (fault === "cut-request") return void incoming.socket.destroy();
    if (fault === "slow") await new Promise((resolve) => setTimeout(resolve, SLOW_MS));
    // On its way there, where there is a body; otherwise on its way back.
    if (fault === "wrong-byte" && body.length > 0) flip(body);
    const { answer, bytes } = await forward(targetPort, incoming, body);
    if (fault === "lost-answer") return void incoming.socket.destroy();
    if (fault === "wrong-byte" && body.length === 0 && bytes.length > 0) flip(bytes);
    outgoing.writeHead(answer.statusCode ?? 500, answer.headers);
    if (fault === "cut-answer") {
      outgoing.write(bytes.subarray(0, bytes.length >> 1));
      return void setTimeout(() => incoming.socket.destroy(), 5);
    }
    outgoing.end(bytes);
  }

  const server = createServer((incoming, outgoing) => {
    handle(incoming, outgoing).catch(() => incoming.socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return Object.assign(proxy, {
    endpoint,
    struck,
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  });
}

function flip(bytes: Buffer): void {
  const at = Math.floor(Math.random() * bytes.length);
  bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
}

function forward(
  port: number,
  { method, url, headers }: IncomingMessage,
  body: Buffer,
): Promise<{ answer: IncomingMessage; bytes: Buffer }> {
  return new Promise((resolve, reject) => {
    const outgoing = send({ host: "127.0.0.1", port, method, path: url, headers }, (answer) => {
      const parts: Buffer[] = [];
      answer.on("data", (part: Buffer) => parts.push(part));
      answer.on("end", () => resolve({ answer, bytes: Buffer.concat(parts) }));
      answer.on("error", reject);
    });
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}
