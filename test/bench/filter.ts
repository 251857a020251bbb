/**
 * What the filter costs Envoy: CPU added to a request, as a filter and as an access logger, against Envoy's own OpenTelemetry,
 * gRPC and file access loggers carrying the same facts.
 *
 *     npm run -s bench:filter [-- --json] [--quick] [--starts 3] [--rounds 5] [--burst 10000] [--only none,filter,otel]
 *         [--settings '{"batchBytes":262144}']
 *
 * All variants run at the same time and are loaded in turn, a burst each, in an order that changes each round; a ratio is taken
 * within a round. So whatever else the machine does falls on all alike. Counted is the CPU time of the Envoy process (proc(5)), not the clock
 * on the wall; exporter, receivers and upstream are processes of their own and are not counted. Envoys are started anew `--starts` times, since
 * where a process lies in memory makes some per cent. p99 and memory are taken apart, at the end.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { parseArgs } from "node:util";
import { median, quartiles } from "./figures.ts";
import {
  load,
  type Mesh,
  type Running,
  startMesh,
  stat,
  thinkingLoad,
  type Waits,
} from "./mesh.ts";
import { fineCpuMicros, residentMebibytes } from "./process.ts";
import { SLOW_MS, VARIANTS, type Variant } from "./variants.ts";

const PATHS = { direct: "/direct", proxied: "/cart/42" } as const;
type Case = keyof typeof PATHS;
const CASES = Object.keys(PATHS) as Case[];

/** The ratios: what ours adds to a request, over what theirs adds. */
const RATIOS = {
  filterVsOtel: ["filter", "otel"],
  accessLogVsOtel: ["access-log", "otel"],
  filterVsGrpc: ["filter", "grpc"],
  accessLogVsGrpc: ["access-log", "grpc"],
  filterVsFile: ["filter", "file"],
} as const satisfies Record<string, readonly [Variant, Variant]>;

const { values: options } = parseArgs({
  options: {
    json: { type: "boolean", default: false },
    quick: { type: "boolean", default: false },
    starts: { type: "string", default: "3" },
    rounds: { type: "string", default: "5" },
    burst: { type: "string", default: "10000" },
    memory: { type: "string", default: "1000000" },
    settings: { type: "string", default: "{}" },
    only: { type: "string", default: VARIANTS.join(",") },
    filter: { type: "string", default: "build/filter.wasm" },
    "access-log": { type: "string", default: "build/filter.wasm" },
  },
});
const starts = options.quick ? 1 : Number(options.starts);
const rounds = options.quick ? 2 : Number(options.rounds);
const burst = options.quick ? 2000 : Number(options.burst);
const variants = VARIANTS.filter((variant) => options.only.split(",").includes(variant));

type Round = Map<Variant, Record<Case, number>>;

/** One burst on each case of each variant, in an order that changes with `turn`. */
function measure(proxies: Map<Variant, Running>, turn: number): Round {
  const figures: Round = new Map();
  const order = [...proxies].map((_, i, all) => all[(i + turn) % all.length]);
  for (const each of turn % 2 === 0 ? order : order.reverse()) {
    if (each === undefined) continue;
    const [variant, proxy] = each;
    const spent = { direct: 0, proxied: 0 };
    for (const name of CASES) {
      const before = fineCpuMicros(proxy.pid);
      load(proxy, PATHS[name], burst);
      spent[name] = (fineCpuMicros(proxy.pid) - before) / burst;
    }
    figures.set(variant, spent);
  }
  return figures;
}

/** Requests that ours did not write: too many of them, and what was measured is not the work. */
async function missed(proxies: Map<Variant, Running>): Promise<number> {
  let count = 0;
  for (const variant of ["filter", "access-log"] as const) {
    const proxy = proxies.get(variant);
    if (proxy !== undefined) count += await stat(proxy, "wasmcustom.meshseal_gap_requests");
  }
  return count;
}

async function measureAll(mesh: Mesh): Promise<{ figures: Round[]; missed: number }> {
  const figures: Round[] = [];
  let lost = 0;
  for (let start = 0; start < starts; start++) {
    const proxies = await mesh.restart(variants);
    // V8 compiles what is hot in the background: the first requests are not typical.
    for (const proxy of proxies.values())
      for (const name of CASES) load(proxy, PATHS[name], Math.max(burst, 2000));
    for (let round = 0; round < rounds; round++) {
      const measured = measure(proxies, start * rounds + round);
      figures.push(measured);
      const said = [...measured].map(
        ([name, spent]) => `${name} ${spent.direct.toFixed(1)}/${spent.proxied.toFixed(1)}`,
      );
      console.error(`${figures.length}/${starts * rounds}  ${said.join("  ")}`);
    }
    lost += await missed(proxies);
  }
  return { figures, missed: lost };
}

/** Returns what a variant adds to a request of the base, round by round. */
function added(figures: readonly Round[], variant: Variant, name: Case): number[] {
  return figures.map(
    (round) =>
      (round.get(variant)?.[name] ?? Number.NaN) - (round.get("none")?.[name] ?? Number.NaN),
  );
}

function ratioOf(
  figures: readonly Round[],
  [ours, theirs]: readonly [Variant, Variant],
  name: Case,
): number[] {
  const divisors = added(figures, theirs, name);
  return added(figures, ours, name).map((figure, i) => figure / (divisors[i] ?? Number.NaN));
}

