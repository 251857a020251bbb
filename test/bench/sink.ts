/** Receives what Envoy's gRPC and OpenTelemetry access loggers send, and throws it away. Prints its port. */
import { createServer } from "node:http2";
import type { AddressInfo } from "node:net";

/** A gRPC message of no bytes: not compressed, length 0. */
const EMPTY_MESSAGE = Buffer.alloc(5);

const server = createServer();
server.on("stream", (stream) => {
  stream.on("error", () => stream.close());
  stream.on("data", () => {});
  stream.on("end", () => {
    stream.respond(
      { ":status": 200, "content-type": "application/grpc" },
      { waitForTrailers: true },
    );
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
    stream.end(EMPTY_MESSAGE);
  });
});
server.listen(0, "127.0.0.1", () => console.log((server.address() as AddressInfo).port));
