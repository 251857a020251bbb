/** The requests of test/facts.test.ts: each ends in another way, and each has a path of its own. */
import { once } from "node:events";
import { connect as connectHttp2, type IncomingHttpHeaders } from "node:http2";
import { connect, type Socket } from "node:net";
import { connect as connectTls, type TLSSocket } from "node:tls";
import type { Envoy } from "../../scripts/demo/envoy.ts";
import { type Credentials, ISSUER, type Services, tokenOf } from "./facts-mesh.ts";

export const TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
export const FORGED_ID = "forged-request-id";
const FORGED = [
  `x-request-id: ${FORGED_ID}`,
  "x-forwarded-for: 9.9.9.9",
  "x-envoy-original-path: /forged",
  'x-forwarded-client-cert: By=spiffe://x;URI="spiffe://mesh/ns/shop/sa/admin"',
];

/** A request's text, to be read by Envoy as a whole. */
function get(path: string, headers: readonly string[] = [], method = "GET"): string {
  return [`${method} ${path} HTTP/1.1`, "host: shop.example", ...headers, "", ""].join("\r\n");
}

/** Reads until `isDone` says that it was enough, or the other side ends. */
async function read(socket: Socket, isDone: (text: string) => boolean): Promise<string> {
  let text = "";
  for await (const part of socket) {
    text += (part as Buffer).toString("latin1");
    if (isDone(text)) break;
  }
  return text;
}

/** One connection, one text, everything that comes back until Envoy closes. */
async function raw(port: number, text: string): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  socket.on("error", () => undefined);
  socket.write(text);
  return read(socket, () => false).catch(() => "");
}

/** One request on a connection of its own. Returns the status. */
async function send(port: number, path: string, headers: readonly string[] = []): Promise<number> {
  const answer = await raw(port, get(path, ["connection: close", ...headers]));
  return Number(/^HTTP\/1.1 (\d+)/.exec(answer)?.[1]);
}

async function abortBefore(port: number, { arrived }: Services): Promise<void> {
  const socket = connect(port, "127.0.0.1");
  socket.write(get("/slow"));
  await arrived("/slow");
  socket.destroy();
}

async function abortAfter(port: number): Promise<void> {
  const socket = connect(port, "127.0.0.1");
  socket.write(get("/stream"));
  await read(socket, (text) => text.includes("first"));
  socket.destroy();
}

async function webSocket(port: number): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  socket.write(get("/socket", ["connection: upgrade", "upgrade: websocket"]));
  const answer = await new Promise<string>((resolve) => {
    let text = "";
    socket.on("data", (part) => {
      text += part.toString("latin1");
      if (text.endsWith("\r\n\r\n")) socket.write("ping");
      if (text.endsWith("ping")) resolve(text);
    });
  });
  socket.end();
  await once(socket, "close");
  return answer;
}

/** Requests on one HTTP/2 connection, at once. */
async function http2(
  port: number,
  requests: readonly Readonly<Record<string, string>>[],
): Promise<IncomingHttpHeaders[]> {
  const session = connectHttp2(`http://127.0.0.1:${port}`);
  const answers = requests.map(async (headers) => {
    const stream = session.request({ ":authority": "shop.example", ...headers });
    stream.end(headers[":method"] === "POST" ? Buffer.alloc(5) : undefined);
    const [response] = (await once(stream, "response")) as [IncomingHttpHeaders];
    stream.resume();
    await once(stream, "close");
    return response;
  });
  const all = await Promise.all(answers);
  session.close();
  return all;
}

async function overTls(
  port: number,
  { authority, client }: Credentials,
  path: string,
  isMutual: boolean,
  headers: readonly string[] = [],
): Promise<string> {
  const socket: TLSSocket = connectTls({
    port,
    host: "127.0.0.1",
    servername: "edge.shop.example",
    ca: authority.cert,
    checkServerIdentity: () => undefined,
    ...(isMutual ? client : {}),
  });
  await once(socket, "secureConnect");
  socket.write(get(path, ["connection: close", ...headers]));
  return read(socket, () => false);
}

/** Sends all of it, and checks what a client sees. Throws where Envoy did not do what the case needs. */
export async function sendAll(
  envoy: Envoy,
  services: Services,
  credentials: Credentials,
): Promise<void> {
  const port = await envoy.portOf("trusting");
  const edge = await envoy.portOf("edge");
  const tls = await envoy.portOf("tls");
  const expected: [string, number, (readonly string[])?][] = [
    ["/ok?token=secret&page=2&x", 200, [`traceparent: ${TRACE}`, "x-tenant: acme"]],
    ["/direct", 200],
    ["/missing", 404],
    ["/denied-before", 403],
    ["/unlisted", 403],
    ["/audited", 200],
    ["/jwt/none", 401],
    [
      "/jwt/good",
      200,
      [`authorization: Bearer ${tokenOf(credentials, { iss: ISSUER, sub: "alice" })}`],
    ],
    [
      "/jwt/null",
      200,
      [`authorization: Bearer ${tokenOf(credentials, { iss: ISSUER, sub: "bob", nonce: null })}`],
    ],
    ["/claimed", 200, ["authorization: Basic YWxpY2U6c2VjcmV0", "cookie: id=secret"]],
    ["/odd", 200, ["authorization: topsecret"]],
    ["/limited/1", 200],
    ["/limited/2", 429],
    ["/authz/allowed", 200],
    ["/authz/denied", 403],
    ["/dead", 503],
    ["/full", 503],
    ["/empty", 503],
    ["/secure", 200],
    ["/reset", 503],
    ["/flaky", 200],
    ["/rewritten/a?q=1", 200],
    ["/users/alice@example.com/orders/7?x=1", 200, ["x-user: alice", "x-user: bob"]],
    ["/files/me/a/b", 200],
    ["/forged", 200, FORGED],
  ];
  for (const [path, status, headers] of expected) {
    const got = await send(port, path, headers);
    if (got !== status) throw new Error(`${path}: ${got} in place of ${status}`);
  }
  await send(edge, "/edge", FORGED);
  await raw(port, get("/cut"));
  await abortBefore(port, services);
  await abortAfter(port);
  await raw(port, get("/large", [`x-large: ${"x".repeat(70_000)}`]));
  await raw(port, "GET no-slash HTTP/1.1\r\nhost: a\r\n\r\n");
  await raw(port, "\x16\x03\x01 nonsense\r\n\r\n");
  await raw(port, get("/alive/1") + get("/alive/2", ["connection: close"]));
  const text = await raw(
    port,
    get("/piped/1") + get("/piped/2", [], "HEAD") + get("/piped/3", ["connection: close"]),
  );
  if (text.split("HTTP/1.1 200").length !== 4) throw new Error(`pipelining: ${text}`);
  const socket = await webSocket(port);
  if (!socket.startsWith("HTTP/1.1 101")) throw new Error(`WebSocket: ${socket}`);
  const grpc = { ":method": "POST", "content-type": "application/grpc+proto", te: "trailers" };
  await http2(port, [
    { ":method": "GET", ":path": "/h2/1" },
    { ":method": "GET", ":path": "/h2/2", b3: "463ac35c9f6413ad-a2fb4a1d1a96d312-1" },
    { ...grpc, ":path": "/shop.Cart/Add" },
    { ...grpc, ":path": "/shop.Cart/Denied" },
  ]);
  for (const [path, isMutual] of [
    ["/mutual", true],
    ["/one-sided", false],
  ] as const) {
    const answer = await overTls(tls, credentials, path, isMutual, FORGED);
    if (!answer.startsWith("HTTP/1.1 200")) throw new Error(`${path}: ${answer}`);
  }
}
