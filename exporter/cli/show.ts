/** `meshseal show` */
import { Command } from "commander";
import { bytesOf, decodeEntry, type FieldValue, fieldNamed, fieldOf } from "../../record/codec.ts";
import { F_KIND, F_STREAM_ID, F_TIME, KIND_REQUEST_START, kindName } from "../../record/fields.ts";
import { entryAt, findIndex, openTiles, readBundle } from "../audit/entries.ts";
import { openSource } from "../audit/source.ts";
import type { Tiles } from "../audit/tiles.ts";
import { MeshsealError } from "../errors.ts";
import { HASH_BYTES, inclusionProof, leafHash } from "../log/merkle.ts";
import { TILE_WIDTH, tileRoot } from "../log/tile.ts";
import type { StoreFlags } from "../store/settings.ts";
import { withStoreFlags } from "./store-flags.ts";
import { wordsFor } from "./words.ts";

const HELP = `
Shows what the files say. It checks nothing: that is what verify is for.

Examples:
  meshseal show 42
  meshseal show 0123456789abcdef0123456789abcdef        the stream id of a response header
  meshseal show 0123456789abcdef0123456789abcdef:7 --log http://127.0.0.1:7700/log`;

export function showCommand(): Command {
  const command = new Command("show")
    .description("Show one entry: decoded, its bytes, its digest and its inclusion proof.")
    .argument("<index|chain:seq|stream>", "place in the log, or chain id and seq, or stream id")
    .option(
      "--log <dir|url>",
      "data directory, log directory, or URL of the log",
      "./meshseal-data",
    );
  return withStoreFlags(command)
    .option("--json", "print one JSON object")
    .addHelpText("after", HELP)
    .action(async (which: string, flags: StoreFlags & { log: string; json?: boolean }) => {
      const source = await openSource(flags.log, flags);
      const tiles = await openTiles(source);
      const index = await findEntry(tiles, which);
      const shown = await describe(tiles, index);
      console.log(flags.json ? JSON.stringify(shown, null, 2) : format(shown));
    });
}

type Shown = {
  index: number;
  digest: string;
  fields: Record<string, string | number | (string | number)[]>;
  /** Of a stream's beginning: whether the log has its end. */
  stream?: string;
  bytes: string;
  proof: { treeSize: number; hashes: string[] };
};

async function findEntry(tiles: Tiles, which: string): Promise<number> {
  if (/^[0-9a-f]{32}$/.test(which)) {
    const found = await findStream(tiles, which, 0);
    const index = found.end ?? found.start;
    if (index === undefined) {
      const pruned = tiles.first === 0 ? "" : ` in what was left from ${tiles.first} on`;
      throw new MeshsealError(`the log holds no stream ${which}${pruned}.`);
    }
    return index;
  }
  return findIndex(tiles, which);
}

/** Finds the entries of a stream's beginning and end, from an index on. */
async function findStream(
  tiles: Tiles,
  id: string,
  from: number,
): Promise<{ start?: number; end?: number }> {
  const found: { start?: number; end?: number } = {};
  const wanted = Buffer.from(id, "hex");
  const first = Math.max(from, tiles.first);
  for (let tile = Math.floor(first / TILE_WIDTH); tile * TILE_WIDTH < tiles.size; tile++) {
    for (const [i, bytes] of (await readBundle(tiles, tile)).entries()) {
      if (Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).indexOf(wanted) < 0) continue;
      const entry = decodeEntry(bytes);
      if (entry === null || !wanted.equals(bytesOf(entry, F_STREAM_ID) ?? new Uint8Array()))
        continue;
      const index = tile * TILE_WIDTH + i;
      if (entry.kind === KIND_REQUEST_START) found.start ??= index;
      else return { ...found, end: index };
    }
  }
  return found;
}

