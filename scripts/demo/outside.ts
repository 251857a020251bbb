/**
 * What the demonstration's `--store s3` stands on: a real S3 server with object lock, a time stamp authority and a witness, each
 * on loopback and with keys of its own. They stand for other organisations; here one machine runs them all.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parsePolicy } from "../../exporter/audit/policy.ts";
import { inBucket } from "../../exporter/audit/proofs.ts";
import type { VerifyReport } from "../../exporter/audit/report.ts";
import { openSource } from "../../exporter/audit/source.ts";
import { verifyLog } from "../../exporter/audit/verify.ts";
import { makeKey } from "../../exporter/keys.ts";
import { parseVkey } from "../../exporter/log/note.ts";
import { startLiteWitness } from "../../test/support/litewitness.ts";
import { type S3Server, startS3 } from "../../test/support/s3-server.ts";
import { startTsa } from "../../test/support/tsa.ts";
import { startWitness } from "../../test/support/witness.ts";

export type Outside = {
  readonly server: S3Server;
  readonly bucket: string;
  /** Of the log in the bucket; ends in a slash. */
  readonly home: string;
  /** Flags of the exporter. */
  readonly args: readonly string[];
  /** Which program the witness is. */
  readonly witness: string;
  /** Verifies from the bucket alone, by a policy that names log, witness and time stamp authority. */
  readonly verify: (require_?: readonly object[]) => Promise<VerifyReport>;
  /** The same as a command, for people. */
  readonly command: string;
  readonly stop: () => Promise<void>;
};

const ORIGIN = "audit.example/demo";
const HOME = "mesh/audit.example_demo/";
/** Compliance mode cannot be ended by anyone: a day is the least that can be asked for. */
const LOCK_DAYS = "1";

/** Starts all three, and makes the log's key in `data`: the witness must know it before the log's first checkpoint. */
export async function startOutside(data: string): Promise<Outside> {
  const stops: (() => Promise<unknown>)[] = [];
  const stop = async (): Promise<void> => {
    for (const one of stops.splice(0).reverse()) await one();
  };
  try {
    const server = await startS3("versitygw");
    stops.push(server.close);
    const bucket = await server.newBucket();
    makeKey(join(data, "log"), ORIGIN);
    const vkey = readFileSync(join(data, "log.vkey"), "utf8").trim();
    const tsa = await startTsa();
    stops.push(tsa.stop);
    const { program, ...witness } = await anyWitness(vkey);
    stops.push(witness.stop);
    const anchors = join(data, "anchors.json");
    const quorum = [`witness outside ${witness.vkey} ${witness.url}`, "quorum outside"];
    write(anchors, {
      witnesses: { policy: quorum, everySeconds: 2 },
      timestamps: [{ name: "tsa", url: tsa.url, roots: tsa.root, everySeconds: 5 }],
      required: ["witnesses", "tsa"],
    });
    const policy = {
      logs: [{ key: vkey }],
      witnesses: quorum,
      timestampAuthorities: [{ name: "tsa", roots: tsa.root }],
    };
    const policyFile = join(data, "policy.json");
    write(policyFile, policy);
    const s3 = { s3Endpoint: server.endpoint, s3PathStyle: true };
    const where = `s3://${bucket}/mesh`;
    const at = `--s3-endpoint ${server.endpoint} --s3-path-style`;
    const store = ["--store", where, "--s3-endpoint", server.endpoint, "--s3-path-style"];
    return {
      server,
      bucket,
      home: HOME,
      args: [...store, "--lock-days", LOCK_DAYS, "--origin", ORIGIN, "--anchors", anchors],
      witness: program,
      verify: async (require_ = []) => {
        const source = await openSource(where, s3);
        if (source.bucket === undefined) throw new Error(`${where} is no bucket`);
        const text = JSON.stringify({ ...policy, require: require_ });
        const parsed = parsePolicy(text, (name) => readFileSync(name));
        return await verifyLog(source, { policy: parsed, proofs: inBucket(source.bucket) });
      },
      command: `npm run -s meshseal -- verify ${where} ${at} --policy ${policyFile}`,
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** litewitness is by others and can be had with Go; without it the witness is this project's own, an outsider by its key only. */
async function anyWitness(
  log: string,
): Promise<{ url: string; vkey: string; stop: () => Promise<void>; program: string }> {
  try {
    const witness = await startLiteWitness("witness.example/lite", [log]);
    return { ...witness, program: "litewitness" };
  } catch (error) {
    console.error(
      `meshseal: no litewitness (${error instanceof Error ? error.message.split("\n")[0] : error}): the witness is our own`,
    );
    const key = parseVkey(log);
    if (key === null) throw new Error("log.vkey is no key");
    const witness = await startWitness("witness.example/own", [key]);
    return { ...witness, program: "meshseal" };
  }
}

function write(path: string, value: object): void {
  writeFileSync(path, `${JSON.stringify(value, null, 2)}\n`);
}
