/** `meshseal chains` */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { Command } from "commander";
import { type ChainItem, ChainList } from "../audit/chain-list.ts";
import { readBundle } from "../audit/entries.ts";
import { readPruned } from "../audit/pruned.ts";
import { parseSeal } from "../audit/seals.ts";
import { openSource } from "../audit/source.ts";
import { Tiles } from "../audit/tiles.ts";
import { codeOf, MeshsealError } from "../errors.ts";
import { parseCheckpoint } from "../log/checkpoint.ts";
import { MAX_NOTE_BYTES, parseNote } from "../log/note.ts";
import { TILE_WIDTH } from "../log/tile.ts";
import type { StoreFlags } from "../store/settings.ts";
import { readLines } from "./recover.ts";
import { withStoreFlags } from "./store-flags.ts";

const HELP = `
States: open; silent (no word for twice its heartbeat bound, or for --silent-after seconds, before the log's newest entry); closed; sealed (its
proxy's own log, --seals, says that this was its last entry; what the seal is worth, verify --seals says); abandoned (given up by its maker after
a refusal, and succeeded by another chain). From a data directory, batches that were refused for good are listed with
the chain they are of: with "fork", another entry was sent under a seq that the log holds.

It believes what the entries say: run verify first.

Examples:
  meshseal chains ./meshseal-data
  meshseal chains ./meshseal-data --silent-after 300 --seals envoy.log --alarm
  meshseal chains ./meshseal-data --json | jq '.[] | select(.state == "silent" or .evidence != [])'`;

type Flags = { json?: boolean; silentAfter?: string; seals?: string; alarm?: boolean } & StoreFlags;

function secondsOf(text: string): number {
  const seconds = Number(text);
  if (!(seconds > 0)) throw new MeshsealError(`--silent-after ${text}: a number of seconds`);
  return seconds;
}

export function chainsCommand(): Command {
  const command = new Command("chains")
    .description("List every chain: its state, last word, gaps, successors, and evidence of forks.")
    .argument("[dir|url]", "data directory, log directory, or URL of the log", "./meshseal-data")
    .option("--silent-after <seconds>", "silent is who said nothing for so long")
    .option(
      "--seals <file>",
      "Envoy's log: chains with a seal line for their last entry are sealed",
    )
    .option("--alarm", "exit code 2 where a chain is silent");
  return withStoreFlags(command)
    .option("--json", "print one JSON array")
    .addHelpText("after", HELP)
    .action(async (where: string, flags: Flags) => {
      const list = await readChains(where, {
        ...(flags.silentAfter === undefined ? {} : { silentAfter: secondsOf(flags.silentAfter) }),
        ...(flags.seals === undefined ? {} : { seals: readLines(flags.seals) }),
        store: flags,
      });
      if (flags.alarm && list.some(({ state }) => state === "silent")) process.exitCode = 2;
      console.log(flags.json ? JSON.stringify(list, null, 2) : format(list));
    });
}

/** Reads the chains of a log, and the evidence beside it where `where` is a data directory. */
export async function readChains(
  where: string,
  options: { silentAfter?: number; seals?: Iterable<string>; store?: StoreFlags } = {},
): Promise<ChainItem[]> {
  const source = await openSource(where, options.store);
  const note = parseNote((await source.read("checkpoint", MAX_NOTE_BYTES)) ?? Buffer.alloc(0));
  const checkpoint = note === null ? null : parseCheckpoint(note.text);
  if (checkpoint === null)
    throw new MeshsealError("the log has no checkpoint: is it the right place?");
  const pruned = await readPruned(source, checkpoint.size);
  const tiles = new Tiles(source, checkpoint.size, pruned?.index);
  const list = new ChainList(pruned?.state?.chains);
  for (let tile = tiles.first / TILE_WIDTH; tile * TILE_WIDTH < tiles.size; tile++)
    for (const entry of await readBundle(tiles, tile)) list.visit(entry);
  for (const { name, bytes } of await readEvidence(join(where, "quarantine")))
    list.keep(name, bytes);
  for (const line of options.seals ?? []) {
    const seal = parseSeal(line);
    if (seal !== null) list.seal(seal);
  }
  return list.list(options.silentAfter);
}

async function readEvidence(dir: string): Promise<{ name: string; bytes: Buffer }[]> {
  try {
    const names = (await readdir(dir)).filter((name) => /^[a-z]+-[0-9a-f]{64}\.batch$/.test(name));
    return await Promise.all(
      names.sort().map(async (name) => ({ name, bytes: await readFile(join(dir, name)) })),
    );
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes(codeOf(error))) return [];
    throw error;
  }
}

function format(list: readonly ChainItem[]): string {
  const count = (state: string): number => list.filter((item) => item.state === state).length;
  const lines = [
    `${list.length} chains: ${count("open")} open, ${count("silent")} silent, ${count("closed")} closed, ${count("sealed")} sealed, ${count("abandoned")} abandoned`,
  ];
  for (const item of list) {
    const { chain, state, first, last, lastTime, heartbeatMs, maker, missing, from } = item;
    const date = new Date(lastTime / 1000);
    const time = lastTime === 0 || Number.isNaN(date.getTime()) ? "-" : date.toISOString();
    lines.push(`${chain}  ${state.padEnd(9)}  seq ${first} to ${last}  ${time}  ${maker}`);
    if (state === "silent" && heartbeatMs > 0)
      lines.push(`    it promised a heartbeat every ${heartbeatMs / 1000} s`);
    if (item.pruned !== undefined) lines.push(`    seq 0 to ${item.pruned - 1} were pruned`);
    if (from !== "") lines.push(`    seq 0 to ${first - 1} are in the log ${from}`);
    if (missing > 0) lines.push(`    ${missing} requests are missing: its gap entries count them`);
    if (item.abandoned !== undefined) {
      const { by, cause, lost } = item.abandoned;
      lines.push(`    given up after "${cause}", ${lost} entries lost; goes on as ${by}`);
    }
    for (const { cause, firstSeq, count: entries, file } of item.evidence)
      lines.push(
        `    ${cause}: a refused batch of seq ${firstSeq} to ${firstSeq + entries - 1}, kept as quarantine/${file}`,
      );
  }
  return lines.join("\n");
}
