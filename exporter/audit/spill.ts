/**
 * Spilled entries out of proxies' own logs: batches in pieces, put together again and judged before anything is sent anywhere
 * (FORMAT.md section 4.9). The lines may be forged, cut, doubled, or of several proxies at once. Pure.
 */
import { parseBatchHeader } from "../../record/batch.ts";
import { decodeEntry } from "../../record/codec.ts";
import { ENTRY_PREFIX_BYTES, MAX_BATCH_BYTES } from "../../record/wire.ts";
import { judgeMac } from "../access/mac.ts";
import { leafHash } from "../log/merkle.ts";
import { decodeBase64 } from "../log/note.ts";
import { parseSeal, proofOf, type Seal, type SealKeys } from "./seals.ts";

const PIECE =
  /meshseal spill chain=([0-9a-f]{32}) first=(\d{1,15}) part=(\d{1,4})\/(\d{1,4}) data=([A-Za-z0-9+/]+={0,2})/;
const MAX_PARTS = 512;
const MAX_BATCHES = 100_000;

/** One batch, whole and linked. */
export type SpilledBatch = {
  readonly chain: string;
  readonly firstSeq: number;
  readonly count: number;
  readonly bytes: Buffer;
  /** Id of the key that its MAC should be by, "" if it has none. */
  readonly keyId: string;
  /** `mac`: verified; `links`: only the links inside it; `seal`: it links to a seal that was verified. */
  readonly proof: "mac" | "seal" | "links";
};

export type Recovered = {
  readonly batches: readonly SpilledBatch[];
  /** Sentences: lines that are no honest proxy's. */
  readonly forged: readonly string[];
  /** Sentences: what cannot be put together. */
  readonly missing: readonly string[];
};

type Pieces = { readonly total: number; readonly parts: Map<number, string>; isTorn: boolean };

/** Reads all spills in the lines of a log, in the order in which their chains have to be sent. */
export function readSpills(lines: Iterable<string>, keys: SealKeys): Recovered {
  const pieces = new Map<string, Pieces>();
  const seals = new Map<string, Seal>();
  const forged: string[] = [];
  const missing: string[] = [];
  for (const line of lines) {
    const seal = parseSeal(line);
    if (seal !== null && seal.seq >= (seals.get(seal.chain)?.seq ?? 0)) seals.set(seal.chain, seal);
    const found = PIECE.exec(line);
    if (found !== null) collect(found, pieces, forged);
  }
  const batches: SpilledBatch[] = [];
  for (const [name, one] of pieces) {
    const [chain = "", first] = name.split(":");
    const firstSeq = Number(first);
    const seal = seals.get(chain);
    const where = `spill of chain ${chain} from seq ${firstSeq}`;
    if (one.isTorn) {
      forged.push(`${where}: two different pieces have one number`);
      continue;
    }
    if (one.parts.size !== one.total) {
      missing.push(`${where}: ${one.total - one.parts.size} of ${one.total} pieces are not there`);
      continue;
    }
    const judged = judge(chain, firstSeq, join(one), seal, keys);
    if (typeof judged === "string") forged.push(`${where}: ${judged}`);
    else batches.push(judged);
  }
  const entries = new Map<string, number>();
  for (const { chain, count } of batches) entries.set(chain, (entries.get(chain) ?? 0) + count);
  for (const { chain, unreceipted } of seals.values()) {
    const here = entries.get(chain) ?? 0;
    if (here < unreceipted) {
      missing.push(
        `chain ${chain}: its seal counts ${unreceipted} unreceipted entries, here are ${here}`,
      );
    }
  }
  batches.sort((a, b) =>
    a.chain === b.chain ? a.firstSeq - b.firstSeq : a.chain < b.chain ? -1 : 1,
  );
  return { batches, forged, missing };
}

function collect(found: RegExpExecArray, pieces: Map<string, Pieces>, forged: string[]): void {
  const [, chain, first, part, total, data = ""] = found;
  const name = `${chain}:${first}`;
  const count = Number(total);
  const number = Number(part);
  if (number === 0 || number > count || count > MAX_PARTS || pieces.size >= MAX_BATCHES) {
    forged.push(`spill of chain ${chain} from seq ${first}: piece ${part} of ${total} cannot be`);
    return;
  }
  const one = pieces.get(name) ?? { total: count, parts: new Map<number, string>(), isTorn: false };
  pieces.set(name, one);
  const before = one.parts.get(number);
  // A pipeline may deliver a line twice.
  if (one.total !== count || (before !== undefined && before !== data)) one.isTorn = true;
  one.parts.set(number, data);
}

function join({ total, parts }: Pieces): Buffer | null {
  const buffers: Uint8Array[] = [];
  for (let number = 1; number <= total; number++) {
    const bytes = decodeBase64(parts.get(number) ?? "");
    if (bytes === null) return null;
    buffers.push(bytes);
  }
  return Buffer.concat(buffers);
}

function judge(
  chain: string,
  firstSeq: number,
  bytes: Buffer | null,
  seal: Seal | undefined,
  keys: SealKeys,
): SpilledBatch | string {
  if (bytes === null) return "no base64";
  const header = bytes.length > MAX_BATCH_BYTES ? null : parseBatchHeader(bytes);
  if (header === null) return "no batch";
  const { count } = header;
  if (Buffer.from(header.chain).toString("hex") !== chain || header.firstSeq !== firstSeq) {
    return "a batch of another chain or place";
  }
  const digests = follow(bytes, header.entriesAt, chain, firstSeq, count);
  if (digests === null) return "its entries do not follow each other";
  const keyId = seal?.macKey ?? "";
  if (header.mac.length > 0 && keys.macs.size > 0) {
    const verdict = judgeMac(bytes, keyId, keys.macs);
    if (verdict !== null && "problem" in verdict) return verdict.problem;
    return { chain, firstSeq, count, bytes, keyId, proof: "mac" };
  }
  const sealed = seal === undefined ? null : digests[seal.seq - firstSeq]?.toString("hex");
  if (seal !== undefined && sealed !== undefined) {
    const proof = proofOf(seal, keys);
    if (proof === "forged") return "its seal is not by the key that it names";
    if (sealed !== seal.head) return "it does not end as its seal says";
    if (proof !== "none") return { chain, firstSeq, count, bytes, keyId, proof: "seal" };
  }
  return { chain, firstSeq, count, bytes, keyId, proof: "links" };
}

/** Returns the digests of a batch's entries, or null unless each is canonical and follows the one before. */
function follow(
  bytes: Buffer,
  from: number,
  chain: string,
  firstSeq: number,
  count: number,
): Buffer[] | null {
  const digests: Buffer[] = [];
  for (let at = from; at < bytes.length; ) {
    if (at + ENTRY_PREFIX_BYTES > bytes.length || bytes[at + 2] !== 0) return null;
    const end = at + ENTRY_PREFIX_BYTES + bytes.readUInt16BE(at);
    const entry =
      end > bytes.length ? null : decodeEntry(bytes.subarray(at + ENTRY_PREFIX_BYTES, end));
    if (entry === null || Buffer.from(entry.chain).toString("hex") !== chain) return null;
    const before = digests.at(-1);
    if (entry.seq !== firstSeq + digests.length) return null;
    if (before !== undefined && !before.equals(entry.prev)) return null;
    digests.push(Buffer.from(leafHash(bytes.subarray(at + ENTRY_PREFIX_BYTES, end))));
    at = end;
  }
  return digests.length === count ? digests : null;
}
