/**
 * The role of a witness: cosigns other logs' checkpoints (c2sp.org/tlog-witness). What it has cosigned is fsynced before the
 * answer, in
 *
 *     <dir>/<SHA-256 of the origin, hex>/checkpoint      the last one, with the log's signatures and ours
 *     <dir>/<SHA-256 of the origin, hex>/evidence/       requests that contradict it, signed by the log all the same, each with what was cosigned then (.held)
 *
 * Check and write are one synchronous step, so that two requests cannot both pass the check.
 */
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import type { FastifyInstance } from "fastify";
import { codeOf } from "../errors.ts";
import { openCheckpoint } from "../log/checkpoint.ts";
import { sha256 } from "../log/merkle.ts";
import { type Signer, signNote, type Verifier } from "../log/note.ts";
import { syncDir } from "../store/file.ts";
import {
  ADD_CHECKPOINT,
  type Evidence,
  type Held,
  type Judgement,
  judge,
  MAX_REQUEST_BYTES,
  SIZE_TYPE,
} from "./witness-protocol.ts";

/** Evidence kept of one log and kind: more of it says nothing new. */
const MAX_EVIDENCE = 100;

export type WitnessOptions = {
  readonly dir: string;
  readonly signer: Signer;
  /** Keys of the logs that it knows. */
  readonly logs: readonly Verifier[];
  readonly onEvidence: (kind: string, origin: string, file: string) => void;
};

export class WitnessServer {
  readonly #options: WitnessOptions;

  constructor(options: WitnessOptions) {
    this.#options = options;
    mkdirSync(options.dir, { recursive: true });
  }

  /** Judges a request and, where all is well, cosigns: returns status, body and its type. */
  add(body: Buffer): { status: number; body: string; type: string } {
    const { logs, signer } = this.#options;
    const judgement = judge(body, logs, (origin) => this.#held(origin));
    if (judgement.status !== 200) return this.#refuse(judgement, body);
    const { checkpoint, text, signatures } = judgement;
    const line = signNote(text, [signer]).slice(text.length + 1);
    this.#write(checkpoint.origin, "checkpoint", `${text}\n${signatures.join("")}${line}`);
    return { status: 200, body: line, type: "text/plain; charset=utf-8" };
  }

  /** Returns the last cosigned checkpoint of the origin with this hash, or null. */
  latest(hash: string): Buffer | null {
    if (!/^[0-9a-f]{64}$/.test(hash)) return null;
    return read(join(this.#options.dir, hash, "checkpoint"));
  }

  /** Returns the last cosigned checkpoint of each known log, by origin. */
  all(): Map<string, Buffer> {
    const found = new Map<string, Buffer>();
    for (const { name } of this.#options.logs) {
      const note = this.latest(hashOf(name));
      if (note !== null) found.set(name, note);
    }
    return found;
  }

  #held(origin: string): Held | null {
    const { dir, logs } = this.#options;
    const note = read(join(dir, hashOf(origin), "checkpoint"));
    if (note === null) return null;
    const keys = logs.filter(({ name }) => name === origin);
    const held = openCheckpoint(note, ...keys);
    // Going on from nothing would make us sign a second history.
    if (held === null) throw new Error(`${dir}/${hashOf(origin)}/checkpoint cannot be read`);
    return held;
  }

  #refuse(
    judgement: Exclude<Judgement, { status: 200 }>,
    body: Buffer,
  ): { status: number; body: string; type: string } {
    const { status, message, heldSize, evidence } = judgement;
    if (evidence !== undefined) this.#keepEvidence(evidence, body);
    if (heldSize !== undefined) return { status, body: `${heldSize}\n`, type: SIZE_TYPE };
    return { status, body: `${message}\n`, type: "text/plain; charset=utf-8" };
  }

  #keepEvidence({ kind, origin, text }: Evidence, body: Buffer): void {
    const dir = join(this.#options.dir, hashOf(origin), "evidence");
    mkdirSync(dir, { recursive: true });
    const name = `${kind}-${hashOf(text)}.request`;
    const kept = readdirSync(dir).filter((file) => file.startsWith(`${kind}-`));
    const requests = kept.filter((file) => file.endsWith(".request"));
    if (requests.includes(name) || requests.length >= MAX_EVIDENCE) return;
    // Both sides: what was cosigned moves on.
    const held = this.latest(hashOf(origin));
    if (held !== null) this.#write(origin, join("evidence", `${name.slice(0, -8)}.held`), held);
    this.#write(origin, join("evidence", name), body);
    this.#options.onEvidence(kind, origin, join(dir, name));
  }

  #write(origin: string, name: string, bytes: string | Buffer): void {
    const dir = join(this.#options.dir, hashOf(origin));
    mkdirSync(dir, { recursive: true });
    const draft = join(dir, "unfinished");
    const file = openSync(draft, "w");
    try {
      const all = Buffer.from(bytes);
      for (let at = 0; at < all.length; ) at += writeSync(file, all, at);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(draft, join(dir, name));
    syncDir(join(dir, name, ".."));
    syncDir(this.#options.dir);
  }
}

/** Adds the witness's two routes below `prefix`. */
export function witnessRoutes(app: FastifyInstance, prefix: string, witness: WitnessServer): void {
  app.register((routes, _, done) => {
    routes.removeAllContentTypeParsers();
    routes.addContentTypeParser("*", { parseAs: "buffer" }, (_request, body, parsed) =>
      parsed(null, body),
    );
    routes.post(
      `${prefix}/${ADD_CHECKPOINT}`,
      { bodyLimit: MAX_REQUEST_BYTES },
      (request, reply) => {
        const body = Buffer.isBuffer(request.body) ? request.body : Buffer.alloc(0);
        const answer = witness.add(body);
        return reply.code(answer.status).type(answer.type).send(answer.body);
      },
    );
    routes.get<{ Params: { hash: string } }>(
      `${prefix}/witness/:hash/checkpoint`,
      (request, reply) => {
        const note = witness.latest(request.params.hash);
        if (note === null) return reply.code(404).send("");
        return reply
          .type("text/plain; charset=utf-8")
          .header("cache-control", "no-cache")
          .send(note);
      },
    );
    done();
  });
}

function hashOf(origin: string): string {
  return Buffer.from(sha256(Buffer.from(origin))).toString("hex");
}

function read(path: string): Buffer | null {
  try {
    return readFileSync(path);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return null;
    throw error;
  }
}
