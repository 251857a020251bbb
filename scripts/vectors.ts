/**
 * Writes test/vectors/entries.json: entries made by an independent protobuf library from record/entry.proto, with
 * their digests, and bytes that are no entry, with the reason. Run after a change of the format, and read the diff:
 *
 *     npx tsx scripts/vectors.ts
 */
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import protobuf from "protobufjs";

type Values = Record<string, number | Buffer | Buffer[] | number[]>;

const Entry = new protobuf.Root()
  .loadSync("record/entry.proto", { keepCase: true })
  .lookupType("meshseal.v1.Entry");

const chain = Buffer.from("000102030405060708090a0b0c0d0e0f", "hex");
const zeros = Buffer.alloc(32);
const head = createHash("sha256").update("an entry before").digest();

function envelope(kind: number, seq: number, prev: Buffer): Values {
  const salt = createHash("md5").update(`salt ${seq}`).digest();
  return { kind, chain, seq, prev, time: 1_795_478_400_000_000 + seq, salt, config: 1 };
}

function pack(values: Values): Buffer {
  return Buffer.from(Entry.encode(Entry.create(values)).finish());
}

const open: Values = {
  ...envelope(1, 0, zeros),
  format: 1,
  node_id: Buffer.from("sidecar~10.1.2.3~cart-7d9~shop"),
  plugin: Buffer.from("meshseal"),
  producer: Buffer.from("meshseal-filter/0.1.0"),
  config_digest: head,
  heartbeat_ms: 60_000,
};

const request: Values = {
  ...envelope(2, 1, Buffer.from(digest(pack(open)), "hex")),
  status: 403,
  method: Buffer.from("GET"),
  path: Buffer.from("/admin"),
  authority: Buffer.from("shop.example"),
  duration: 1234,
  bytes_in: 0,
  bytes_out: 19,
  flags: 0,
  code_details: Buffer.from("rbac_access_denied_matched_policy[none]"),
  protocol: Buffer.from("HTTP/1.1"),
  source_address: Buffer.from("10.1.2.9:51234"),
  peer_auth: 0,
};

function without(values: Values, name: string): Values {
  return Object.fromEntries(Object.entries(values).filter(([key]) => key !== name));
}

const valid: Record<string, Values> = {
  "an open": open,
  "an open after an abandoned chain, with hints": {
    ...open,
    hint: [Buffer.alloc(16, 7), Buffer.alloc(16, 8)],
    abandoned_chain: Buffer.alloc(16, 9),
    abandoned_seq: 41,
    abandoned_head: head,
    abandoned_cause: 2,
    abandoned_count: 3,
  },
  "a request": request,
  "a request with a cut path": {
    ...request,
    path: Buffer.alloc(8192, "a"),
    cut: [10],
  },
  "a request with bytes that are no text": {
    ...request,
    path: Buffer.from("2f00ff80c0", "hex"),
    user_agent: Buffer.alloc(0),
  },
  "a gap": {
    ...envelope(5, 2, head),
    gap_count: 17,
    gap_from: 1_795_478_400_000_000,
    gap_to: 1_795_478_401_000_000,
    gap_cause: 1,
  },
  "a heartbeat with the largest seq": {
    ...envelope(7, Number.MAX_SAFE_INTEGER, head),
    time: Number.MAX_SAFE_INTEGER,
    receipt: Buffer.from("meshseal/v1/receipt\n"),
  },
  "a close": envelope(9, 3, head),
  anchors: {
    ...envelope(16, 4, head),
    anchor: [Buffer.from("witnesses"), Buffer.from("tsa")],
    anchor_size: [1200, 1180],
    anchor_time: [1_795_478_400_000_000, 1_795_478_399_000_000],
    anchor_proof: [head, Buffer.alloc(32, 1)],
  },
  "peers, one of them never seen": {
    ...envelope(17, 5, head),
    peer_origin: [Buffer.from("log.example/a"), Buffer.from("log.example/b")],
    peer_key: [
      Buffer.from("log.example/a+00000000+AQ=="),
      Buffer.from("log.example/b+00000000+AQ=="),
    ],
    peer_checkpoint: [
      Buffer.from("log.example/a\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"),
      Buffer.alloc(0),
    ],
  },
};

const good = pack(request);
const bare = pack(envelope(9, 3, head));
/** Bytes between the seq's tag and its value in `bare`: kind is 2 bytes, chain 18. */
const seqAt = 2 + 18 + 1;

const invalid: Record<string, Buffer> = {
  "no bytes": Buffer.alloc(0),
  "a truncated value": good.subarray(0, good.length - 1),
  "a byte too many": Buffer.concat([good, Buffer.from([0])]),
  "no salt": pack(without(envelope(9, 3, head), "salt")),
  "no prev": pack(without(envelope(9, 3, head), "prev")),
  "a seq that is not minimal": Buffer.concat([
    bare.subarray(0, seqAt),
    Buffer.from([0x83, 0x00]),
    bare.subarray(seqAt + 1),
  ]),
  "a seq of 2^53": Buffer.concat([
    bare.subarray(0, seqAt),
    Buffer.from("8080808080808010", "hex"),
    bare.subarray(seqAt + 1),
  ]),
  "fields out of order": Buffer.concat([bare.subarray(2), bare.subarray(0, 2)]),
  "a field twice": Buffer.concat([bare, bare.subarray(-2)]),
  "a chain of 15 bytes": pack({ ...envelope(9, 3, head), chain: chain.subarray(1) }),
  "a wire type that is not used": Buffer.concat([bare, Buffer.from("4500000000", "hex")]),
  "field number 0": Buffer.concat([Buffer.from([0x00, 0x00]), bare]),
  "a gap's field in a close": pack({ ...envelope(9, 3, head), gap_count: 1 }),
  "an open that is not seq 0": pack({ ...open, seq: 1 }),
  "a request at seq 0": pack({ ...request, seq: 0, prev: zeros }),
  "an open with a prev": pack({ ...open, prev: head }),
  "a method of 65 bytes": pack({ ...request, method: Buffer.alloc(65, "G") }),
  "kind 0": pack({ ...envelope(0, 3, head) }),
};

const newer: Record<string, Buffer> = {
  "a field that this version does not know": Buffer.concat([bare, Buffer.from("f8ff0301", "hex")]),
  "a kind that this version does not know": pack(envelope(31, 3, head)),
};

function digest(bytes: Buffer): string {
  return createHash("sha256").update(Buffer.of(0)).update(bytes).digest("hex");
}

function plain(values: Values): Record<string, unknown> {
  const entries = Object.entries(values).map(([name, value]) => {
    const list = Array.isArray(value) ? value : [value];
    return [name, list.map((item) => (Buffer.isBuffer(item) ? item.toString("hex") : item))];
  });
  return Object.fromEntries(entries);
}

const vectors = {
  valid: Object.entries(valid).map(([name, values]) => {
    const bytes = pack(values);
    return { name, fields: plain(values), bytes: bytes.toString("hex"), digest: digest(bytes) };
  }),
  newer: Object.entries(newer).map(([name, bytes]) => ({
    name,
    bytes: bytes.toString("hex"),
    digest: digest(bytes),
  })),
  invalid: Object.entries(invalid).map(([name, bytes]) => ({ name, bytes: bytes.toString("hex") })),
};

writeFileSync("test/vectors/entries.json", `${JSON.stringify(vectors, null, 1)}\n`);
