/**
 * Seal lines out of proxies' own logs: the last word of chains that could send no more (FORMAT.md section 4.9), compared with
 * what a log holds. The lines come through pipelines that others can write to: only a signature or a MAC makes one
 * more than a hint. Pure.
 */
import { type KeyObject, timingSafeEqual, verify } from "node:crypto";
import { SEAL_LABEL } from "../../record/wire.ts";
import { type BatchKeys, macOfSeal } from "../access/mac.ts";
import { decodeBase64 } from "../log/note.ts";
import type { ChainReport, Findings } from "./report.ts";
import type { ProxyTrust } from "./trust.ts";

export type Seal = {
  readonly why: "seal" | "abandoned";
  readonly chain: string;
  readonly seq: number;
  readonly head: string;
  readonly unreceipted: number;
  readonly missed: number;
  /** What was signed: the line up to the proofs. */
  readonly text: string;
  readonly signKey: string;
  readonly signature: string;
  readonly macKey: string;
  readonly mac: string;
};

const SEAL =
  /(meshseal (seal|abandoned) chain=([0-9a-f]{32}) seq=(\d{1,15}) head=([0-9a-f]{64}) unreceipted=(\d{1,15}) missed=(\d{1,15}))(?: sign_key=([!-~]{1,512}) sig=([A-Za-z0-9+/=]{1,200}))?(?: key=([A-Za-z0-9._-]{1,64}) mac=([A-Za-z0-9+/=]{44}))?/;

/** Returns the seal line in a line of a log, or null. */
export function parseSeal(line: string): Seal | null {
  const found = SEAL.exec(line);
  if (found === null) return null;
  const [, text = "", why, chain = "", seq, head = "", unreceipted, missed, ...proofs] = found;
  const [signKey = "", signature = "", macKey = "", mac = ""] = proofs;
  return {
    why: why === "seal" ? "seal" : "abandoned",
    chain,
    seq: Number(seq),
    head,
    unreceipted: Number(unreceipted),
    missed: Number(missed),
    text,
    signKey,
    signature,
    macKey,
    mac,
  };
}

/** Keys that show who wrote a seal line. */
export type SealKeys = {
  readonly proxies: readonly ProxyTrust[];
  readonly macs: BatchKeys;
};

export type Proof = "signature" | "mac" | "none" | "forged";

/** Says what shows that a seal is its proxy's. `forged`: a key is known for it, and does not fit. */
export function proofOf(seal: Seal, { proxies, macs }: SealKeys): Proof {
  const keys = proxies.filter(({ keyId }) => keyId === seal.signKey).map(({ key }) => key);
  if (seal.signature !== "" && keys.length > 0) {
    return keys.some((key) => isSigned(seal, key)) ? "signature" : "forged";
  }
  const macKey = macs.get(seal.macKey);
  if (seal.mac === "" || macKey === undefined) return "none";
  const expected = macOfSeal(macKey, Buffer.from(seal.chain, "hex"), seal.text);
  const given = decodeBase64(seal.mac);
  const isRight = given?.length === expected.length && timingSafeEqual(given, expected);
  return isRight ? "mac" : "forged";
}

function isSigned(seal: Seal, key: KeyObject): boolean {
  const signature = decodeBase64(seal.signature);
  const text = Buffer.from(`${SEAL_LABEL}\n${seal.text}`);
  return signature !== null && verify("sha256", text, key, signature);
}

/**
 * Compares seals with the chains of a log. Returns the chains that are whole up to their seal: nothing that the proxy made of
 * them is missing.
 */
export function checkSeals(
  lines: Iterable<string>,
  keys: SealKeys,
  chains: readonly ChainReport[],
  findings: Findings,
  notes: string[],
): Set<string> {
  const held = new Map(chains.map((chain) => [chain.chain, chain]));
  const whole = new Set<string>();
  const count = { signature: 0, mac: 0, none: 0 };
  // Where there are keys, a line without a proof is one that anyone could have put in the place of another.
  const hasKeys = keys.proxies.length > 0 || keys.macs.size > 0;
  for (const seal of newest(lines, keys, findings).values()) {
    const proof = proofOf(seal, keys);
    if (proof === "forged") continue;
    count[proof]++;
    compare(
      seal,
      proof,
      held.get(seal.chain),
      findings,
      hasKeys && proof === "none" ? null : whole,
    );
  }
  const total = count.signature + count.mac + count.none;
  notes.push(
    `${total} seals were compared: ${count.signature} signed, ${count.mac} with a MAC, ${count.none} that anyone could have written. ${whole.size} chains are whole.`,
  );
  return whole;
}

/** The last seal of each chain; forged ones are findings. */
function newest(lines: Iterable<string>, keys: SealKeys, findings: Findings): Map<string, Seal> {
  const seals = new Map<string, Seal>();
  for (const line of lines) {
    const seal = parseSeal(line);
    if (seal === null) continue;
    const { chain, seq } = seal;
    if (proofOf(seal, keys) === "forged") {
      const message = `a seal for seq ${seq} of chain ${chain} is not by the key that it names`;
      findings.add({ severity: "cannot-say", cause: "forged-seal", chain, seq, message });
    } else if (seq >= (seals.get(chain)?.seq ?? 0)) seals.set(chain, seal);
  }
  return seals;
}

function compare(
  { why, chain, seq, head, missed }: Seal,
  proof: Proof,
  held: ChainReport | undefined,
  findings: Findings,
  whole: Set<string> | null,
): void {
  const at = { chain, seq };
  const last = held?.last ?? -1;
  if (last < seq) {
    const message = `${seq - last} entries of chain ${chain} after seq ${last} never came: its ${why} says that there were ${seq + 1}`;
    findings.add({ ...at, severity: "incomplete", cause: "seal", message });
  } else if (last > seq || held?.head !== head) {
    const message = `chain ${chain} is not as its ${why} says: seq ${seq} with head ${head.slice(0, 16)}..., here seq ${last}`;
    const severity = proof === "none" ? "cannot-say" : "tampered";
    findings.add({ ...at, severity, cause: "seal-contradicted", message });
  } else if (why === "seal") whole?.add(chain);
  if (missed > 0) {
    const message = `${missed} requests were seen and not written at the end of chain ${chain}`;
    findings.add({ ...at, severity: "incomplete", cause: "seal-missed", message });
  }
}
