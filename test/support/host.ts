/**
 * A Proxy-Wasm host for the built filter: what Envoy does, as far as the filter uses it, with the faults a test wants.
 * It never says OK without filling what it was asked for.
 */
import { randomFillSync } from "node:crypto";
import { readFileSync } from "node:fs";

type Exports = { memory: { buffer: ArrayBuffer } } & Record<string, (...args: number[]) => number>;

export type Stream = {
  /** Attributes by CEL name, such as "response.code"; numbers are 8 bytes. */
  readonly attributes: Readonly<Record<string, Uint8Array | number>>;
  readonly headers: readonly (readonly [Uint8Array, Uint8Array])[];
};

export type Call = { readonly token: number; readonly body: Buffer; readonly cluster: string };

const OK = 0;
const NOT_FOUND = 1;
const BAD_ARGUMENT = 2;
const INTERNAL_FAILURE = 10;
const ROOT = 1;

export class Host {
  readonly calls: Call[] = [];
  readonly logs: string[] = [];
  readonly metrics: Map<string, number> = new Map();
  /** Nanoseconds since 1970. */
  clock = 1_795_478_400_000_000_000n;
  isRandomBroken = false;
  isExpressionBroken = false;
  callStatus = 0;

  readonly #exports: Exports;
  #stream: Stream = { attributes: {}, headers: [] };
  #answer: readonly (readonly [string, string])[] = [];
  #configuration = Buffer.alloc(0);
  #expression = "";
  #metricNames: string[] = [];
  #tokens = 0;

  private constructor(exports: Exports) {
    this.#exports = exports;
  }

  /** Instantiates build/filter.wasm and configures it. `isAccepted` says what it made of the configuration. */
  static async start(configuration = "{}"): Promise<{ host: Host; isAccepted: boolean }> {
    const module = await WebAssembly.compile(readFileSync("build/filter.wasm"));
    let host: Host | undefined;
    const imports: Record<string, Record<string, (...args: never[]) => unknown>> = {};
    for (const { module: from, name } of WebAssembly.Module.imports(module)) {
      imports[from] ??= {};
      const functions = imports[from];
      functions[name] = (...args: never[]) => {
        if (host === undefined) throw new Error(`${name} is called before the instance is there`);
        return host.#call(name, args as unknown as number[]);
      };
    }
    const instance = await WebAssembly.instantiate(module, imports);
    host = new Host(instance.exports as Exports);
    host.#run("_initialize");
    host.#run("proxy_on_context_create", ROOT, 0);
    host.#run("proxy_on_vm_start", ROOT, 0);
    return { host, isAccepted: host.configure(configuration) };
  }

  get memoryBytes(): number {
    return this.#exports.memory.buffer.byteLength;
  }

  metric(name: string): number {
    return this.metrics.get(`meshseal_${name}`) ?? 0;
  }

  configure(configuration: string): boolean {
    this.#configuration = Buffer.from(configuration);
    return this.#run("proxy_on_configure", ROOT, this.#configuration.length) === 1;
  }

  /** One request, from its first byte to its log. */
  request(stream: Stream): void {
    this.#stream = stream;
    this.#run("proxy_on_log", 2);
  }

  tick(milliseconds = 250): void {
    this.clock += BigInt(milliseconds) * 1_000_000n;
    this.#stream = { attributes: {}, headers: [] };
    this.#run("proxy_on_tick", ROOT);
  }

  /** Answers a call. No headers: the call failed. */
  answer(call: Call, headers: readonly (readonly [string, string])[]): void {
    this.#answer = headers;
    this.#run("proxy_on_http_call_response", ROOT, call.token, headers.length, 0, 0);
  }

  done(): void {
    this.#run("proxy_on_done", ROOT);
  }

