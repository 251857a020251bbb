/**
 * Keeps the anchors going: each in a loop of its own, so that one that is slow or away holds up no other, and none of them
 * the log. An attempt has a time limit; a failed one is repeated after a growing pause, with whatever checkpoint is the
 * newest by then: a proof of a later checkpoint holds for all that came before.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { type Anchor, AnchorError, type Proof, type Subject } from "./anchor.ts";
import { dayOf, type ProofName, type Proofs } from "./proofs.ts";

const FIRST_PAUSE_MS = 1_000;
const MAX_PAUSE_MS = 60_000;
/** How often a loop looks if the log has grown. */
const LOOK_MS = 500;
/** Pending proofs are asked about this often; Bitcoin takes an hour or more. */
const POLL_EVERY_MS = 10 * 60_000;
/** Days of proofs that are read at start: older ones that are still pending are given up. */
export const START_DAYS = 31;

export type AnchorState = {
  readonly kind: string;
  readonly name: string;
  /** Entries in the newest checkpoint that was shown to it, and when it answered, Unix milliseconds; 0 if there is none. */
  size: number;
  provedAt: number;
  /** When the first checkpoint appeared that it does not cover; 0 if it covers all. */
  openSince: number;
  /** Attempts that failed since the last good one, and what the last one said. */
  failures: number;
  error: string;
  /** The outsider contradicts the log: docs/anchors.md says what to do. */
  isAlarm: boolean;
  pending: number;
};

/** A proof that was kept, for the `anchors` entry. */
export type Kept = {
  readonly name: string;
  readonly size: number;
  readonly at: number;
  readonly bytes: Buffer;
};

export type RunnerOptions = {
  readonly anchors: readonly Anchor[];
  readonly proofs: Proofs;
  /** The newest checkpoint, and its size without reading it. */
  readonly subject: () => Promise<Subject>;
  readonly treeSize: () => number;
  readonly onProved: (anchor: Anchor, subject: Subject) => void;
  readonly onFailed: (anchor: Anchor, error: unknown, isAlarm: boolean) => void;
};

export class Runner {
  readonly #options: RunnerOptions;
  readonly #stop = new AbortController();
  readonly #states = new Map<string, AnchorState>();
  readonly #kept: Kept[] = [];
  #loops: Promise<unknown>[] = [];

