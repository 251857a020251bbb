/**
 * The exporter's own chain in its own log: `open` at start, a `heartbeat` each minute, so that a quiet log is seen to be
 * alive, and `close` at a clean stop. It proves nothing against the operator.
 */
import { randomBytes } from "node:crypto";
import { encodeEntry, type FieldValue } from "../../record/codec.ts";
import {
  CHAIN_BYTES,
  DIGEST_BYTES,
  F_CHAIN,
  F_FORMAT,
  F_HEARTBEAT_MS,
  F_KEY,
  F_KEY_STATEMENT,
  F_KIND,
  F_PREV,
  F_PRODUCER,
  F_RECOVERED_CHAIN,
  F_RECOVERED_COUNT,
  F_RECOVERED_PROOF,
  F_RECOVERED_SEQ,
  F_SALT,
  F_SENDER_AUTH,
  F_SENDER_CHAIN,
  F_SENDER_NAME,
  F_SEQ,
  F_TIME,
  FORMAT_VERSION,
  KIND_CLOSE,
  KIND_HEARTBEAT,
  KIND_KEY,
  KIND_OPEN,
  KIND_RECOVERED,
  KIND_SENDER,
  SALT_BYTES,
} from "../../record/fields.ts";
import type { Sender } from "../access/identity.ts";
import { leafHash } from "../log/merkle.ts";
import type { Chains } from "./chains.ts";
import type { Log } from "./intake.ts";

export const OWN_HEARTBEAT_MS = 60_000;

export class OwnChain {
  readonly #id = randomBytes(CHAIN_BYTES);
  readonly #log: Log;
  readonly #chains: Chains;
  #seq = 0;
  #prev: Uint8Array = new Uint8Array(DIGEST_BYTES);

  constructor(log: Log, chains: Chains) {
    this.#log = log;
    this.#chains = chains;
  }

  open(producer: string): Promise<void> {
    return this.write(KIND_OPEN, [
      { number: F_FORMAT, value: FORMAT_VERSION },
      { number: F_PRODUCER, value: Buffer.from(producer) },
      { number: F_HEARTBEAT_MS, value: OWN_HEARTBEAT_MS },
    ]);
  }

  heartbeat(): Promise<void> {
    return this.write(KIND_HEARTBEAT, []);
  }

  close(): Promise<void> {
    return this.write(KIND_CLOSE, []);
  }

  /** Says which keys sign from here on: `statement` as log/key-statement.ts has it. */
  keys(vkeys: readonly string[], statement: string): Promise<void> {
    return this.write(KIND_KEY, [
      ...vkeys.map((vkey) => ({ number: F_KEY, value: Buffer.from(vkey) })),
      { number: F_KEY_STATEMENT, value: Buffer.from(statement) },
    ]);
  }

  /** Says who sent the first batch of a chain. */
  sender(chain: Uint8Array, { name, auth }: Sender): Promise<void> {
    return this.write(KIND_SENDER, [
      { number: F_SENDER_CHAIN, value: Uint8Array.from(chain) },
      { number: F_SENDER_NAME, value: Buffer.from(name) },
      { number: F_SENDER_AUTH, value: auth },
    ]);
  }

  /** Says that entries came home out of an Envoy's log; `proof` is a RECOVERED_* value. */
  recovered(chain: Uint8Array, seq: number, count: number, proof: number): Promise<void> {
    return this.write(KIND_RECOVERED, [
      { number: F_RECOVERED_CHAIN, value: Uint8Array.from(chain) },
      { number: F_RECOVERED_SEQ, value: seq },
      { number: F_RECOVERED_COUNT, value: count },
      { number: F_RECOVERED_PROOF, value: proof },
    ]);
  }

  /** Chains an entry of `kind` with these fields behind the envelope. Resolves when it survives a loss of power. */
  write(kind: number, facts: readonly FieldValue[]): Promise<void> {
    const entry = encodeEntry([
      { number: F_KIND, value: kind },
      { number: F_CHAIN, value: this.#id },
      { number: F_SEQ, value: this.#seq },
      { number: F_PREV, value: this.#prev },
      { number: F_TIME, value: Date.now() * 1000 },
      { number: F_SALT, value: randomBytes(SALT_BYTES) },
      ...facts,
    ]);
    const prefix = Buffer.of(entry.length >> 8, entry.length & 0xff, 0);
    this.#prev = leafHash(entry);
    const leaves = Buffer.from(this.#prev);
    const { firstIndex, durable } = this.#log.append(Buffer.concat([prefix, entry]), leaves);
    this.#chains.extend(this.#id.toString("hex"), this.#seq, firstIndex, 1, this.#prev);
    this.#seq++;
    return durable;
  }
}
