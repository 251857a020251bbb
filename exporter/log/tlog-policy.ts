/**
 * Whom to believe about checkpoints: known logs, known witnesses, and the quorum of witnesses that is enough. The format is
 * c2sp.org/tlog-policy:
 *
 *     log <vkey> [<url>]
 *     witness <name> <vkey> [<url>]
 *     group <name> all|any|<k> <member>...
 *     quorum <name>|none
 */
import { parseDecimal } from "./checkpoint.ts";
import { parseCosignerVkey } from "./cosignature.ts";
import { parseVkey, type Verifier } from "./note.ts";

export type Witness = {
  /** Its name in the policy, which is not the name of its key. */
  readonly name: string;
  readonly verifier: Verifier;
  readonly url?: string | undefined;
};

export type Group = {
  readonly name: string;
  /** Members that must have witnessed: 1 to all. */
  readonly needed: number;
  readonly members: readonly string[];
};

export type TlogPolicy = {
  readonly logs: readonly { readonly verifier: Verifier; readonly url?: string | undefined }[];
  readonly witnesses: readonly Witness[];
  readonly groups: readonly Group[];
  /** Name of a witness or group, or null for `quorum none`. */
  readonly quorum: string | null;
};

/** Asks for no witness at all. */
export const NO_WITNESSES: TlogPolicy = { logs: [], witnesses: [], groups: [], quorum: null };

/** A policy is at most this long, in bytes: the specification wants 32 logs, witnesses and groups to be possible. */
export const MAX_POLICY_BYTES = 262_144;

/** A line that is not as the specification has it. */
export class PolicyError extends Error {
  override name = "PolicyError";
}

/** Returns the policy in `text`, or throws PolicyError that names the line. */
export function parseTlogPolicy(text: string): TlogPolicy {
  if (Buffer.byteLength(text) > MAX_POLICY_BYTES) {
    throw new PolicyError(`a policy has at most ${MAX_POLICY_BYTES} bytes`);
  }
  const reader = new Reader();
  for (const [i, line] of text.split("\n").entries()) {
    const fault = reader.take(line);
    if (fault !== "") throw new PolicyError(`line ${i + 1}: ${fault}`);
  }
  if (reader.quorum === undefined) throw new PolicyError("there is no quorum line");
  const { logs, witnesses, groups, quorum } = reader;
  return { logs, witnesses, groups, quorum };
}

/** Tells if the quorum holds where `cosigners`, names of the policy's witnesses, have witnessed. */
export function hasQuorum(policy: TlogPolicy, cosigners: ReadonlySet<string>): boolean {
  if (policy.quorum === null) return true;
  const witnessed = new Set(cosigners);
  // A group only names what was defined before it, so one pass is enough.
  for (const { name, needed, members } of policy.groups) {
    if (members.filter((member) => witnessed.has(member)).length >= needed) witnessed.add(name);
  }
  return witnessed.has(policy.quorum);
}

class Reader {
  readonly logs: { verifier: Verifier; url?: string | undefined }[] = [];
  readonly witnesses: Witness[] = [];
  readonly groups: Group[] = [];
  quorum: string | null | undefined;
  readonly #names = new Set<string>();
  readonly #members = new Set<string>();
  readonly #keys = new Set<string>();

  /** Takes a line. Returns what is wrong with it, or "". */
  take(line: string): string {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: the format allows tab alone of them
    if (/[\x00-\x08\x0a-\x1f\x7f]/.test(line)) return "a control character";
    const [keyword, ...items] = line.split(/[ \t]+/).filter((item) => item !== "");
    if (keyword === undefined || keyword.startsWith("#")) return "";
    if (keyword === "log") return this.#log(items);
    if (keyword === "witness") return this.#witness(items);
    if (keyword === "group") return this.#group(items);
    if (keyword === "quorum") return this.#quorum(items);
    return `"${keyword.slice(0, 40)}" is none of log, witness, group, quorum`;
  }

  #log([vkey, url, ...rest]: readonly string[]): string {
    if (vkey === undefined || rest.length > 0) return "expected: log <vkey> [<url>]";
    const verifier = parseVkey(vkey);
    if (verifier === null) return "the log's vkey is no Ed25519 verifier key";
    if (this.#isKnown("log", vkey)) return "this log's key is there already";
    this.logs.push({ verifier, url });
    return "";
  }

  #witness([name, vkey, url, ...rest]: readonly string[]): string {
    if (name === undefined || vkey === undefined || rest.length > 0) {
      return "expected: witness <name> <vkey> [<url>]";
    }
    const verifier = parseCosignerVkey(vkey);
    if (verifier === null) return "the witness's vkey is no Ed25519 cosigner key (type 0x04)";
    if (this.#isKnown("witness", vkey)) return "this witness's key is there already";
    if (!this.#define(name)) return `the name ${name} is taken`;
    this.witnesses.push({ name, verifier, url });
    return "";
  }

  #group([name, threshold, ...members]: readonly string[]): string {
    if (name === undefined || threshold === undefined || members.length === 0) {
      return "expected: group <name> all|any|<k> <member>...";
    }
    const needed =
      threshold === "any" ? 1 : threshold === "all" ? members.length : parseDecimal(threshold);
    if (needed === null || needed < 1 || needed > members.length) {
      return `a group of ${members.length} needs all, any, or 1 to ${members.length}`;
    }
    for (const member of members) {
      if (!this.#names.has(member)) return `${member} is not defined above`;
      if (this.#members.has(member)) return `${member} is a member already`;
      this.#members.add(member);
    }
    if (!this.#define(name)) return `the name ${name} is taken`;
    this.groups.push({ name, needed, members });
    return "";
  }

  #quorum([name, ...rest]: readonly string[]): string {
    if (name === undefined || rest.length > 0) return "expected: quorum <name>|none";
    if (this.quorum !== undefined) return "there is a quorum line already";
    if (name !== "none" && !this.#names.has(name)) return `${name} is not defined above`;
    this.quorum = name === "none" ? null : name;
    return "";
  }

  /** The same key under another name is the same witness: the bytes behind the type decide. */
  #isKnown(role: string, vkey: string): boolean {
    const typed = Buffer.from(vkey.split("+").slice(2).join("+"), "base64");
    const key = `${role} ${typed.toString("hex", 1)}`;
    if (this.#keys.has(key)) return true;
    this.#keys.add(key);
    return false;
  }

  #define(name: string): boolean {
    if (name === "none" || this.#names.has(name)) return false;
    this.#names.add(name);
    return true;
  }
}
