/**
 * Mutated proofs for every parser of what outsiders send: time stamp tokens, OpenTimestamps files and calendars' answers, cosignature lines,
 * tlog policies, Rekor entries, witness requests, block headers. A target throws where a parser throws what it may not, or believes more than was
 * proved.
 */
import { createHash, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  attestationsOf,
  formatOts,
  OtsError,
  parseCalendarAnswer,
  parseOts,
} from "../../exporter/anchor/ots.ts";
import { verifyRekor } from "../../exporter/anchor/rekor-entry.ts";
import { timestamps } from "../../exporter/anchor/rfc3161.ts";
import { verifyTimestamp } from "../../exporter/anchor/timestamp-token.ts";
import { formatRequest, judge, readAnswer } from "../../exporter/anchor/witness-protocol.ts";
import { noteOf } from "../../exporter/audit/evidence.ts";
import { parseHeaders } from "../../exporter/audit/policy.ts";
import { signCheckpoint } from "../../exporter/log/checkpoint.ts";
import { cosignedAt, newCosigner, parseCosignerVkey } from "../../exporter/log/cosignature.ts";
import { leafHash } from "../../exporter/log/merkle.ts";
import {
  newSigner,
  openNote,
  parseNote,
  parseVkey,
  signNote,
  type Verifier,
} from "../../exporter/log/note.ts";
import { hasQuorum, PolicyError, parseTlogPolicy } from "../../exporter/log/tlog-policy.ts";
import { startTsa } from "./tsa.ts";

export type Target = {
  readonly name: string;
  /** Good inputs, which are mutated. */
  readonly seeds: readonly Buffer[];
  /** Judges an input; returns a word for how far it came. Throws where something is wrong. */
  readonly judge: (input: Buffer, seed: Buffer) => string;
};

const sha256 = (bytes: Uint8Array): Buffer => createHash("sha256").update(bytes).digest();
const vectors = (name: string): unknown =>
  JSON.parse(readFileSync(join(import.meta.dirname, "../vectors", name), "utf8"));

/** Returns the targets. Two authorities are asked for tokens first: needs openssl. */
export async function anchorTargets(): Promise<Target[]> {
  return [
    ...(await tokens()),
    ots(),
    calendar(),
    cosignatures(),
    policies(),
    headers(),
    rekor(),
    rekorBodies(),
    requests(),
  ];
}

async function tokens(): Promise<Target[]> {
  const note = Buffer.from("log.example/f\n1\nAAAA\n\n— log.example/f AAAAAAA=\n");
  const subject = { size: 1, root: Buffer.alloc(32), note, prove: async () => [] };
  const targets: Target[] = [];
  for (const kind of ["ec", "rsa"] as const) {
    const tsa = await startTsa(kind);
    const trust = { roots: [new X509Certificate(readFileSync(tsa.root))], policies: [] };
    const target = { name: "tsa", url: tsa.url, everyMs: 1000, timeoutMs: 30_000 };
    const { bytes } = await timestamps(target, trust).submit(subject, AbortSignal.timeout(30_000));
    await tsa.stop();
    const good = JSON.stringify(verifyTimestamp(bytes, sha256(note), trust));
    targets.push({
      name: `tsr-${kind}`,
      seeds: [bytes],
      judge: (input) => {
        const stamp = verifyTimestamp(input, sha256(note), trust);
        if (stamp.status === "verified" && JSON.stringify(stamp) !== good)
          throw new Error(`another time is verified: ${JSON.stringify(stamp)}`);
        return stamp.status;
      },
    });
  }
  return targets;
}

type Published = { proofs: { file: string; ots: string }[] };

function ots(): Target {
  const { proofs } = vectors("opentimestamps.json") as Published;
  const digests = new Map(
    proofs.map(({ file, ots: hex }) => [hex, sha256(Buffer.from(file, "hex"))] as const),
  );
  return {
    name: "ots",
    seeds: proofs.map(({ ots: hex }) => Buffer.from(hex, "hex")),
    judge: (input, seed) => {
      const digest = digests.get(seed.toString("hex")) ?? Buffer.alloc(32);
      try {
        const root = parseOts(input, digest);
        const again = parseOts(formatOts(digest, root), digest);
        expectSame(attestationsOf(again, digest), attestationsOf(root, digest));
        return "parsed";
      } catch (error) {
        if (error instanceof OtsError) return error.message.replace(/op \w+/, "op");
        throw error;
      }
    },
  };
}

