/** `meshseal hash` */
import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { Command } from "commander";
import { HASH_BYTES } from "../../record/fields.ts";
import { MeshsealError } from "../errors.ts";

const HELP = `
The file holds a key as the filter takes it in hashKey or in the variable of hashKeyEnv: ID:HEX. What is printed stands in the entries that
hold the value as a hash, in the fields path_value, user_subject_hash, request_header_hash and response_header_hash. Bytes count: an id in a path is
hashed as it stood there, %40 and all.

Example:
  meshseal hash alice@example.com --key ./hash.key`;

export function hashCommand(): Command {
  return new Command("hash")
    .description("Print the hash that entries hold of a value, to search for it.")
    .argument("<value>", "the value, or - to read it from standard input")
    .requiredOption("--key <file>", "file with the key, ID:HEX")
    .addHelpText("after", HELP)
    .action((value: string, { key }: { key: string }) => {
      const bytes = value === "-" ? readFileSync(0) : Buffer.from(value);
      console.log(hashOf(bytes, readHashKey(key)));
    });
}

/** Returns the hash of a value, in hex. record/FORMAT.md section 3.7. */
export function hashOf(value: Uint8Array, key: Uint8Array): string {
  return createHmac("sha256", key).update(value).digest().subarray(0, HASH_BYTES).toString("hex");
}

/** Reads a key as filter/hmac.ts does. Throws MeshsealError if the file holds none. */
export function readHashKey(path: string): Buffer {
  const [, hex] =
    /^[A-Za-z0-9._-]{1,64}:((?:[0-9A-Fa-f]{2}){16,64})\s*$/.exec(readFileSync(path, "latin1")) ??
    [];
  if (hex === undefined) {
    throw new MeshsealError(
      `${path} holds no key: an id, a colon, and 32 to 128 hex digits are wanted.`,
    );
  }
  return Buffer.from(hex, "hex");
}
