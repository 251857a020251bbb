/**
 * Fuzzes a running exporter's intake over its sockets: honest batches among mutated ones, broken HTTP, requests that are cut off,
 * and slow ones. Ends the moment that something is wrong: no answer, a 5xx other than busy, or memory beyond the bound.
 */
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Agent, request } from "undici";
import type { VerifyReport } from "../../exporter/audit/report.ts";
import { openSource } from "../../exporter/audit/source.ts";
import { verifyLog } from "../../exporter/audit/verify.ts";
import { parseVkey } from "../../exporter/log/note.ts";
import { BATCH_TYPE } from "../../record/wire.ts";
import { makeChain } from "./chains.ts";

export type Random = () => number;

export type FuzzOptions = {
  readonly url: string;
  readonly pid: number;
  readonly random: Random;
  /** Unix time in milliseconds at which it ends. */
  readonly until: number;
  /** Resident memory that the exporter may have gained since the start, in MiB. */
  readonly maxGrowthMiB: number;
  readonly onProgress?: (sofar: FuzzResult) => void;
};

export type FuzzResult = {
  sent: number;
  /** Answers by status; 0 is a connection that the exporter closed. */
  readonly answers: Record<string, number>;
  /** Requests in the log afterwards, at least: entries of honest batches that were receipted. */
  receipted: number;
  rssMiB: number;
  startRssMiB: number;
};

const WORKERS = 8;
const CHECK_MS = 2000;

/** Resolves when the time is over. Throws with what was wrong. */
export async function fuzzIntake(options: FuzzOptions): Promise<FuzzResult> {
  const { url, pid, random, until } = options;
  const agent = new Agent({ connections: WORKERS, headersTimeout: 60_000, bodyTimeout: 60_000 });
  const result: FuzzResult = {
    sent: 0,
    answers: {},
    receipted: 0,
    rssMiB: 0,
    startRssMiB: rssMiB(pid),
  };
  const count = (status: number): void => {
    result.sent++;
    result.answers[status] = (result.answers[status] ?? 0) + 1;
    if (status >= 500 && status !== 503) throw new Error(`the exporter answered ${status}`);
  };
  const post = async (body: Uint8Array, type = BATCH_TYPE): Promise<number> => {
    const answer = await request(`${url}/v1/batches`, {
      method: "POST",
      headers: { "content-type": type },
      body: Buffer.from(body),
      dispatcher: agent,
    });
    await answer.body.dump();
    count(answer.statusCode);
    return answer.statusCode;
  };

  const worker = async (): Promise<void> => {
    while (Date.now() < until) {
      const perBatch = 1 + pick(random, 20);
      const batches = makeChain({ batches: 3, perBatch, entryBytes: 160 + pick(random, 400) });
      for (const batch of batches) {
        for (let i = pick(random, 6); i > 0; i--) await post(mutate(batch, random));
        const dice = pick(random, 8);
        if (dice === 0) count(await raw(url, brokenHttp(batch, random)));
        else if (dice === 1) await get(url, oddPath(random), agent, count);
        else if (dice === 2) await post(batch, "text/plain");
        if ((await post(batch)) === 200) result.receipted += perBatch;
      }
    }
  };
  const watcher = async (): Promise<void> => {
    while (Date.now() < until) {
      await sleep(Math.max(0, Math.min(CHECK_MS, until - Date.now())));
      result.rssMiB = rssMiB(pid);
      const growth = result.rssMiB - result.startRssMiB;
      if (growth > options.maxGrowthMiB) throw new Error(`memory grew by ${growth} MiB`);
      options.onProgress?.(result);
    }
  };
  try {
    await Promise.all([watcher(), ...Array.from({ length: WORKERS }, worker)]);
  } finally {
    await agent.destroy();
  }
  return result;
}

/**
 * Verifies a log that was fuzzed. A mutation can give the last entry of a batch a field that no version knows yet: the log takes it, as
 * it must, and verify cannot say. Nothing else may be found.
 */
