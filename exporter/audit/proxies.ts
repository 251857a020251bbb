/**
 * What proxies sign themselves: `signature` entries over heads (FORMAT.md section 4.8), against keys that come from the
 * verifier's policy. A chain of a proxy that the policy lists, and that signs nothing, could have been made by anyone. Pure.
 */
import { type KeyObject, verify } from "node:crypto";
import { bytesOf, type Entry, uintOf } from "../../record/codec.ts";
import {
  F_RECOVERED_COUNT,
  F_SENDER_CHAIN,
  F_SENDER_NAME,
  F_SIGN_KEY,
  F_SIGNATURE,
  F_WORKLOAD,
  KIND_OPEN,
  KIND_RECOVERED,
  KIND_SENDER,
  KIND_SIGNATURE,
} from "../../record/fields.ts";
import { HEAD_LABEL } from "../../record/wire.ts";
import type { Findings } from "./report.ts";
import type { ProxyTrust } from "./trust.ts";

type Signed = {
  /** Keys that may sign for this chain; empty where the policy does not list its proxy. */
  readonly keys: Set<KeyObject>;
  signatures: number;
  /** Seq of the last entry that a signature covers; -1 if there is none. */
  covered: number;
  last: number;
};

/** Returns the bytes that a proxy signs for the entry `seq` of `chain`, whose digest is `head`. */
export function headText(chain: Uint8Array, seq: number, head: Uint8Array): Buffer {
  const number = Buffer.alloc(8);
  number.writeBigUInt64BE(BigInt(seq));
  return Buffer.concat([Buffer.from(`${HEAD_LABEL}\n`), chain, number, head]);
}

export class ProxyWalk {
  readonly #findings: Findings;
  readonly #proxies: readonly ProxyTrust[];
  readonly #chains = new Map<string, Signed>();
  #unchecked = 0;
  #verified = 0;
  #recovered = 0;

  constructor(findings: Findings, proxies: readonly ProxyTrust[]) {
    this.#findings = findings;
    this.#proxies = proxies;
  }

  /** Takes up a chain whose entries up to `seq` were pruned: who it is of follows from `sender` and its `open`. */
  begin(
    chain: string,
    seq: number,
    facts: { readonly sender: Buffer; readonly workload: Buffer; readonly signKey: Buffer },
  ): void {
    const [sender, workload, keyId] = [facts.sender, facts.workload, facts.signKey].map((bytes) =>
      bytes.toString("latin1"),
    ) as [string, string, string];
    this.#list(
      chain,
      (proxy) =>
        isNamed(proxy.spiffe, sender) ||
        isNamed(proxy.workload, workload) ||
        isNamed(proxy.keyId, keyId),
    );
    const state = this.#chains.get(chain);
    // What was signed before is pruned with what it was over.
    if (state !== undefined) state.covered = state.last = seq;
  }

  /** Takes one entry, in the order of its chain. */
  visit(entry: Entry, chain: string, index: number): void {
    if (entry.kind === KIND_RECOVERED) this.#recovered += uintOf(entry, F_RECOVERED_COUNT) ?? 0;
    if (entry.kind === KIND_SIGNATURE && this.#proxies.length === 0) this.#unchecked++;
    if (this.#proxies.length === 0) return;
    if (entry.kind === KIND_OPEN) {
      const workload = textOf(entry, F_WORKLOAD);
      const keyId = textOf(entry, F_SIGN_KEY);
      this.#list(
        chain,
        (proxy) => isNamed(proxy.workload, workload) || isNamed(proxy.keyId, keyId),
      );
    } else if (entry.kind === KIND_SENDER) {
      const of = Buffer.from(bytesOf(entry, F_SENDER_CHAIN) ?? []).toString("hex");
      const name = textOf(entry, F_SENDER_NAME);
      this.#list(of, (proxy) => isNamed(proxy.spiffe, name));
    }
    this.reach(chain, entry.seq);
    const state = this.#of(chain);
    if (entry.kind !== KIND_SIGNATURE) return;
    if (state.keys.size === 0) this.#unchecked++;
    else this.#check(entry, chain, index, state);
  }

  /** Notes that a chain has entries up to `seq`. */
  reach(chain: string, seq: number): void {
    if (this.#proxies.length === 0) return;
    const state = this.#of(chain);
    state.last = Math.max(state.last, seq);
  }

  /** Adds what is to be said at the end. */
  finish(notes: string[]): void {
    let behind = 0;
    for (const [chain, { keys, signatures, covered, last }] of this.#chains) {
      if (keys.size === 0) continue;
      if (signatures === 0 && last > covered) {
        const message = `chain ${chain} is of a proxy that the policy lists, and nothing in it is signed`;
        this.#findings.add({ severity: "cannot-say", cause: "unsigned", chain, message });
      } else behind += Math.max(0, last - covered - 1);
    }
    if (this.#verified > 0) {
      const rest =
        behind === 0 ? "" : ` ${behind} entries stand behind the last one of their chain.`;
      notes.push(`${this.#verified} signatures by proxies were verified.${rest}`);
    }
    if (this.#unchecked > 0)
      notes.push(`${this.#unchecked} signatures by proxies were not checked: no key given.`);
    if (this.#recovered > 0)
      notes.push(`${this.#recovered} entries came home out of a proxy's own log.`);
  }

  #check(entry: Entry, chain: string, index: number, state: Signed): void {
    const text = headText(entry.chain, entry.seq - 1, entry.prev);
    const signature = bytesOf(entry, F_SIGNATURE) ?? new Uint8Array();
    if ([...state.keys].some((key) => verify("sha256", text, key, signature))) {
      state.signatures++;
      state.covered = entry.seq - 1;
      this.#verified++;
      return;
    }
    const message = `the signature in entry ${index} (seq ${entry.seq} of chain ${chain}) is not by a key of its proxy`;
    const { seq } = entry;
    this.#findings.add({ severity: "tampered", cause: "signature", index, chain, seq, message });
  }

  #list(chain: string, isListed: (proxy: ProxyTrust) => boolean): void {
    const listed = this.#proxies.filter(isListed);
    if (listed.length === 0) return;
    const state = this.#of(chain);
    for (const { key } of listed) state.keys.add(key);
  }

  #of(chain: string): Signed {
    let state = this.#chains.get(chain);
    if (state === undefined) {
      state = { keys: new Set(), signatures: 0, covered: -1, last: -1 };
      this.#chains.set(chain, state);
    }
    return state;
  }
}

function isNamed(given: string | undefined, found: string): boolean {
  return given !== undefined && given === found;
}

function textOf(entry: Entry, number: number): string {
  return Buffer.from(bytesOf(entry, number) ?? []).toString("latin1");
}
