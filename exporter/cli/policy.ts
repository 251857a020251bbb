/** `meshseal policy`: the rules that were in force at a request. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { Command } from "commander";
import { bytesOf, type Entry, uintOf } from "../../record/codec.ts";
import {
  F_CONFIG,
  F_CONFIG_DIGEST,
  F_POLICY_DIGEST,
  KIND_CONFIG,
  KIND_OPEN,
} from "../../record/fields.ts";
import { eachEntry, entryAt, findIndex, openTiles } from "../audit/entries.ts";
import { openSource } from "../audit/source.ts";
import { MeshsealError } from "../errors.ts";
import { MAX_POLICY_BYTES, POLICY_PATH, POLICY_TYPE } from "../intake/policies.ts";
import { readLimited } from "../limited.ts";
import type { StoreFlags } from "../store/settings.ts";
import { withStoreFlags } from "./store-flags.ts";

const HELP = `
A proxy's chain names digests: of the filter's configuration, and of the texts in its policyDigests. Put the texts into the
exporter when you roll them out, and an auditor gets them back by digest; each comes with the digest checked.

Examples:
  meshseal policy put authorization-policies.yaml      prints the digest, for the filter's policyDigests
  meshseal policy of 42                                which digests were in force at entry 42
  meshseal policy get <digest> > rules.yaml`;

const EXPORTER = "http://127.0.0.1:7700";

export function policyCommand(): Command {
  return new Command("policy")
    .description("Keep the texts of rules by digest, and find those in force at a request.")
    .addHelpText("after", HELP)
    .addCommand(
      new Command("put")
        .description("Store a text, and print its SHA-256.")
        .argument("<file>")
        .option("--to <url>", "the exporter", EXPORTER)
        .option("--name <name>", "what to call it in the log; the file's name if absent")
        .action(put),
    )
    .addCommand(
      new Command("get")
        .description("Print the text with this digest.")
        .argument("<digest>")
        .option("--from <url>", "the exporter", EXPORTER)
        .action(get),
    )
    .addCommand(
      withStoreFlags(new Command("of"))
        .description("Print the digests in force at an entry.")
        .argument("<index|chain:seq>")
        .option("--log <dir|url>", "data directory, or URL of the log", "./meshseal-data")
        .option("--json", "print one JSON object")
        .action(of),
    );
}

async function put(file: string, { to, name }: { to: string; name?: string }): Promise<void> {
  const text = readFileSync(file);
  if (text.length === 0 || text.length > MAX_POLICY_BYTES)
    throw new MeshsealError(`${file} has ${text.length} bytes: 1 to ${MAX_POLICY_BYTES} are kept.`);
  const digest = createHash("sha256").update(text).digest("hex");
  const query = `name=${encodeURIComponent(name ?? basename(file))}`;
  const answer = await call("PUT", `${to}${POLICY_PATH}/${digest}?${query}`, text);
  if (answer.status !== 200 && answer.status !== 201)
    throw new MeshsealError(`${to} answered ${answer.status}: ${answer.body.toString()}`);
  console.log(digest);
}

async function get(digest: string, { from }: { from: string }): Promise<void> {
  if (!/^[0-9a-f]{64}$/.test(digest))
    throw new MeshsealError(`"${digest}" is no digest: 64 lower-case hex digits.`);
  const { status, body } = await call("GET", `${from}${POLICY_PATH}/${digest}`);
  if (status === 404) throw new MeshsealError(`${from} holds no text with the digest ${digest}.`);
  if (status !== 200) throw new MeshsealError(`${from} answered ${status}: ${body.toString()}`);
  if (createHash("sha256").update(body).digest("hex") !== digest)
    throw new MeshsealError(`${from} answered with a text of another digest.`);
  process.stdout.write(body);
}

/** Asks an exporter. Throws MeshsealError where it cannot be reached, or answers with more than a text can have. */
export async function call(
  method: "GET" | "PUT" | "POST" | "DELETE",
  url: string,
  body?: Buffer,
): Promise<{ status: number; body: Buffer }> {
  const { request } = await import("undici");
  const headers = body === undefined ? {} : { "content-type": POLICY_TYPE };
  const answer = await request(url, {
    method,
    headers,
    ...(body === undefined ? {} : { body }),
  }).catch((error: unknown) => {
    throw new MeshsealError(`${url}: ${error instanceof Error ? error.message : error}`);
  });
  const bytes = await readLimited(answer.body, MAX_POLICY_BYTES);
  if (bytes === null) throw new MeshsealError(`${url} answered with too many bytes.`);
  return { status: answer.statusCode, body: bytes };
}

/** The last `open` or `config` of the entry's chain, not after it, of the same configuration. */
async function of(
  which: string,
  flags: StoreFlags & { log: string; json?: boolean },
): Promise<void> {
  const tiles = await openTiles(await openSource(flags.log, flags));
  const { entry } = await entryAt(tiles, await findIndex(tiles, which));
  const chain = Buffer.from(entry.chain);
  let found: Entry | undefined;
  for await (const { entry: one } of eachEntry(tiles)) {
    if (one === null || one.seq > entry.seq || !chain.equals(one.chain)) continue;
    if (one.kind === KIND_OPEN || one.kind === KIND_CONFIG) found = one;
  }
  const configuration = found && bytesOf(found, F_CONFIG_DIGEST);
  if (found === undefined || configuration === undefined)
    throw new MeshsealError(`the log does not say what ${which} was made under.`);
  const policies = found.fields
    .filter(({ number }) => number === F_POLICY_DIGEST)
    .map(({ value }) => Buffer.from(value as Uint8Array).toString("hex"));
  const said = {
    chain: chain.toString("hex"),
    seq: entry.seq,
    config: uintOf(entry, F_CONFIG) ?? null,
    saidAtSeq: found.seq,
    configuration: Buffer.from(configuration).toString("hex"),
    policies,
  };
  if (flags.json) return console.log(JSON.stringify(said, null, 2));
  console.log(`configuration ${said.configuration}, said at ${said.chain}:${said.saidAtSeq}`);
  for (const digest of policies) console.log(`policy        ${digest}`);
  if (policies.length === 0) console.log("no policies: the filter's policyDigests is empty");
}
