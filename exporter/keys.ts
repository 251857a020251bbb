/**
 * The log's keys, in the data directory:
 *
 *     log.key          private keys, a line each, 0600; the first signs receipts and checkpoints, the others checkpoints too
 *     log.vkey         the verifier key of the first
 *     keys             every set of keys the log has had: tree size, time, verifier keys; public, served at /keys
 *     key.statement    what `meshseal rotate` did, until the next start has written it into the log
 */
import { createPrivateKey, generateKeyPairSync, type KeyObject, randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  fsyncSync,
  linkSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { dirname, join } from "node:path";
import { MAX_KEYS } from "../record/fields.ts";
import { MeshsealError } from "./errors.ts";
import { COSIGNATURE, parseCosignerSkey } from "./log/cosignature.ts";
import { signKeyStatement } from "./log/key-statement.ts";
import {
  ED25519,
  formatSkey,
  isKeyName,
  namedKey,
  newSigner,
  parseSkey,
  parseVkey,
  type Signer,
  type Verifier,
} from "./log/note.ts";
import { syncDir } from "./store/file.ts";

export type LogKey = {
  /** Signs receipts, and names the log. */
  readonly signer: Signer;
  /** All that sign checkpoints, the one above first. */
  readonly signers: readonly Signer[];
  readonly verifier: Verifier;
  /** The keys of `signers`, and those that signed before them. */
  readonly verifiers: readonly Verifier[];
};

const SEED_BYTES = 32;

/** Makes a new key for a use of `type` in `<prefix>.key` and `<prefix>.vkey`, which must not exist. Returns the vkey. */
export function makeKey(prefix: string, name: string, type: number = ED25519): string {
  if (!isKeyName(name)) {
    throw new MeshsealError(`"${name}" is no origin: it must have no spaces and no plus sign.`);
  }
  const seed = randomBytes(SEED_BYTES);
  const { vkey } = namedKey(name, type, seed);
  writeNew(`${prefix}.key`, `${formatSkey(name, seed, type)}\n`, 0o600);
  writeNew(`${prefix}.vkey`, `${vkey}\n`, 0o644);
  return vkey;
}

/** Returns the P-256 key that signs for Rekor in `<dir>/rekor.key`, made now if it is not there; its public half is beside it. */
export function loadRekorKey(dir: string): KeyObject {
  const path = join(dir, "rekor.key");
  if (!existsSync(path)) {
    const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const pem = publicKey.export({ type: "spki", format: "pem" }).toString();
    rmSync(join(dir, "rekor.pub"), { force: true });
    writeNew(join(dir, "rekor.pub"), pem, 0o644);
    writeNew(path, privateKey.export({ type: "pkcs8", format: "pem" }).toString(), 0o600);
  }
  try {
    const key = createPrivateKey(readFileSync(path));
    if (key.asymmetricKeyDetails?.namedCurve === "prime256v1") return key;
  } catch {
    // Said below.
  }
  throw new MeshsealError(`${path} holds no P-256 key in PEM.`);
}

/**
 * Returns the cosigner's key of a role in `<dir>/<role>.key`, made now if it is not there. Each role has a key of its own, since what
 * a cosignature means is not in the bytes that are signed.
 */
export function loadCosigner(dir: string, role: "witness" | "peer", name: string): Signer {
  const path = join(dir, `${role}.key`);
  if (!existsSync(path)) makeKey(join(dir, role), name, COSIGNATURE);
  const now = (): number => Math.floor(Date.now() / 1000);
  const cosigner = parseCosignerSkey(readFileSync(path, "utf8").trim(), now);
  if (cosigner === null) throw new MeshsealError(`${path} holds no cosigner's key.`);
  if (cosigner.name !== name) {
    throw new MeshsealError(`${path} is the key of ${cosigner.name}, not of ${name}.`);
  }
  return cosigner;
}

/** Returns the keys in `dir`, made now if the data directory is new. An origin is fixed at the first start. */
export function loadKey(dir: string, origin: string | undefined): LogKey {
  const path = join(dir, "log.key");
  if (!existsSync(path)) {
    if (existsSync(join(dir, "log", "checkpoint"))) {
      throw new MeshsealError(
        `${path} is missing, but the log has a checkpoint: put the key back.`,
      );
    }
    makeKey(join(dir, "log"), origin ?? `${hostname()}/meshseal`);
  }
  const signers = readSigners(path);
  const [signer] = signers;
  if (origin !== undefined && signer.name !== origin) {
    throw new MeshsealError(
      `the log in ${dir} has the origin ${signer.name}, not ${origin}: leave --origin away or use another --data.`,
    );
  }
  // A crash may have come between the two files of a new log.
  const vkeyPath = join(dir, "log.vkey");
  if (!existsSync(vkeyPath)) replaceFile(vkeyPath, `${signer.vkey}\n`, 0o644);
  const known = new Map<string, Verifier>();
  for (const vkey of [...signers.map(({ vkey }) => vkey), ...keyHistory(dir).flat()]) {
    const verifier = parseVkey(vkey);
    if (verifier !== null && verifier.name === signer.name) known.set(vkey, verifier);
  }
  const verifiers = [...known.values()];
  const [verifier] = verifiers;
  if (verifier === undefined) throw new MeshsealError(`${path} gives no verifier key.`);
  return { signer, signers, verifier, verifiers };
}

/**
 * Makes a new first key and keeps the others, or takes one away by its key id (8 hex digits). The exporter must be down: its
 * next start says so in the log. Returns the verifier keys that sign from then on.
 */
export function rotateKey(dir: string, retire: string | undefined): readonly string[] {
  const path = join(dir, "log.key");
  const before = readSigners(path);
  const lines = readLines(path);
  const [{ name }] = before;
  let after: string[];
  if (retire === undefined) {
    after = [newKey(name).skey, ...lines];
  } else {
    after = lines.filter((_, i) => idOf(before[i]) !== retire);
    const ids = before.map(idOf).join(", ");
    if (after.length === lines.length) {
      throw new MeshsealError(`${path} holds no key ${retire}: it holds ${ids}.`);
    }
    if (after.length === 0) {
      throw new MeshsealError(`${retire} is the only key: rotate first, then retire it.`);
    }
  }
  if (after.length > MAX_KEYS) throw new MeshsealError("a log has 16 keys at most: retire one.");
  const signers = after.map((line) => parseSkey(line)).filter((key) => key !== null);
  const keys = signers.map(({ vkey }) => vkey);
  // Read by the start only if it fits log.key, so that either order of the two renames is safe.
  replaceFile(join(dir, "key.statement"), signKeyStatement(signers, before), 0o644);
  replaceFile(path, `${after.join("\n")}\n`, 0o600);
  replaceFile(join(dir, "log.vkey"), `${keys[0]}\n`, 0o644);
  return keys;
}

/** Returns the sets of verifier keys that the log has had, oldest first. */
export function keyHistory(dir: string): string[][] {
  const path = join(dir, "keys");
  if (!existsSync(path)) return [];
  return readLines(path).map((line) => line.split(" ").slice(2));
}

/** Returns the statement to be written into the log, or null where the keys are those of its beginning or were stated. */
export function pendingStatement(dir: string, { signers }: LogKey): string | null {
  const keys = signers.map(({ vkey }) => vkey);
  const last = keyHistory(dir).at(-1);
  if (last === undefined || last.join(" ") === keys.join(" ")) return null;
  const path = join(dir, "key.statement");
  const made = existsSync(path) ? readFileSync(path, "utf8") : "";
  const text = `\n${keys.length}\n${keys.join("\n")}\n`;
  // Without a statement that fits, log.key was changed by hand: the old keys cannot sign.
  return made.includes(text) ? made : signKeyStatement(signers, []);
}

/** Notes that these keys sign from `treeSize` on, if that is new. */
export function noteKeys(dir: string, { signers }: LogKey, treeSize: number, time: Date): void {
  const keys = signers.map(({ vkey }) => vkey);
  if (keyHistory(dir).at(-1)?.join(" ") === keys.join(" ")) return;
  const path = join(dir, "keys");
  const held = existsSync(path) ? readFileSync(path, "utf8") : "";
  replaceFile(path, `${held}${treeSize} ${time.toISOString()} ${keys.join(" ")}\n`, 0o644);
  replaceFile(join(dir, "log.vkey"), `${keys[0]}\n`, 0o644);
  rmSync(join(dir, "key.statement"), { force: true });
}

function readSigners(path: string): [Signer, ...Signer[]] {
  const lines = readLines(path);
  const signers = lines.map(parseSkey).filter((signer) => signer !== null);
  const [first, ...rest] = signers;
  if (first === undefined || signers.length !== lines.length) {
    throw new MeshsealError(`${path} holds no private key: put the right file back.`);
  }
  if (rest.some(({ name }) => name !== first.name)) {
    throw new MeshsealError(`${path} holds keys of two origins: put the right file back.`);
  }
  return [first, ...rest];
}

function readLines(path: string): string[] {
  return readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line.trim() !== "");
}

function newKey(name: string): { signer: Signer; skey: string } {
  if (!isKeyName(name)) {
    throw new MeshsealError(`"${name}" is no origin: it must have no spaces and no plus sign.`);
  }
  const seed = randomBytes(SEED_BYTES);
  return { signer: newSigner(name, seed), skey: formatSkey(name, seed) };
}

function idOf(signer: Signer | undefined): string {
  return Buffer.from(signer?.keyId ?? []).toString("hex");
}

/** Writes a file so that it is the old one or the new one after a crash or a loss of power. */
function replaceFile(path: string, text: string, mode: number): void {
  renameSync(writeDraft(path, text, mode), path);
  syncDir(dirname(path));
}

/** Writes a file that must not exist: whole, or not at all. */
function writeNew(path: string, text: string, mode: number): void {
  const draft = writeDraft(path, text, mode);
  try {
    linkSync(draft, path);
  } finally {
    rmSync(draft);
  }
  syncDir(dirname(path));
}

function writeDraft(path: string, text: string, mode: number): string {
  const draft = `${path}.new`;
  rmSync(draft, { force: true });
  const file = openSync(draft, "wx", mode);
  try {
    // Not writeSync, which may write a part.
    writeFileSync(file, text);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  return draft;
}
