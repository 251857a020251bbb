/**
 * The filter with all callbacks: where delivery is `enforced`, a request that could not be recorded gets a 503 before it reaches
 * the service; and what watch.ts does while a stream runs. Its own build, since a callback more costs every request.
 */
import { proxy_send_local_response } from "@solo-io/proxy-runtime/assembly/imports";
import { DELIVERY_ENFORCED } from "../record/fields";
import "./abort";
import * as chain from "./chain";
import * as delivery from "./delivery";
import * as fates from "./fates";
import * as host from "./host";
import { Text } from "./host";
import * as outbox from "./outbox";
import { enforces } from "./plugin";
import * as watch from "./watch";

export * from "./plugin";

const CONTINUE: u32 = 0;
const STOP: u32 = 1;

const STATUS: u32 = 503;
/** gRPC's UNAVAILABLE. */
const GRPC_STATUS: i32 = 14;
const NO_ROOM = new Text("meshseal_no_room");
const NO_RECEIPT = new Text("meshseal_no_receipt");
const NO_CHAIN = new Text("meshseal_no_chain");
const BODY = new Text("This request cannot be recorded, so it is refused.\n");
const NO_HEADERS: usize = memory.data(4, 4);

enforces();

export function proxy_on_request_headers(context: u32, _headers: u32, isEnd: u32): u32 {
  host.begin();
  watch.requestHeaders(context, isEnd !== 0);
  if (delivery.ofRoute() !== DELIVERY_ENFORCED) return CONTINUE;
  const now = chain.time();
  let why: Text | null = null;
  if (!chain.ensureOpen(now)) why = NO_CHAIN;
  else if (!delivery.hasPromisedRoom()) why = NO_ROOM;
  else if (outbox.isLate(now)) why = NO_RECEIPT;
  if (why === null) return CONTINUE;
  const status = proxy_send_local_response(
    STATUS,
    why.at,
    why.bytes,
    BODY.at,
    BODY.bytes,
    NO_HEADERS,
    4,
    GRPC_STATUS,
  );
  // A host that cannot answer gets the request stopped all the same: it must not pass unrecorded.
  if (status === host.OK) fates.refuse();
  return STOP;
}

export function proxy_on_request_body(context: u32, bytes: u32, isEnd: u32): u32 {
  watch.body(context, true, bytes, isEnd !== 0);
  return CONTINUE;
}

export function proxy_on_request_trailers(context: u32, _trailers: u32): u32 {
  watch.trailers(context, true);
  return CONTINUE;
}

export function proxy_on_response_headers(context: u32, _headers: u32, isEnd: u32): u32 {
  host.begin();
  watch.responseHeaders(context, isEnd !== 0);
  return CONTINUE;
}

export function proxy_on_response_body(context: u32, bytes: u32, isEnd: u32): u32 {
  watch.body(context, false, bytes, isEnd !== 0);
  return CONTINUE;
}

export function proxy_on_response_trailers(context: u32, _trailers: u32): u32 {
  watch.trailers(context, false);
  return CONTINUE;
}
