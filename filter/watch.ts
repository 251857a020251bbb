/**
 * What the build with all callbacks does while a stream runs, if the configuration asks for it: an entry when it begins, the digests of its
 * bodies as they pass (nothing is held back), and a response header with the id that its entry will have.
 */
import { KIND_REQUEST_START, STREAM_ID_BYTES } from "../record/fields";
import { Config } from "./config";
import * as facts from "./facts";
import * as host from "./host";
import { isText, Text } from "./host";
import * as outbox from "./outbox";
import { Pairs } from "./pairs";
import { hexOf } from "./receipt";
import * as streams from "./streams";

const LONG: u32 = 1;
const ALL: u32 = 2;
const ROUTES: u32 = 1;

const ROUTE = new Text("xds\0route_metadata\0filter_metadata\0meshseal\0bodyDigests");
const ON = new Text("on");
const OFF = new Text("off");
const METHOD = new Text(":method");
const CONNECT = new Text("CONNECT");
const UPGRADE = new Text("upgrade");
const CONTENT_TYPE = new Text("content-type");
const GRPC = new Text("application/grpc");

/** As much of a body as is read at a time. */
const PIECE: u32 = 65_536;
const HEX: usize = memory.data(32, 16);

let start: u32 = 0;
let bodies: u32 = 0;
let hasHeader: bool = false;
let header: Text = new Text("");
const PAIRS = new Pairs();

/** True if there is anything to do. */
let isOn: bool = false;

/** Tells if a configuration asks for what needs these callbacks. */
export function isWanted(config: Config): bool {
  return config.requestStart !== 0 || config.bodyDigests !== 0 || config.idHeader !== "";
}

export function prepare(config: Config): void {
  start = config.requestStart;
  bodies = config.bodyDigests;
  hasHeader = config.idHeader !== "";
  if (hasHeader) header = new Text(config.idHeader);
  isOn = isWanted(config);
}

/** The request's headers are there. */
export function requestHeaders(context: u32, isEnd: bool): void {
  if (!isOn) return;
  const hashes = bodies !== 0 && wantsBodies();
  const starts = start === ALL || (start === LONG && isLong());
  if (!hashes && !starts && !hasHeader) return;
  const stream = streams.open(context);
  if ((starts || hasHeader) && host.random(streams.id(stream), STREAM_ID_BYTES)) {
    streams.keepId(stream);
  }
  if (starts) {
    streams.select(context);
    outbox.poke(facts.record(KIND_REQUEST_START));
  }
  if (!hashes) return;
  streams.beginBodies(stream);
  if (isEnd) streams.endBody(stream, true);
}

/** The route's word goes before the configuration's. */
function wantsBodies(): bool {
  if (!host.property(ROUTE.at, ROUTE.bytes)) return bodies !== ROUTES;
  if (isText(host.data, host.size, ON)) return true;
  return bodies !== ROUTES && !isText(host.data, host.size, OFF);
}

/** An upgrade such as WebSocket, a tunnel, or gRPC, which may be a stream: none of them says how long it will be. */
function isLong(): bool {
  if (!host.headerPairs(host.REQUEST_HEADERS) || !PAIRS.begin(host.data, host.size)) return false;
  while (PAIRS.next()) {
    const key = PAIRS.key;
    const bytes = PAIRS.keyBytes;
    if (isText(key, bytes, UPGRADE)) return true;
    if (isText(key, bytes, METHOD) && isText(PAIRS.value, PAIRS.valueBytes, CONNECT)) return true;
    if (isText(key, bytes, CONTENT_TYPE) && PAIRS.valueBytes >= (GRPC.bytes as usize)) {
      if (memory.compare(PAIRS.value, GRPC.at, GRPC.bytes) === 0) return true;
    }
  }
  return false;
}

/** The response's headers are on their way: the header with the id replaces any that the service sent under its name. */
export function responseHeaders(context: u32, isEnd: bool): void {
  if (!isOn) return;
  const stream = streams.find(context);
  if (stream === 0) return;
  if (isEnd && streams.hashes(stream)) streams.endBody(stream, false);
  if (!hasHeader || !streams.hasId(stream)) return;
  for (let i: usize = 0; i < (STREAM_ID_BYTES as usize); i++) {
    const byte = load<u8>(streams.id(stream) + i);
    store<u8>(HEX + 2 * i, hexOf(byte >> 4));
    store<u8>(HEX + 2 * i, hexOf(byte & 15), 1);
  }
  host.setResponseHeader(header, HEX, 32);
}

/** A part of a body passes. */
export function body(context: u32, isRequest: bool, bytes: u32, isEnd: bool): void {
  if (bodies === 0) return;
  const stream = streams.find(context);
  if (stream === 0 || !streams.hashes(stream)) return;
  for (let at: u32 = 0; at < bytes; at += PIECE) {
    host.begin();
    const piece = min(PIECE, bytes - at);
    const which = isRequest ? host.REQUEST_BODY : host.RESPONSE_BODY;
    if (!host.body(which, at, piece) || host.size !== (piece as usize)) {
      return streams.giveUpBodies(stream);
    }
    streams.addBody(stream, isRequest, host.data, piece);
  }
  if (isEnd) streams.endBody(stream, isRequest);
}

/** Trailers end a body. */
export function trailers(context: u32, isRequest: bool): void {
  if (bodies === 0) return;
  const stream = streams.find(context);
  if (stream !== 0 && streams.hashes(stream)) streams.endBody(stream, isRequest);
}