const round2 = (figure: number): number => Math.round(figure * 100) / 100;
const byCase = <T>(make: (name: Case) => T): Record<Case, T> => ({
  direct: make("direct"),
  proxied: make("proxied"),
});

/** The base first: what ours and theirs make of its p99. */
const WAITING = ["none", "filter", "otel"] as const satisfies readonly Variant[];
const WAITS = { atOnce: "/cart/42", slow: "/slow/42" } as const;

/**
 * p99 in milliseconds at 70 % of what the slowest of them can serve, in turn: of an upstream that answers at once, where
 * there is nothing but proxies to wait for, and of one that takes SLOW_MS, as services do.
 */
async function latency(mesh: Mesh): Promise<object> {
  const proxies = [...(await mesh.restart(WAITING))];
  const rates = proxies.map(([, proxy]) => {
    load(proxy, WAITS.atOnce, 20_000);
    const before = performance.now();
    load(proxy, WAITS.atOnce, 20_000);
    return 20_000 / ((performance.now() - before) / 1000);
  });
  const rate = Math.floor(0.7 * Math.min(...rates));
  const results = Object.entries(WAITS).map(([name, path]) => {
    const waits = new Map<Variant, Waits[]>(WAITING.map((variant) => [variant, []]));
    for (let turn = 0; turn < 20; turn++) {
      for (const [variant, proxy] of turn % 2 === 0 ? proxies : proxies.toReversed())
        waits.get(variant)?.push(thinkingLoad(proxy, path, rate, 2));
    }
    const p99 = (variant: Variant): number[] => waits.get(variant)?.map((wait) => wait.p99) ?? [];
    const base = p99("none");
    const figures = WAITING.map((variant) => {
      const ratios = p99(variant).map((figure, i) => figure / (base[i] ?? Number.NaN));
      const sent = median(waits.get(variant)?.map((wait) => wait.rate) ?? []);
      const said = { rate: Math.round(sent), p99Ms: round2(median(p99(variant))) };
      const vsNone = { vsNone: round2(median(ratios)), quartiles: quartiles(ratios).map(round2) };
      return [variant, variant === "none" ? said : { ...said, ...vsNone }] as const;
    });
    return [name, Object.fromEntries(figures)] as const;
  });
  return { rate, slowMs: SLOW_MS, ...Object.fromEntries(results) };
}

/** Resident memory of Envoy without a filter, with one that does nothing and with ours: idle, and ours after the requests. */
async function memory(mesh: Mesh): Promise<object> {
  const proxies = await mesh.restart(["none", "noop", "filter"]);
  const idle = [...proxies].map(([variant, { pid }]) => [variant, round2(residentMebibytes(pid))]);
  const filter = proxies.get("filter");
  if (filter === undefined) throw new Error("it was started");
  const requests = Number(options.memory);
  load(filter, PATHS.direct, 50_000);
  const warm = residentMebibytes(filter.pid);
  load(filter, PATHS.direct, requests);
  return {
    // Envoy with one worker keeps three VMs: base, main thread, worker.
    idleMiB: Object.fromEntries(idle),
    after50kMiB: round2(warm),
    requests,
    afterMiB: round2(residentMebibytes(filter.pid)),
  };
}

for (const [tool, from] of [
  ["h2load", "nghttp2-client"],
  ["wrk", "wrk"],
] as const) {
  // wrk has no option that only prints its version, and exits with 1.
  if (spawnSync(tool, ["--version"]).error === undefined) continue;
  console.error(`meshseal: the benchmark needs ${tool}: apt-get install ${from}`);
  process.exit(1);
}
const mesh = await startMesh({
  filter: `${process.cwd()}/${options.filter}`,
  accessLog: `${process.cwd()}/${options["access-log"]}`,
  settings: options.settings,
});
try {
  const { figures, missed: lost } = await measureAll(mesh);
  const apart = options.quick ? {} : { latency: await latency(mesh), memory: await memory(mesh) };
  const ratios = Object.entries(RATIOS).filter(([, pair]) =>
    pair.every((variant) => variants.includes(variant)),
  );
  const result = {
    ...Object.fromEntries(
      ratios.map(([name, pair]) => [
        name,
        byCase((each) => round2(median(ratioOf(figures, pair, each)))),
      ]),
    ),
    quartiles: Object.fromEntries(
      ratios.map(([name, pair]) => [
        name,
        byCase((each) => quartiles(ratioOf(figures, pair, each)).map(round2)),
      ]),
    ),
    noneMicros: byCase((each) =>
      round2(median(figures.map((round) => round.get("none")?.[each] ?? Number.NaN))),
    ),
    addedMicros: Object.fromEntries(
      variants
        .filter((variant) => variant !== "none")
        .map((variant) => [
          variant,
          byCase((each) => round2(median(added(figures, variant, each)))),
        ]),
    ),
    rounds: figures.length,
    requestsEach: figures.length * burst,
    missed: lost,
    ...apart,
    versions: {
      envoy: mesh.envoyVersion,
      node: process.versions.node,
      h2load: execFileSync("h2load", ["--version"]).toString().trim(),
    },
  };
  console.log(JSON.stringify(result, null, options.json ? undefined : 2));
} finally {
  await mesh.stop();
}
