/**
 * A Proxy-Wasm host for the built filter: what Envoy does, as far as the filter uses it, with the faults a test wants.
 * It never says OK without filling what it was asked for.
 */
import { createSign, randomFillSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { evaluate, formatPairs } from "./expression.ts";
import { formatMetadata, type Metadata } from "./metadata.ts";

type Exports = { memory: { buffer: ArrayBuffer } } & Record<string, (...args: number[]) => number>;

export type Stream = {
  /** Attributes by CEL name, such as "response.code"; numbers are 8 bytes. */
  readonly attributes: Readonly<Record<string, Uint8Array | number>>;
  readonly headers: readonly (readonly [Uint8Array, Uint8Array])[];
  readonly responseHeaders?: readonly (readonly [Uint8Array, Uint8Array])[];
  /** Dynamic metadata, by namespace and key, as a client can never write it; or any bytes in its place. */
  readonly metadata?: Metadata | Uint8Array;
};

/** What Envoy always has. */
const ALWAYS: Readonly<Record<string, number>> = { "upstream.request_attempt_count": 0 };

export type Call = {
  readonly token: number;
  readonly body: Buffer;
  readonly cluster: string;
  readonly headers: readonly (readonly [string, string])[];
};

const OK = 0;
const NOT_FOUND = 1;
const BAD_ARGUMENT = 2;
const INTERNAL_FAILURE = 10;
const CAS_MISMATCH = 8;
const ROOT = 1;

/** Signed as Envoy 1.40 does it: source/extensions/common/wasm/ext/sign.proto. */
function signP256(argument: Buffer): Buffer {
  const fields = new Map<number, Buffer>();
  for (let at = 0; at < argument.length; ) {
    const number = (argument[at++] ?? 0) >> 3;
    let length = 0;
    for (let shift = 0, more = true; more; shift += 7) {
      const byte = argument[at++] ?? 0;
      length |= (byte & 127) << shift;
      more = byte > 127;
    }
    fields.set(number, argument.subarray(at, at + length));
    at += length;
  }
  const text = fields.get(3) ?? Buffer.alloc(0);
  const pem = (fields.get(4) ?? "").toString();
  const signature = createSign("sha256").update(text).sign(pem);
  return Buffer.concat([Buffer.of(0x08, 1, 0x12, signature.length), signature]);
}

export type HostOptions = {
  readonly module?: string;
  readonly environment?: Readonly<Record<string, string>>;
  /** The shared data of the process, so that several hosts can have one. */
  readonly shared?: Map<string, { value: Buffer; cas: number }>;
};

const modules = new Map<string, Promise<WebAssembly.Module>>();

function compiled(path: string): Promise<WebAssembly.Module> {
  const known = modules.get(path) ?? WebAssembly.compile(readFileSync(path));
  modules.set(path, known);
  return known;
}

export class Host {
  readonly calls: Call[] = [];
  readonly logs: string[] = [];
  readonly metrics: Map<string, number> = new Map();
  /** Nanoseconds since 1970. */
  clock = 1_795_478_400_000_000_000n;
  isRandomBroken = false;
  isExpressionBroken = false;
  callStatus = 0;
  hasSign = true;
  /** Asked before each host call: a status other than 0 is what the call returns, having done nothing. */
  fault: (name: string) => number = (): number => OK;
  /** What `send_local_response` was given for the current stream, if it was called. */
  refusal: { status: number; details: string } | null = null;

  readonly #shared: Map<string, { value: Buffer; cas: number }>;
  readonly #environment: readonly Buffer[];
  readonly #exports: Exports;
  #stream: Stream = { attributes: {}, headers: [] };
  #answer: readonly (readonly [string, string])[] = [];
  #configuration = Buffer.alloc(0);
  #expression = "";
  #metricNames: string[] = [];
  #tokens = 0;

  private constructor(exports: Exports, options: HostOptions) {
    this.#exports = exports;
    this.#shared = options.shared ?? new Map();
    this.#environment = Object.entries(options.environment ?? {}).map(([key, value]) =>
      Buffer.from(`${key}=${value}\0`),
    );
  }

  /** Instantiates a module and configures it. `isAccepted` says what it made of the configuration. */
  static async start(
    configuration = "{}",
    options: HostOptions = {},
  ): Promise<{ host: Host; isAccepted: boolean }> {
    const module = await compiled(options.module ?? "build/filter.wasm");
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
    host = new Host(instance.exports as Exports, options);
    host.#run("_initialize");
    host.#run("proxy_on_context_create", ROOT, 0);
    host.#run("proxy_on_vm_start", ROOT, 0);
    return { host, isAccepted: host.configure(configuration) };
  }

  get memoryBytes(): number {
    return this.#exports.memory.buffer.byteLength;
  }

  /** Bytes of the 4 KiB pages that hold anything: what an operating system would keep resident. */
  get touchedBytes(): number {
    const memory = Buffer.from(this.#exports.memory.buffer);
    const nothing = Buffer.alloc(4096);
    let pages = 0;
    for (let at = 0; at < memory.length; at += 4096)
      if (!memory.subarray(at, at + 4096).equals(nothing)) pages++;
    return pages * 4096;
  }

  metric(name: string): number {
    return this.metrics.get(`meshseal_${name}`) ?? 0;
  }

  /** Configures a root: another number than before is a new one, as after an update. */
  configure(configuration: string, root: number = ROOT): boolean {
    this.#configuration = Buffer.from(configuration);
    return this.#run("proxy_on_configure", root, this.#configuration.length) === 1;
  }

  /** One request, from its first byte to its log. */
  request(stream: Stream): void {
    this.#stream = stream;
    this.#run("proxy_on_log", 2);
  }

  /** The headers of a request. Returns whether it may go on. */
  requestHeaders(stream: Stream): boolean {
    this.#stream = stream;
    this.refusal = null;
    return this.#run("proxy_on_request_headers", 2, stream.headers.length, 1) === 0;
  }

  tick(milliseconds = 250, root: number = ROOT): void {
    this.clock += BigInt(milliseconds) * 1_000_000n;
    this.#stream = { attributes: {}, headers: [] };
    this.#run("proxy_on_tick", root);
  }

  /** Answers a call. No headers: the call failed. */
  answer(call: Call, headers: readonly (readonly [string, string])[]): void {
    this.#answer = headers;
    this.#run("proxy_on_http_call_response", ROOT, call.token, headers.length, 0, 0);
  }

  done(root: number = ROOT): void {
    this.#run("proxy_on_done", root);
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
    const value = this.#stream.attributes[name] ?? ALWAYS[name];
    if (name === "metadata") return formatMetadata(this.#stream.metadata ?? {});
    if (typeof value !== "number") return value ?? null;
    const bytes = Buffer.alloc(8);
    bytes.writeBigInt64LE(BigInt(value));
    return bytes;
  }

  #evaluate(dataAt: number, sizeAt: number): number {
    const value = evaluate(this.#expression, (name) => this.#attribute(name));
    return value === null ? INTERNAL_FAILURE : this.#give(value, dataAt, sizeAt);
  }

  #call(name: string, args: readonly number[]): number {
    const [a = 0, b = 0, c = 0, d = 0, e = 0, g = 0] = args;
    const fault = this.fault(name);
    if (fault !== OK) return fault;
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
        const maps = { 0: this.#stream.headers, 2: this.#stream.responseHeaders ?? [], 6: answer };
        return this.#give(formatPairs(maps[a as 0 | 2 | 6]), b, c);
      }
      case "proxy_get_buffer_bytes":
        return this.#give(this.#configuration.subarray(b, b + c), d, e);
      case "proxy_call_foreign_function": {
        const called = this.#bytes(a, b).toString();
        if (called === "sign") {
          if (!this.hasSign) return NOT_FOUND;
          return this.#give(signP256(Buffer.from(this.#bytes(c, d))), e, g);
        }
        if (this.isExpressionBroken) return NOT_FOUND;
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
        const headers = parsePairs(Buffer.from(this.#bytes(c, d)));
        this.calls.push({ token, body, cluster: this.#bytes(a, b).toString(), headers });
        return OK;
      }
      case "proxy_record_metric": {
        const metric = this.#metricNames[a];
        if (metric === undefined) return BAD_ARGUMENT;
        this.metrics.set(metric, Number(b));
        return OK;
      }
      case "proxy_get_shared_data": {
        const held = this.#shared.get(this.#bytes(a, b).toString());
        if (held === undefined) return NOT_FOUND;
        this.#bytes(e, 4).writeUInt32LE(held.cas);
        return this.#give(held.value, c, d);
      }
      case "proxy_set_shared_data": {
        const key = this.#bytes(a, b).toString();
        const held = this.#shared.get(key);
        if (e !== 0 && held?.cas !== e) return CAS_MISMATCH;
        this.#shared.set(key, {
          value: Buffer.from(this.#bytes(c, d)),
          cas: (held?.cas ?? 0) + 1,
        });
        return OK;
      }
      case "proxy_send_local_response":
        this.refusal = { status: a, details: this.#bytes(b, c).toString() };
        return OK;
      case "environ_sizes_get":
        this.#bytes(a, 4).writeUInt32LE(this.#environment.length);
        this.#bytes(b, 4).writeUInt32LE(Buffer.concat(this.#environment).length);
        return OK;
      case "environ_get": {
        let at = b;
        this.#environment.forEach((variable, i) => {
          this.#bytes(a + 4 * i, 4).writeUInt32LE(at);
          this.#bytes(at, variable.length).set(variable);
          at += variable.length;
        });
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

function parsePairs(bytes: Buffer): [string, string][] {
  const count = bytes.readUInt32LE(0);
  let at = 4 + 8 * count;
  return Array.from({ length: count }, (_, i) => {
    const keyEnd = at + bytes.readUInt32LE(4 + 8 * i);
    const end = keyEnd + 1 + bytes.readUInt32LE(8 + 8 * i);
    const pair: [string, string] = [
      bytes.toString("latin1", at, keyEnd),
      bytes.toString("latin1", keyEnd + 1, end),
    ];
    at = end + 1;
    return pair;
  });
}
