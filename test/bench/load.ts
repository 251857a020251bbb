/**
 * The client of the log's benchmark, in a process of its own so that its CPU is not counted: batches are made before the
 * clock starts, and go over raw sockets, HTTP/1.1 with keep-alive. A chain sends its next batch when the last one has its
 * receipt, as the filter does. Driven by messages: `Make`, then `Send` as often as wanted.
 */
import { connect, type Socket } from "node:net";
import { BATCH_PATH, BATCH_TYPE, RECEIPT_HEADER } from "../../record/wire.ts";
import { ChainMaker } from "./batches.ts";

export type Make = {
  readonly chains: number;
  /** Batches of each chain, and entries of each batch. */
  readonly batches: number;
  readonly perBatch: number;
  readonly entryBytes: number;
  /** Makes each batch when it is sent: for more than memory holds. */
  readonly isLazy: boolean;
};

export type Send = {
  readonly port: number;
  readonly connections: number;
  /** Batches a second in all, at their time whatever the answers do; 0: as fast as receipts come. */
  readonly rate: number;
};

export type Sent = {
  readonly entries: number;
  readonly seconds: number;
  /** CPU of this process meanwhile, in microseconds. */
  readonly cpu: number;
  /** Milliseconds from the time a batch was due to its receipt, and to a checkpoint that covers it: sorted. */
  readonly ackMs: readonly number[];
  readonly checkpointMs: readonly number[];
};

/** How often the checkpoint is looked at, at a rate and at full speed: there it would cost the exporter what is measured. */
const POLL_MS = 20;
const IDLE_POLL_MS = 250;
const END_OF_HEAD = Buffer.from("\r\n\r\n");

/** For each chain: what gives its next batch, or null after the last. */
let batchesOf: (() => Buffer | null)[] = [];
let perBatch = 0;

function make(wanted: Make): void {
  perBatch = wanted.perBatch;
  batchesOf = Array.from({ length: wanted.chains }, () => {
    const maker = new ChainMaker(wanted.entryBytes);
    const made: Buffer[] = [];
    if (!wanted.isLazy)
      while (made.length < wanted.batches) made.push(request(maker.next(perBatch)));
    let at = 0;
    return () => {
      if (at === wanted.batches) return null;
      return made[at++] ?? (at <= wanted.batches ? request(maker.next(perBatch)) : null);
    };
  });
}

function request(body: Buffer): Buffer {
  const head = `POST ${BATCH_PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: ${BATCH_TYPE}\r\ncontent-length: ${body.length}\r\n\r\n`;
  return Buffer.concat([Buffer.from(head), body]);
}

/** One connection with one request in flight. `answered` gets head and body. */
class Connection {
  readonly #socket: Socket;
  #held: Buffer = Buffer.alloc(0);
  #answered: (answer: string) => void = () => {};

  constructor(port: number) {
    this.#socket = connect({ port, host: "127.0.0.1", noDelay: true });
    this.#socket.on("error", (error) => {
      throw error;
    });
    this.#socket.on("data", (part) => this.#take(part));
  }

  send(bytes: Buffer, answered: (answer: string) => void): void {
    this.#answered = answered;
    this.#socket.write(bytes);
  }

  end(): void {
    this.#socket.destroy();
  }

  #take(part: Buffer): void {
    const bytes = this.#held.length === 0 ? part : Buffer.concat([this.#held, part]);
    const head = bytes.indexOf(END_OF_HEAD);
    const length = head < 0 ? -1 : bytes.indexOf("content-length: ");
    const body = length < 0 ? 0 : Number.parseInt(bytes.toString("latin1", length + 16, head), 10);
    if (head < 0 || bytes.length < head + END_OF_HEAD.length + body) {
      this.#held = bytes;
      return;
    }
    this.#held = Buffer.alloc(0);
    this.#answered(bytes.toString("latin1"));
  }
}

async function send({ port, connections, rate }: Send): Promise<Sent> {
  const ackMs: number[] = [];
  /** For each acknowledged batch: when it was due, and a size of the log that surely covers it. */
  const uncovered: { due: number; size: number }[] = [];
  const checkpointMs: number[] = [];
  const poller = new Connection(port);
  const before = await checkpointSize(poller);
  const cpuBefore = process.cpuUsage();
  const started = performance.now();
  let sent = 0;
  let isDone = false;
  let next = 0;
  const lanes = Array.from({ length: Math.min(connections, batchesOf.length) }, (_, lane) => ({
    connection: new Connection(port),
    queue: batchesOf.filter((__, chain) => chain % connections === lane),
    turn: 0,
  }));

  const polling = (async () => {
    while (!isDone || uncovered.length > 0) {
      const size = await checkpointSize(poller);
      const now = performance.now();
      while ((uncovered[0]?.size ?? Number.POSITIVE_INFINITY) <= size) {
        checkpointMs.push(now - (uncovered.shift()?.due ?? now));
      }
      const wait = rate === 0 && !isDone ? IDLE_POLL_MS : POLL_MS;
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  })();

  const step = (lane: (typeof lanes)[number], due: number): Promise<boolean> => {
    let bytes: Buffer | null = null;
    while (bytes === null && lane.queue.length > 0) {
      const at = lane.turn++ % lane.queue.length;
      bytes = lane.queue[at]?.() ?? null;
      if (bytes === null) lane.queue.splice(at, 1);
    }
    if (bytes === null) return Promise.resolve(false);
    const body = bytes;
    sent += perBatch;
    return new Promise((resolve, reject) => {
      lane.connection.send(body, (answer) => {
        if (!answer.startsWith("HTTP/1.1 200") || !answer.includes(RECEIPT_HEADER)) {
          reject(new Error(`the exporter answered ${answer}`));
          return;
        }
        const now = performance.now();
        ackMs.push(now - due);
        // Whatever was sent by now may lie before it in the log; more cannot.
        uncovered.push({ due, size: before + sent });
        resolve(true);
      });
    });
  };

  await Promise.all(
    lanes.map(async (lane) => {
      for (;;) {
        const due = rate === 0 ? performance.now() : started + (next++ * 1000) / rate;
        const early = due - performance.now();
        if (early > 0) await new Promise((resolve) => setTimeout(resolve, early));
        if (!(await step(lane, due))) return;
      }
    }),
  );
  const seconds = (performance.now() - started) / 1000;
  const { user, system } = process.cpuUsage(cpuBefore);
  isDone = true;
  await polling;
  for (const { connection } of lanes) connection.end();
  poller.end();
  const sorted = (figures: number[]): number[] => figures.sort((a, b) => a - b);
  return {
    entries: ackMs.length * perBatch,
    seconds,
    cpu: user + system,
    ackMs: sorted(ackMs),
    checkpointMs: sorted(checkpointMs),
  };
}

function checkpointSize(poller: Connection): Promise<number> {
  const get = Buffer.from("GET /log/checkpoint HTTP/1.1\r\nhost: localhost\r\n\r\n");
  return new Promise((resolve) => {
    // The size is the second line of the body.
    poller.send(get, (answer) => resolve(Number(answer.split("\r\n\r\n")[1]?.split("\n")[1])));
  });
}

process.on("message", (message: Make | Send) => {
  if ("chains" in message) {
    make(message);
    process.send?.("made");
  } else {
    send(message).then(
      (result) => process.send?.(result),
      (error: unknown) => {
        console.error(error);
        process.exit(1);
      },
    );
  }
});
