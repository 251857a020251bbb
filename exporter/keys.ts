/** The log's key: made at the first start, 0600, with its verifier key beside it. */
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { MeshsealError } from "./errors.ts";
import {
  formatSkey,
  isKeyName,
  newSigner,
  parseSkey,
  parseVkey,
  type Signer,
  type Verifier,
} from "./log/note.ts";

export type LogKey = { readonly signer: Signer; readonly verifier: Verifier };

/** Makes a new key in `<prefix>.key` and `<prefix>.vkey`, which must not exist. */
export function makeKey(prefix: string, name: string): Signer {
  if (!isKeyName(name)) {
    throw new MeshsealError(`"${name}" is no origin: it must have no spaces and no plus sign.`);
  }
  const seed = randomBytes(32);
  const signer = newSigner(name, seed);
  writeFileSync(`${prefix}.key`, `${formatSkey(name, seed)}\n`, { mode: 0o600, flag: "wx" });
  writeFileSync(`${prefix}.vkey`, `${signer.vkey}\n`, { flag: "wx" });
  return signer;
}

/** Returns the key in `dir`, made now if the data directory is new. An origin is fixed at the first start. */
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
  const signer = parseSkey(readFileSync(path, "utf8").trim());
  if (signer === null)
    throw new MeshsealError(`${path} holds no private key: put the right file back.`);
  if (origin !== undefined && signer.name !== origin) {
    throw new MeshsealError(
      `the log in ${dir} has the origin ${signer.name}, not ${origin}: leave --origin away or use another --data.`,
    );
  }
  const verifier = parseVkey(signer.vkey);
  if (verifier === null) throw new MeshsealError(`${path} gives no verifier key.`);
  return { signer, verifier };
}