function calendar(): Target {
  const { proofs } = vectors("opentimestamps.json") as Published;
  return {
    name: "calendar",
    // A calendar's answer is a proof without its head: magic, version, hash and digest.
    seeds: proofs.map(({ ots: hex }) => Buffer.from(hex, "hex").subarray(31 + 1 + 1 + 32)),
    judge: (input) => {
      try {
        parseCalendarAnswer(input, Buffer.alloc(32, 7));
        return "parsed";
      } catch (error) {
        if (error instanceof OtsError) return error.message.replace(/op \w+/, "op");
        throw error;
      }
    },
  };
}

const T0 = 1_767_139_200;
const LOG = newSigner("log.example/f", Buffer.alloc(32, 1));
const WITNESS = newCosigner("wit.example/f", Buffer.alloc(32, 2), () => T0);

function cosignatures(): Target {
  const key = parseCosignerVkey(WITNESS.vkey) as Verifier;
  const checkpoint = { origin: LOG.name, size: 7, root: sha256(Buffer.from("root")) };
  const note = signCheckpoint(checkpoint, [LOG]);
  const text = note.slice(0, note.indexOf("\n\n") + 1);
  const line = signNote(text, [WITNESS]).slice(text.length + 1);
  return {
    name: "cosignature",
    seeds: [Buffer.from(line), Buffer.from(note + line)],
    judge: (input, seed) => {
      const isLine = seed.length === Buffer.byteLength(line);
      if (isLine) {
        const lines = readAnswer(input.toString(), text, key);
        for (const found of lines)
          if (found !== line) throw new Error(`another line is verified: ${found}`);
        return lines.length > 0 ? "verified" : "ignored";
      }
      const opened = openNote(input, [key]);
      if (opened === null) return parseNote(input) === null ? "malformed" : "not signed";
      if (opened.text !== text) throw new Error("another text is verified");
      for (const signature of opened.verified)
        if (cosignedAt(signature) !== T0) throw new Error("another time is verified");
      return "verified";
    },
  };
}

function policies(): Target {
  const cosigner = (i: number): string =>
    newCosigner(`w${i}.example`, Buffer.alloc(32, i), () => T0).vkey;
  const lines = [1, 2, 3].map((i) => `witness w${i} ${cosigner(i)} https://w${i}.example/`);
  const text = `# who\nlog ${LOG.vkey}\n${lines.join("\n")}\ngroup a 2 w1 w2\ngroup all all a w3\nquorum all\n`;
  return {
    name: "tlog-policy",
    seeds: [
      Buffer.from(text),
      Buffer.from(`${text}\n\tlog ${newSigner("x", Buffer.alloc(32, 9)).vkey} u\n`),
    ],
    judge: (input) => {
      try {
        const policy = parseTlogPolicy(input.toString());
        const all = new Set(policy.witnesses.map(({ name }) => name));
        if (policy.quorum !== null && hasQuorum(policy, new Set()))
          throw new Error("nobody is a quorum");
        if (!hasQuorum(policy, all)) throw new Error("all of them are no quorum");
        return "parsed";
      } catch (error) {
        if (error instanceof PolicyError)
          return error.message.replace(/".*"|\d+|\S+ (is|the name)/g, "").slice(0, 40);
        throw error;
      }
    },
  };
}

function headers(): Target {
  return {
    name: "headers",
    seeds: [Buffer.from(`# node\n800001 ${"ab".repeat(80)}\r\n0 ${"00".repeat(80)}\n`)],
    judge: (input) => {
      try {
        for (const [height, header] of parseHeaders(input))
          if (!Number.isSafeInteger(height) || header.length !== 80)
            throw new Error("a bad header");
        return "parsed";
      } catch (error) {
        if (error instanceof PolicyError) return "refused";
        throw error;
      }
    },
  };
}

function rekor(): Target {
  const { vkey, entries } = vectors("rekor.json") as {
    vkey: string;
    entries: { note: string; answer: string }[];
  };
  const keys = [parseVkey(vkey) as Verifier];
  const digests = new Map(entries.map(({ note, answer }) => [answer, sha256(Buffer.from(note))]));
  return {
    name: "rekor",
    seeds: entries.map(({ answer }) => Buffer.from(answer)),
    judge: (input, seed) => {
      const digest = digests.get(seed.toString()) ?? Buffer.alloc(32);
      const good = verifyRekor(seed, digest, keys);
      const verdict = verifyRekor(input, digest, keys);
      if (good.status !== "verified") throw new Error("a good entry is not verified");
      if (verdict.status === "invalid") return verdict.reason;
      if (verdict.status === "verified") {
        const { checkpoint: _, ...one } = verdict;
        const { checkpoint: __, ...other } = good;
        expectSame(one, other);
      }
      return verdict.status;
    },
  };
}

