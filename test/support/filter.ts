/** What tests of the filter in the fake host share: streams, the entries of a batch, receipts, and a host that runs. */
import { sha256 } from "@noble/hashes/sha2.js";
import { expect } from "vitest";
import { newSigner, type Signer } from "../../exporter/log/note.ts";
import { signReceipt } from "../../exporter/log/receipt.ts";
import { parseBatchHeader } from "../../record/batch.ts";
import { decodeEntry, type Entry, encodeEntry } from "../../record/codec.ts";
import { type Call, Host, type HostOptions, type Stream } from "./host.ts";

export const signer: Signer = newSigner("log.example/meshseal", Buffer.alloc(32, 1));

/** A request that went well, with `more` attributes. */
export function stream(
  path: string,
  more: Readonly<Record<string, Uint8Array | number>> = {},
): Stream {
  return {
    attributes: {
      "request.duration": 1_234_567,
      "request.total_size": 100,
      "response.total_size": 200,
      "response.flags": 0,
      "connection.id": 7,
      "request.protocol": Buffer.from("HTTP/1.1"),
      "response.code": 200,
      "response.code_details": Buffer.from("via_upstream"),
      "xds.route_name": Buffer.from("r"),
      "xds.cluster_name": Buffer.from("c"),
      "source.address": Buffer.from("10.0.0.1:1000"),
      "destination.address": Buffer.from("10.0.0.2:80"),
      ...more,
    },
    headers: [
      [Buffer.from(":method"), Buffer.from("GET")],
      [Buffer.from(":path"), Buffer.from(path)],
      [Buffer.from(":authority"), Buffer.from("shop.example")],
    ],
  };
}

/** The entries of a batch; throws unless each is canonical and linked to the one before. */
export function entriesOf({ body }: Call): {
  entries: Entry[];
  chain: string;
  head: string;
  firstSeq: number;
} {
  const header = parseBatchHeader(body);
  if (header === null) throw new Error("no batch");
  const entries: Entry[] = [];
  let head = "";
  for (let at = header.entriesAt; at < body.length; ) {
    const length = body.readUInt16BE(at);
    expect(body[at + 2]).toBe(0);
    const bytes = body.subarray(at + 3, at + 3 + length);
    const entry = decodeEntry(bytes);
    if (entry === null) throw new Error(`malformed: ${bytes.toString("hex")}`);
    expect(entry.isNewer).toBe(false);
    expect(Buffer.from(encodeEntry(entry.fields)).equals(bytes)).toBe(true);
    if (head !== "") expect(Buffer.from(entry.prev).toString("hex")).toBe(head);
    head = Buffer.from(sha256(body.subarray(at + 2, at + 3 + length))).toString("hex");
    entries.push(entry);
    at += 3 + length;
  }
  expect(entries).toHaveLength(header.count);
  return {
    entries,
    head,
    chain: Buffer.from(header.chain).toString("hex"),
    firstSeq: header.firstSeq,
  };
}

/** The answer of an exporter that took `call`, or of one that lies. */
export function receiptFor(
  call: Call,
  change: { chain?: string; nextSeq?: number; head?: string } = {},
): [string, string][] {
  const { entries, chain, head, firstSeq } = entriesOf(call);
  const receipt = {
    origin: signer.name,
    chain,
    nextSeq: firstSeq + entries.length,
    head,
    treeSize: 0,
    treeRoot: Buffer.alloc(32),
    ...change,
  };
  const note = signReceipt(receipt, signer);
  return [
    [":status", "200"],
    ["meshseal-receipt", Buffer.from(note).toString("base64")],
  ];
}

/** Returns a host with a filter that took its configuration. */
export async function started(configuration = "{}", options: HostOptions = {}): Promise<Host> {
  const { host, isAccepted } = await Host.start(configuration, options);
  expect(isAccepted).toBe(true);
  return host;
}

/** Returns the batch sent last. */
export function lastCall(host: Host): Call {
  const call = host.calls.at(-1);
  if (call === undefined) throw new Error("nothing was sent");
  return call;
}