export async function checkFuzzedLog(dir: string): Promise<VerifyReport> {
  const log = parseVkey(readFileSync(join(dir, "log.vkey"), "utf8").trim());
  if (log === null) throw new Error(`${dir}/log.vkey holds no key`);
  const report = await verifyLog(await openSource(dir), { log });
  const others = report.findings.filter(({ cause }) => cause !== "newer");
  if (others.length > 0 || report.moreFindings > 0) {
    throw new Error(`the log is ${report.verdict}: ${JSON.stringify(others.slice(0, 5))}`);
  }
  return report;
}

/** Returns a copy of a batch that is wrong in some way, or once in a while is not. */
function mutate(batch: Uint8Array, random: Random): Uint8Array {
  let bytes = Buffer.from(batch);
  for (let i = 1 + pick(random, 3); i > 0; i--) {
    const at = pick(random, bytes.length);
    switch (pick(random, 7)) {
      case 0:
        bytes[at] = (bytes[at] ?? 0) ^ (1 << pick(random, 8));
        break;
      case 1:
        bytes = bytes.subarray(0, at);
        break;
      case 2:
        bytes = Buffer.concat([bytes, Buffer.alloc(pick(random, 5000), pick(random, 256))]);
        break;
      case 3:
        bytes.fill(0xff, at, Math.min(bytes.length, at + 8));
        break;
      case 4: {
        const to = pick(random, bytes.length);
        bytes = Buffer.concat([bytes.subarray(0, to), bytes.subarray(at)]);
        break;
      }
      case 5:
        // The header: counts, lengths of receipt and MAC, first seq.
        bytes[pick(random, Math.min(36, Math.max(1, bytes.length)))] = pick(random, 256);
        break;
      default:
        bytes = Buffer.concat([bytes.subarray(0, 36), Buffer.from(bytes.subarray(36)).reverse()]);
    }
    if (bytes.length === 0) return bytes;
  }
  return bytes;
}

/** Returns bytes that are nearly an HTTP request. */
function brokenHttp(batch: Uint8Array, random: Random): Buffer {
  const length = [batch.length, batch.length + 100, -1, 2 ** 40, "x"][pick(random, 5)];
  const extra = [
    "",
    "transfer-encoding: chunked\r\n",
    "expect: 100-continue\r\n",
    `x: ${"a".repeat(pick(random, 40_000))}\r\n`,
    "content-length: 1\r\n",
    "connection: upgrade\r\nupgrade: h2c\r\n",
    "meshseal-receipt: \u0000\r\n",
  ][pick(random, 7)];
  const head = `POST /v1/batches HTTP/1.1\r\nhost: x\r\ncontent-type: ${BATCH_TYPE}\r\ncontent-length: ${length}\r\n${extra}\r\n`;
  const whole = Buffer.concat([Buffer.from(head, "latin1"), batch]);
  return whole.subarray(0, 1 + pick(random, whole.length));
}

/** Sends bytes and closes; resolves to the status of what came back, 0 for nothing. */
function raw(url: string, bytes: Buffer): Promise<number> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    let said = "";
    const socket = connect(Number(port), hostname, () => socket.end(bytes));
    socket.setTimeout(1000, () => socket.destroy());
    socket.on("data", (data) => {
      said += data.toString("latin1");
    });
    socket.on("error", () => {});
    socket.on("close", () => resolve(Number(/^HTTP\/1\.1 (\d{3})/.exec(said)?.[1] ?? 0)));
  });
}

async function get(
  url: string,
  path: string,
  agent: Agent,
  count: (status: number) => void,
): Promise<void> {
  const answer = await request(`${url}${path}`, { dispatcher: agent });
  await answer.body.dump();
  count(answer.statusCode);
}

function oddPath(random: Random): string {
  const paths = [
    "/log/checkpoint",
    "/log/tile/0/000",
    "/log/tile/entries/x001/000",
    "/log/%2e%2e/log.key",
    `/log/${"a/".repeat(pick(random, 500))}`,
    "/log/tile/0/000.p/%00",
    "/keys",
    "/metrics",
    "/readyz?x=%ff",
    `/${"z".repeat(pick(random, 9000))}`,
  ];
  return paths[pick(random, paths.length)] ?? "/";
}

function pick(random: Random, below: number): number {
  return Math.floor(random() * below);
}

/** Returns the resident memory of a process in MiB. Linux only. */
function rssMiB(pid: number): number {
  const kib = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  return Math.round(Number(kib ?? 0) / 1024);
}