/** Bodies in a tree of one leaf that a key of ours has signed: whatever the body, the proof around it is good. */
function rekorBodies(): Target {
  const signer = newSigner("rekor.example/f", Buffer.alloc(32, 3));
  const keys = [parseVkey(signer.vkey) as Verifier];
  const { entries } = vectors("rekor.json") as { entries: { note: string; answer: string }[] };
  const bodies = entries.map(({ answer }) =>
    Buffer.from((JSON.parse(answer) as { canonicalizedBody: string }).canonicalizedBody, "base64"),
  );
  const digests = new Map(
    bodies.map((body, i) => [body.toString(), sha256(Buffer.from(entries[i]?.note ?? ""))]),
  );
  return {
    name: "rekor-body",
    seeds: bodies,
    judge: (input, seed) => {
      const digest = digests.get(seed.toString()) ?? Buffer.alloc(32);
      const checkpoint = { origin: signer.name, size: 1, root: leafHash(input) };
      const answer = {
        inclusionProof: {
          logIndex: "0",
          treeSize: "1",
          hashes: [],
          checkpoint: { envelope: signCheckpoint(checkpoint, [signer]) },
        },
        canonicalizedBody: input.toString("base64"),
      };
      const verdict = verifyRekor(Buffer.from(JSON.stringify(answer)), digest, keys);
      if (verdict.status === "invalid") return verdict.reason;
      if (!input.includes(digest.toString("base64")) && !/\\u|\\\//.test(input.toString()))
        throw new Error("a body without the digest is verified");
      return verdict.status;
    },
  };
}

function requests(): Target {
  const note = (size: number): Buffer =>
    Buffer.from(signCheckpoint({ origin: LOG.name, size, root: sha256(Buffer.of(size)) }, [LOG]));
  const key = parseVkey(LOG.vkey) as Verifier;
  const proof = [1, 2, 3].map((i) => sha256(Buffer.of(i)));
  return {
    name: "add-checkpoint",
    seeds: [formatRequest(0, [], note(7)), formatRequest(5, proof, note(9))],
    judge: (input) => {
      noteOf(input);
      const judgement = judge(input, [key], () => ({ size: 5, root: sha256(Buffer.of(5)) }));
      // The proof is made up, and what is held is of size 5.
      if (judgement.status === 200) throw new Error("a request without a proof is cosigned");
      return `${judgement.status}`;
    },
  };
}

function expectSame(a: unknown, b: unknown): void {
  if (JSON.stringify(a) !== JSON.stringify(b))
    throw new Error(`not the same: ${JSON.stringify(a)} and ${JSON.stringify(b)}`);
}

/** Returns a changed copy of one of `seeds`: some bytes are flipped, set, cut out, doubled, put in, or taken from another seed. */
export function mutate(seed: Buffer, seeds: readonly Buffer[], random: () => number): Buffer {
  let bytes = Buffer.from(seed);
  const below = (limit: number): number => Math.floor(random() * limit);
  for (let changes = 1 + below(4); changes > 0; changes--) {
    const at = below(bytes.length + 1);
    const length = below(random() < 0.5 ? 4 : 64);
    const rest = bytes.subarray(Math.min(bytes.length, at + length));
    const how = below(8);
    if (how === 0 && at < bytes.length) bytes[at] = (bytes[at] ?? 0) ^ (1 << below(8));
    else if (how === 1 && at < bytes.length) bytes[at] = below(256);
    else if (how === 2 && at < bytes.length) bytes[at] = EXTREMES[below(EXTREMES.length)] ?? 0;
    else if (how === 3) bytes = Buffer.concat([bytes.subarray(0, at), rest]);
    else if (how === 4) bytes = Buffer.concat([bytes.subarray(0, at + length), bytes.subarray(at)]);
    else if (how === 5) {
      const put = Buffer.from(Array.from({ length }, () => below(256)));
      bytes = Buffer.concat([bytes.subarray(0, at), put, bytes.subarray(at)]);
    } else if (how === 6) {
      const other = seeds[below(seeds.length)] ?? seed;
      const from = below(other.length + 1);
      bytes = Buffer.concat([bytes.subarray(0, at), other.subarray(from, from + length), rest]);
    } else if (how === 7 && random() < 0.3) bytes = bytes.subarray(0, at);
  }
  return bytes;
}

/** Ends of ranges, tags of ASN.1 and of OpenTimestamps, and what divides lines. */
const EXTREMES = [
  0, 1, 0x7f, 0x80, 0x81, 0x82, 0x84, 0xff, 0xf0, 0xf1, 0xf3, 0x08, 0x30, 0x31, 0xa0, 0x0a, 0x0d,
  0x20, 0x22,
];