  constructor(options: RunnerOptions) {
    this.#options = options;
    for (const { kind, name } of options.anchors) {
      this.#states.set(name, {
        kind,
        name,
        size: 0,
        provedAt: 0,
        openSince: Date.now(),
        failures: 0,
        error: "",
        isAlarm: false,
        pending: 0,
      });
    }
  }

  get states(): readonly AnchorState[] {
    return [...this.#states.values()];
  }

  /** Takes up what is on disk, and starts. */
  async start(): Promise<void> {
    const known = await this.#options.proofs.list(START_DAYS);
    for (const anchor of this.#options.anchors) {
      const state = this.#stateOf(anchor);
      const mine = known.filter(
        ({ name, suffix }) => name === anchor.name && suffix === anchor.suffix,
      );
      state.size = Math.min(this.#options.treeSize(), Math.max(0, ...mine.map(({ size }) => size)));
      const pending = new Set(mine.filter(({ isPending }) => isPending));
      state.pending = pending.size;
      // One that cannot be read is found by verify: it is no reason not to start.
      void this.#keepNewest(mine).catch(() => undefined);
      this.#loops.push(this.#submitting(anchor, state, pending));
      if (anchor.poll !== undefined) this.#loops.push(this.#polling(anchor, state, pending));
    }
  }

  /** The last proof before a stop came when the log was closed already: the log tells of it now. */
  async #keepNewest(mine: readonly ProofName[]): Promise<void> {
    const { proofs } = this.#options;
    const [first, ...rest] = mine;
    if (first === undefined) return;
    const newest = rest.reduce((a, b) => (b.size > a.size ? b : a), first);
    const { name, size } = newest;
    const at = await proofs.keptAt(newest);
    // In front: what came since the start is newer.
    this.#kept.unshift({ name, size, at, bytes: await proofs.read(newest) });
  }

  /** Returns the proofs that were kept since the last call. */
  takeKept(): Kept[] {
    return this.#kept.splice(0);
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#loops);
  }

  /** After `stop`: one more attempt of each, all within `ms`. What fails was logged, and is made good at the next start. */
  async finish(ms: number): Promise<void> {
    const signal = AbortSignal.timeout(ms);
    await Promise.all(
      this.#options.anchors.map(async (anchor) => {
        const state = this.#stateOf(anchor);
        try {
          const subject = await this.#options.subject();
          if (subject.size <= state.size) return;
          const proof = await anchor.submit(subject, signal);
          this.#proved(state, subject);
          this.#keep(anchor, subject, proof);
          if (proof.isFinal) this.#options.onProved(anchor, subject);
        } catch (error) {
          this.#failed(anchor, state, error);
        }
      }),
    );
  }

  #stateOf({ name }: Anchor): AnchorState {
    const state = this.#states.get(name);
    if (state === undefined) throw new Error(`no anchor ${name}`);
    return state;
  }

  async #submitting(anchor: Anchor, state: AnchorState, pending: Set<ProofName>): Promise<void> {
    let keptAt = 0;
    let next = 0;
    while (await this.#pause(LOOK_MS)) {
      if (this.#options.treeSize() <= state.size) continue;
      if (state.openSince === 0) state.openSince = Date.now();
      if (Date.now() < next) continue;
      const started = Date.now();
      try {
        const subject = await this.#options.subject();
        if (subject.size <= state.size) continue;
        const proof = await anchor.submit(subject, this.#signal(anchor));
        this.#proved(state, subject);
        if (!proof.isFinal || Date.now() - keptAt >= anchor.keepEveryMs) {
          const kept = this.#keep(anchor, subject, proof);
          if (!proof.isFinal) state.pending = pending.add(kept).size;
          keptAt = started;
        }
        if (proof.isFinal) this.#options.onProved(anchor, subject);
        next = started + anchor.everyMs;
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        this.#failed(anchor, state, error);
        next = Date.now() + pauseAfter(state.failures);
      }
    }
  }

  async #polling(anchor: Anchor, state: AnchorState, waiting: Set<ProofName>): Promise<void> {
    const askedAt = new Map<ProofName, number>();
    while (await this.#pause(LOOK_MS)) {
      for (const name of waiting) {
        if (Date.now() - (askedAt.get(name) ?? 0) < Math.min(POLL_EVERY_MS, anchor.everyMs))
          continue;
        askedAt.set(name, Date.now());
        try {
          const proof = await this.#poll(anchor, name);
          if (proof === null) continue;
          this.#options.proofs.keep({ ...name, isPending: !proof.isFinal }, proof.bytes);
          if (!proof.isFinal) continue;
          waiting.delete(name);
          state.pending = waiting.size;
          askedAt.delete(name);
          this.#kept.push({
            name: anchor.name,
            size: name.size,
            at: Date.now(),
            bytes: proof.bytes,
          });
        } catch (error) {
          if (this.#stop.signal.aborted) return;
          this.#options.onFailed(anchor, error, false);
        }
      }
    }
  }

  async #poll(anchor: Anchor, name: ProofName): Promise<Proof | null> {
    const { proofs } = this.#options;
    const [note, bytes] = [await proofs.readCheckpoint(name), await proofs.read(name)];
    return (await anchor.poll?.(note, bytes, this.#signal(anchor))) ?? null;
  }

  #proved(state: AnchorState, { size }: Subject): void {
    state.size = size;
    state.provedAt = Date.now();
    state.openSince = this.#options.treeSize() > size ? state.provedAt : 0;
    state.failures = 0;
    state.error = "";
    state.isAlarm = false;
  }

  #keep(anchor: Anchor, { size, note }: Subject, proof: Proof): ProofName {
    const { proofs } = this.#options;
    const at = Date.now();
    const day = dayOf(at);
    const isPending = !proof.isFinal;
    const name = { day, size, name: anchor.name, suffix: anchor.suffix, isPending };
    proofs.keepCheckpoint(day, size, note);
    proofs.keep(name, proof.bytes);
    this.#kept.push({ name: anchor.name, size, at, bytes: proof.bytes });
    return name;
  }

  #failed(anchor: Anchor, state: AnchorState, error: unknown): void {
    state.failures++;
    state.error = error instanceof Error ? error.message : String(error);
    state.isAlarm = error instanceof AnchorError && error.isAlarm;
    this.#options.onFailed(anchor, error, state.isAlarm);
  }

  #signal({ timeoutMs }: Anchor): AbortSignal {
    return AbortSignal.any([this.#stop.signal, AbortSignal.timeout(timeoutMs)]);
  }

  /** Resolves to false when it is time to stop. */
  async #pause(ms: number): Promise<boolean> {
    try {
      await sleep(ms, undefined, { signal: this.#stop.signal });
      return true;
    } catch {
      return false;
    }
  }
}

/** Doubles from 1 s to a minute; half of it is random, so that many logs do not come back at the same moment. */
export function pauseAfter(failures: number): number {
  const pause = Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(failures - 1, 10));
  return pause / 2 + (Math.random() * pause) / 2;
}