async function describe(tiles: Tiles, index: number): Promise<Shown> {
  const { bytes, entry } = await entryAt(tiles, index);
  const fields: Shown["fields"] = {};
  for (const field of entry.fields) {
    const name = fieldOf(field.number)?.name ?? `field_${field.number}`;
    const before = fields[name];
    const value = formatValue(field);
    fields[name] = before === undefined ? value : [before, value].flat();
  }
  const hashes = await proofOf(tiles, index);
  const id = bytesOf(entry, F_STREAM_ID);
  const isStart = entry.kind === KIND_REQUEST_START && id !== undefined;
  const end = isStart
    ? (await findStream(tiles, Buffer.from(id).toString("hex"), index)).end
    : undefined;
  return {
    index,
    digest: Buffer.from(leafHash(bytes)).toString("hex"),
    fields,
    ...(isStart ? { stream: end === undefined ? "unfinished" : `ended by entry ${end}` } : {}),
    bytes: Buffer.from(bytes).toString("hex"),
    proof: {
      treeSize: tiles.size,
      hashes: hashes.map((hash) => Buffer.from(hash).toString("base64")),
    },
  };
}

async function proofOf(tiles: Tiles, index: number): Promise<Uint8Array[]> {
  const wanted = new Map<string, Buffer | null>();
  const keyOf = (height: number, at: number): [number, number] => [
    Math.floor(height / 8),
    Math.floor((at * 2 ** (height % 8)) / TILE_WIDTH),
  ];
  inclusionProof(index, tiles.size, (height, at) => {
    wanted.set(keyOf(height, at).join("/"), null);
    return new Uint8Array(HASH_BYTES);
  });
  for (const key of wanted.keys()) {
    const [level = 0, tile = 0] = key.split("/").map(Number);
    wanted.set(key, await tiles.hashes(level, tile));
  }
  return inclusionProof(index, tiles.size, (height, at) => {
    const tile = wanted.get(keyOf(height, at).join("/"));
    if (tile === undefined || tile === null)
      throw new MeshsealError("a tile of the log is damaged: run verify.");
    const width = 2 ** (height % 8);
    const from = ((at * width) % TILE_WIDTH) * HASH_BYTES;
    return tileRoot(tile.subarray(from, from + width * HASH_BYTES));
  });
}

/** Text where the bytes are plain text, hex otherwise: bytes from the network never reach the terminal as they are. */
function formatValue({ number, value }: FieldValue): string | number {
  if (number === F_KIND && typeof value === "number") return kindName(value) || value;
  if (number === F_TIME && typeof value === "number") return formatTime(value);
  if (typeof value === "number") return value;
  const field = fieldOf(number);
  if (field !== undefined && field.min === field.max) return Buffer.from(value).toString("hex");
  const text = Buffer.from(value).toString("latin1");
  return /^[\x20-\x7e\n]*$/.test(text) ? text : `0x${Buffer.from(value).toString("hex")}`;
}

function formatTime(micros: number): string | number {
  const date = new Date(micros / 1000);
  return Number.isNaN(date.getTime()) ? micros : date.toISOString();
}

function format({ index, digest, fields, stream, bytes, proof }: Shown): string {
  const lines = [`entry ${index}`, `  digest  ${digest}`];
  if (stream !== undefined) lines.push(`  stream  ${stream}`);
  for (const [name, value] of Object.entries(fields)) {
    for (const one of [value].flat()) {
      const words = typeof one === "number" ? wordsFor(fieldNamed(name)?.number ?? 0, one) : "";
      const text = words === "" ? JSON.stringify(one) : `${one}  (${words})`;
      lines.push(`  ${name.padEnd(23)} ${text}`);
    }
  }
  lines.push("  bytes", ...(bytes.match(/.{1,80}/g) ?? []).map((line) => `    ${line}`));
  lines.push(
    `  proof in the tree of ${proof.treeSize} entries`,
    ...proof.hashes.map((hash) => `    ${hash}`),
  );
  return lines.join("\n");
}