  #run(name: string, ...args: number[]): number {
    return this.#exports[name]?.(...args) ?? 0;
  }

  #bytes(at: number, size: number): Buffer {
    return Buffer.from(this.#exports.memory.buffer, at, size);
  }

  #give(bytes: Uint8Array, dataAt: number, sizeAt: number): number {
    const at = this.#run("proxy_on_memory_allocate", bytes.length);
    this.#bytes(at, bytes.length).set(bytes);
    this.#bytes(dataAt, 4).writeUInt32LE(at);
    this.#bytes(sizeAt, 4).writeUInt32LE(bytes.length);
    return OK;
  }

  #attribute(name: string): Uint8Array | null {
    const value = this.#stream.attributes[name];
    if (typeof value !== "number") return value ?? null;
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(value));
    return bytes;
  }

  #evaluate(dataAt: number, sizeAt: number): number {
    const values: Uint8Array[] = [];
    for (const item of this.#expression.slice(1, -1).split(", ")) {
      const name = /[a-z_]+(?:\.[a-z_]+)+/.exec(item)?.[0] ?? "";
      const value = this.#attribute(name);
      if (value === null && !item.startsWith("has(")) return INTERNAL_FAILURE;
      values.push(value ?? new Uint8Array());
    }
    const head = Buffer.alloc(4 + 8 * values.length);
    head.writeUInt32LE(values.length);
    values.forEach((value, i) => void head.writeUInt32LE(value.length, 4 + 8 * i));
    const body = values.flatMap((value) => [value, Buffer.alloc(2)]);
    return this.#give(Buffer.concat([head, ...body]), dataAt, sizeAt);
  }

  #call(name: string, args: readonly number[]): number {
    const [a = 0, b = 0, c = 0, d = 0, e = 0, g = 0] = args;
    switch (name) {
      case "proxy_log":
        this.logs.push(this.#bytes(b, c).toString());
        return OK;
      case "proxy_set_tick_period_milliseconds":
      case "proxy_set_effective_context":
        return OK;
      case "proxy_get_current_time_nanoseconds":
        this.#bytes(a, 8).writeBigUInt64LE(this.clock);
        return OK;
      case "proxy_get_property": {
        const value = this.#attribute(this.#bytes(a, b).toString().replaceAll("\0", "."));
        return value === null ? NOT_FOUND : this.#give(value, c, d);
      }
      case "proxy_get_header_map_pairs": {
        const answer = this.#answer.map(
          ([key, value]) => [Buffer.from(key), Buffer.from(value, "latin1")] as const,
        );
        return this.#give(formatPairs(a === 0 ? this.#stream.headers : answer), b, c);
      }
      case "proxy_get_buffer_bytes":
        return this.#give(this.#configuration.subarray(b, b + c), d, e);
      case "proxy_call_foreign_function": {
        if (this.isExpressionBroken) return NOT_FOUND;
        const called = this.#bytes(a, b).toString();
        if (called === "expr_evaluate") return this.#evaluate(e, g);
        this.#expression = this.#bytes(c, d).toString();
        return this.#give(Buffer.from([7, 0, 0, 0]), e, g);
      }
      case "proxy_define_metric":
        this.#metricNames.push(this.#bytes(b, c).toString());
        this.#bytes(d, 4).writeUInt32LE(this.#metricNames.length - 1);
        return OK;
      case "proxy_increment_metric": {
        const metric = this.#metricNames[a];
        if (metric === undefined) return BAD_ARGUMENT;
        this.metrics.set(metric, (this.metrics.get(metric) ?? 0) + Number(b));
        return OK;
      }
      case "proxy_http_call": {
        if (this.callStatus !== OK) return this.callStatus;
        const token = ++this.#tokens;
        this.#bytes(args[9] ?? 0, 4).writeUInt32LE(token);
        const body = Buffer.from(this.#bytes(e, g));
        this.calls.push({ token, body, cluster: this.#bytes(a, b).toString() });
        return OK;
      }
      case "random_get":
        if (this.isRandomBroken) return 76;
        randomFillSync(this.#bytes(a, b));
        return OK;
      default:
        throw new Error(`this host has no ${name}`);
    }
  }
}

function formatPairs(pairs: readonly (readonly [Uint8Array, Uint8Array])[]): Buffer {
  const head = Buffer.alloc(4 + 8 * pairs.length);
  head.writeUInt32LE(pairs.length);
  pairs.forEach(([key, value], i) => {
    head.writeUInt32LE(key.length, 4 + 8 * i);
    head.writeUInt32LE(value.length, 8 + 8 * i);
  });
  const nul = Buffer.alloc(1);
  return Buffer.concat([head, ...pairs.flatMap(([key, value]) => [key, nul, value, nul])]);
}
