/**
 * Exporters that take a log over from each other, simulated: the real claim, lease, object store, publisher, sequencer and
 * acknowledgements, on a bucket and disks in memory, in an order that a seed decides. Requests wait, overtake each other and
 * lose their answers; processes stand still for longer than a lease, and go on; and die at any of their requests.
 */
import { hash } from "node:crypto";
import { Acks } from "../../exporter/intake/acks.ts";
import { parseCheckpoint } from "../../exporter/log/checkpoint.ts";
import { hashLeaves } from "../../exporter/log/hasher.ts";
import { emptyRoot, leafHash, nodeHash, rangeRoot } from "../../exporter/log/merkle.ts";
import { parseNote, type Signer, type Verifier } from "../../exporter/log/note.ts";
import { Publisher } from "../../exporter/log/publisher.ts";
import { Sequencer } from "../../exporter/log/sequencer.ts";
import { parseBundle, parseTilePath, TILE_WIDTH } from "../../exporter/log/tile.ts";
import { fillHead, type Wal, type WalRecord } from "../../exporter/log/wal.ts";
import type { Bucket } from "../../exporter/store/bucket.ts";
import { COMMIT_KEY, claim, newWriter } from "../../exporter/store/claim.ts";
import { parseCommit } from "../../exporter/store/commit.ts";
import { Lease, RENEW_MS } from "../../exporter/store/lease.ts";
import { memoryBucket } from "../../exporter/store/memory-bucket.ts";
import { openObjectStore } from "../../exporter/store/object.ts";

export type Outcome = {
  readonly receipted: number;
  readonly entries: number;
  readonly deaths: number;
  readonly takeOvers: number;
  readonly fenced: number;
  /** What is wrong; empty if nothing is. */
  readonly faults: readonly string[];
};

const HOME = "log/";
const ORIGIN = "sim";

// Hashes stand in for signatures: a schedule signs some dozens of checkpoints.
const KEY_ID = Uint8Array.of(1, 2, 3, 4);
const sign = (text: Uint8Array): Uint8Array => hash("sha512", text, "buffer");
const SIGNER: Signer = { name: ORIGIN, keyId: KEY_ID, vkey: "", sign };
const VERIFIER: Verifier = {
  name: ORIGIN,
  keyId: KEY_ID,
  vkey: "",
  verify: (text, signature) => Buffer.from(signature).equals(sign(text)),
};

/** mulberry32: small, and the same everywhere. */
function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

type Actor = { isDead: boolean; pausedUntil: number; readonly disk: Disk; fence: number };
type Waiting = { readonly actor: Actor; readonly go: () => void };

/** Time and order. Nothing happens unless `step` lets it. */
class World {
  now = 0;
  readonly random: () => number;
  #gates: Waiting[] = [];
  #sleepers: (Waiting & { readonly at: number })[] = [];

  constructor(seed: number) {
    this.random = randomOf(seed);
  }

  gate(actor: Actor): Promise<void> {
    return new Promise((go) => this.#gates.push({ actor, go }));
  }

  sleep(actor: Actor, ms: number): Promise<void> {
    return new Promise((go) => this.#sleepers.push({ actor, go, at: this.now + ms }));
  }

  async step(): Promise<void> {
    await new Promise((resolve) => setImmediate(resolve));
    this.#gates = this.#gates.filter(({ actor }) => !actor.isDead);
    this.#sleepers = this.#sleepers.filter(({ actor }) => !actor.isDead);
    const ready = this.#gates.filter(({ actor }) => actor.pausedUntil <= this.now);
    if (ready.length > 0 && this.random() < 0.9) {
      const one = ready[Math.floor(this.random() * ready.length)];
      this.#gates.splice(this.#gates.indexOf(one as Waiting), 1);
      one?.go();
      this.now += Math.floor(this.random() * 40);
      return;
    }
    this.now += 100 + Math.floor(this.random() * 900);
    for (const sleeper of [...this.#sleepers]) {
      if (sleeper.at > this.now || sleeper.actor.pausedUntil > this.now) continue;
      this.#sleepers.splice(this.#sleepers.indexOf(sleeper), 1);
      sleeper.go();
    }
  }
}

/** The bucket as one process sees it: over a network. Requests are tried until they are answered. */
function remote(bucket: Bucket, world: World, actor: Actor): Bucket {
  const call = async <T>(operation: () => Promise<T>): Promise<T> => {
    for (;;) {
      await world.gate(actor);
      if (world.random() < 0.05) continue;
      const result = await operation();
      if (world.random() < 0.3) await world.gate(actor);
      if (world.random() < 0.05) continue;
      return result;
    }
  };
  return {
    get: (key, limit) => call(() => bucket.get(key, limit)),
    create: (key, bytes, until) => call(() => bucket.create(key, bytes, until)),
    swap: (key, bytes, etag) => call(() => bucket.swap(key, bytes, etag)),
    remove: (versions) => call(() => bucket.remove(versions)),
    versions: (prefix) => bucket.versions(prefix),
    getVersion: (key, version, limit) => call(() => bucket.getVersion(key, version, limit)),
  };
}

/** What survives a process: its WAL and which starts wrote it. */
type Disk = { records: Buffer[]; writers: string[] };

/** A WAL on such a disk. */
function walOn(disk: Disk, world: World, actor: Actor): Wal {
  let records: Buffer[] = [];
  const first = (record: Buffer): number => Number(record.readBigUInt64BE(8));
  const wal = {
    get first() {
      return records[0] === undefined ? -1 : first(records[0]);
    },
    seed: 0,
    isPrunable: false,
    bytes: 0,
    open: async () => {
      records = [...disk.records];
      disk.records = records;
    },
    records: async function* (from = 0): AsyncGenerator<WalRecord> {
      for (const record of records) {
        if (first(record) >= from)
          yield { firstIndex: first(record), entries: record.subarray(16) };
      }
    },
    append: async (firstIndex: number, given: Buffer) => {
      // An fsync takes its time, and the process may die on either side of it.
      await world.gate(actor);
      fillHead(given, firstIndex, 0);
      records.push(Buffer.from(given));
      await world.gate(actor);
    },
    prune: async () => {},
    close: async () => {},
  };
  return wal as unknown as Wal;
}

/**
 * Runs one schedule to its end. Where receipts wait for the store, exporters have disks of their own and wait for each
 * other; where they wait for the WAL, one dies and starts again on the same disk.
 */
export async function simulate(seed: number, ack: "store" | "wal"): Promise<Outcome> {
  const world = new World(seed);
  const bucket = memoryBucket();
  const isAlone = ack === "wal";
  const disks = (isAlone ? [0] : [0, 1, 2]).map((): Disk => ({ records: [], writers: [] }));
  const receipted: number[] = [];
  const faults: string[] = [];
  const count = { deaths: 0, takeOvers: 0, fenced: 0, starts: 0 };
  let nextEntry = 0;
  let isOver = false;
  let isDone = false;

  /** Whoever was taken over may fail in any way, also since files are gone that only its own checkpoint needs. */
  function failed(error: unknown, fence: number): void {
    const now = parseCommit(bucket.all.get(`${HOME}${COMMIT_KEY}`)?.at(-1)?.bytes ?? Buffer.of());
    if ((now?.fence ?? 0) > fence || String(error).includes("taken over")) count.fenced++;
    else faults.push(String(error));
  }

  async function live(disk: Disk, actor: Actor): Promise<void> {
    const mine = remote(bucket, world, actor);
    const clock = { now: () => world.now, sleep: (ms: number) => world.sleep(actor, ms) };
    count.starts++;
    const holder = String(count.starts);
    const lease = isAlone ? null : await Lease.acquire({ bucket: mine, home: HOME, holder, clock });
    const [current = "", ...unfinished] = disk.writers;
    const pending = newWriter();
    disk.writers = [current, ...unfinished, pending];
    const writers = { current, unfinished, pending };
    const taken = await claim(mine, HOME, ack, writers, lease?.epoch);
    if (!taken.isOurs) disk.records = [];
    const { fence } = taken.claim.commit;
    actor.fence = fence;
    // The crash between the claim and this is one of those that are tried.
    await world.gate(actor);
    disk.writers = [pending];
    count.takeOvers++;
    const store = await openObjectStore({
      bucket: mine,
      home: HOME,
      claim: taken.claim,
      ack,
      lockMs: 86_400_000,
      keepEveryMs: 2000,
      now: clock.now,
    });
    const die = (error: unknown): void => {
      if (!actor.isDead) failed(error, fence);
      actor.isDead = true;
    };
    const publisher = new Publisher({
      store,
      signer: SIGNER,
      signers: [SIGNER],
      verifiers: [VERIFIER],
      onDiskFull: () => {},
    });
    const log = new Sequencer({
      wal: walOn(disk, world, actor),
      publisher,
      store,
      beforePrune: async () => {},
      onFatal: die,
      fromWal: isAlone,
    });
    await log.recover(log.size, () => {});
    const acks = new Acks({ log, ack, isHeld: () => lease?.isHeld ?? true, refusing: () => null });
    const renewing = async (): Promise<void> => {
      while (lease !== null && !actor.isDead && !isDone) {
        await clock.sleep(RENEW_MS);
        if (!(await lease.renew())) die(new Error("taken over: the lease was lost"));
      }
    };
    void renewing().catch(die);
    const publishing = async (): Promise<void> => {
      while (!actor.isDead && !isDone) {
        await clock.sleep(1000);
        await log.publish();
      }
    };
    void publishing().catch(die);
    while (!actor.isDead && !isOver) {
      const ids = Array.from({ length: 1 + Math.floor(world.random() * 120) }, () => nextEntry++);
      const entries = Buffer.concat(ids.map(formatId));
      const { durable } = acks.append(entries, hashLeaves(entries, ids.length));
      durable.catch(() => undefined);
      // Whoever is paused here sends its receipt late; one that is sent counts. One that is refused is no receipt.
      const isAcked = await acks.whenDurable().then(
        () => true,
        () => false,
      );
      if (isAcked && !actor.isDead) receipted.push(...ids);
      await clock.sleep(Math.floor(world.random() * 1500));
    }
    if (actor.isDead) return;
    await log.publish();
    await publisher.sync();
    isDone = true;
  }

  const actors: Actor[] = [];
  const start = (disk: Disk): void => {
    const actor = { isDead: false, pausedUntil: 0, disk, fence: 0 };
    actors.push(actor);
    void live(disk, actor).catch((error: unknown) => {
      if (!actor.isDead) failed(error, actor.fence);
      actor.isDead = true;
    });
  };
  for (const disk of disks.slice(0, 2)) start(disk);
  const MAX_STEPS = 12_000;
  const CHAOS_STEPS = 350;
  for (let steps = 0; !isDone && faults.length === 0; steps++) {
    if (steps > MAX_STEPS) faults.push("it does not come to an end");
    await world.step();
    if (steps < CHAOS_STEPS) {
      const alive = actors.filter(({ isDead }) => !isDead);
      const one = alive[Math.floor(world.random() * alive.length)];
      if (one !== undefined && world.random() < 0.006) {
        one.isDead = true;
        count.deaths++;
      }
      // Some stand still for less than a lease lasts, some for longer.
      if (one !== undefined && world.random() < 0.02) {
        one.pausedUntil = world.now + Math.floor(world.random() * 25_000);
      }
    } else isOver = true;
    while (actors.filter(({ isDead }) => !isDead).length < Math.min(2, disks.length)) {
      // A disk is used by one process at a time: exporter/lock.ts.
      const inUse = actors.filter(({ isDead }) => !isDead).map(({ disk }) => disk);
      const free = disks.filter((disk) => !inUse.includes(disk));
      start(free[Math.floor(world.random() * free.length)] as Disk);
    }
  }
  for (const actor of actors) actor.isDead = true;
  if (faults.length === 0) faults.push(...faultsIn(bucket, receipted));
  const { deaths, takeOvers, fenced } = count;
  return { receipted: receipted.length, entries: nextEntry, deaths, takeOvers, fenced, faults };
}

function formatId(id: number): Buffer {
  const entry = Buffer.alloc(3 + 4);
  entry.writeUInt16BE(4, 0);
  entry.writeUInt32BE(id, 3);
  return entry;
}

/** Reads the log as anyone would, and looks for two trees, lost entries and second versions. */
function faultsIn(
  { all }: ReturnType<typeof memoryBucket>,
  receipted: readonly number[],
): string[] {
  const faults: string[] = [];
  const bytesOf = (path: string): Buffer | undefined => all.get(`${HOME}${path}`)?.at(-1)?.bytes;
  const sizeAndRoot = (note: Buffer): { size: number; root: Buffer } => {
    const { size, root } = parseCheckpoint(parseNote(note)?.text ?? "") ?? { size: -1, root: [] };
    return { size, root: Buffer.from(root) };
  };
  const { size } = sizeAndRoot(bytesOf("log/checkpoint") ?? Buffer.of());
  const entries: Uint8Array[] = [];
  for (const path of [...all.keys()].sort()) {
    const tile = parseTilePath(path.slice(`${HOME}log/`.length));
    if (tile === null) continue;
    if ((all.get(path)?.length ?? 0) > 1) faults.push(`${path} has two versions`);
    if (tile.level !== "entries") continue;
    const width = Math.min(TILE_WIDTH, size - tile.index * TILE_WIDTH);
    if (tile.width !== width) continue;
    const found = parseBundle(bytesOf(path.slice(HOME.length)) ?? Buffer.of(), width);
    for (const [i, entry] of (found ?? []).entries()) entries[tile.index * TILE_WIDTH + i] = entry;
  }
  if (entries.length !== size)
    faults.push(`${entries.length} entries below a checkpoint of ${size}`);
  const leaves = entries.map((entry) => leafHash(entry));
  const memo = new Map<string, Uint8Array>();
  for (const [path, versions] of all) {
    if (!path.startsWith(`${HOME}log/checkpoint`) && !path.startsWith(`${HOME}checkpoints/`))
      continue;
    for (const { bytes } of versions) {
      const at = sizeAndRoot(bytes);
      const isOurs =
        at.size >= 0 && at.size <= size && at.root.equals(rootOf(leaves, at.size, memo));
      if (!isOurs) faults.push(`${path} of ${at.size} is of another tree`);
    }
  }
  const held = new Set(entries.map((entry) => Buffer.from(entry).readUInt32BE(0)));
  if (held.size !== entries.length) faults.push("an entry is there twice");
  const lost = receipted.filter((id) => !held.has(id));
  if (lost.length > 0) faults.push(`${lost.length} receipted entries are lost, first ${lost[0]}`);
  return faults;
}

/** Returns the root of the first `size` leaves; complete subtrees are computed once. */
function rootOf(
  leaves: readonly Uint8Array[],
  size: number,
  memo: Map<string, Uint8Array>,
): Uint8Array {
  const subtree = (height: number, index: number): Uint8Array => {
    if (height === 0) return leaves[index] ?? Uint8Array.of();
    const key = `${height}/${index}`;
    const held = memo.get(key);
    if (held !== undefined) return held;
    const made = nodeHash(subtree(height - 1, 2 * index), subtree(height - 1, 2 * index + 1));
    memo.set(key, made);
    return made;
  };
  return size === 0 ? emptyRoot() : rangeRoot(0, size, subtree);
}
