/** The plugin's configuration: one JSON object, strictly. A bad one is refused with a sentence, and Envoy keeps the old. */
import { MAX_HEADERS, MAX_KEY_NAME, MAX_POLICIES } from "../record/fields";
import { modeOf } from "./delivery";
import { environment } from "./environment";
import { KEY_FORM, Key, readKey } from "./hmac";
import { data, size } from "./host";
import * as json from "./json";

// The groups of facts, a bit each.
export const GROUP_CORE: u32 = 1;
export const GROUP_IDENTITY: u32 = 2;
export const GROUP_POLICY: u32 = 4;
export const GROUP_TLS: u32 = 8;
export const GROUP_UPSTREAM: u32 = 16;
export const GROUP_TRACE: u32 = 32;
export const GROUP_GRPC: u32 = 64;
export const GROUP_HEADERS: u32 = 128;
const ALL_GROUPS: u32 = 255;

const GROUP_NAMES: StaticArray<string> = [
  "core",
  "identity",
  "policy",
  "tls",
  "upstream",
  "trace",
  "grpc",
  "headers",
];

// How a listed header or a subject is kept.
export const KEEP_NOT: u32 = 0;
export const KEEP_PLAIN: u32 = 1;
export const KEEP_HASH: u32 = 2;
export const KEEP_PRESENT: u32 = 3;

/** Headers that carry credentials: never in plain, whatever the configuration says. */
const SECRETS: StaticArray<string> = [
  "authorization",
  "proxy-authorization",
  "cookie",
  "set-cookie",
  "x-api-key",
  "apikey",
  "api-key",
  "x-auth-token",
  "x-amz-security-token",
  "x-goog-iam-authorization-token",
  "x-vault-token",
  "x-csrf-token",
  "x-xsrf-token",
  "sec-websocket-key",
  "x-forwarded-client-cert",
];

/** A header to be kept, by its name in lower case. */
export class Capture {
  name: string;
  keep: u32;
  constructor(name: string, keep: u32) {
    this.name = name;
    this.keep = keep;
  }
}

export class Config {
  cluster: string = "meshseal";
  authority: string = "meshseal";
  tickMs: u32 = 250;
  /** 0: 128 KiB, or half a smaller buffer. */
  batchBytes: u32 = 0;
  bufferBytes: u32 = 4 << 20;
  timeoutMs: u32 = 5000;
  heartbeatMs: u32 = 60_000;
  delivery: string = "bounded-loss";
  enforceMs: u32 = 10_000;
  /** Of the MAC over batches, or null. */
  batchKey: Key | null = null;
  /** A PEM, or "". */
  signKey: string = "";
  signKeyId: string = "";
  spill: bool = false;
  /** 64 hex digits, or "". */
  moduleDigest: string = "";
  /** What every entry says, and what one says besides whose request a policy wants audited. */
  groups: u32 = ALL_GROUPS;
  auditGroups: u32 = 0;
  requestHeaders: Capture[] = [];
  responseHeaders: Capture[] = [];
  queryKeys: bool = true;
  /** Templates of paths, as configured. */
  paths: string[] = [];
  /** Whether what looks like an id is replaced in a path that no template fits. */
  hidesIds: bool = false;
  /** Where Envoy's jwt_authn leaves the payload: its `payload_in_metadata`. */
  jwtKey: string = "payload";
  jwtSubject: u32 = KEEP_HASH;
  /** The key of all hashes, or null. */
  hashKey: Key | null = null;
  /** SHA-256 of the texts with the rules in force, in hex. */
  policyDigests: string[] = [];
  /** At a listener: only what never became HTTP is written. */
  atListener: bool = false;
  /** Streams that get an entry when they begin: 0 none, 1 long ones, 2 all. */
  requestStart: u32 = 0;
  /** Bodies that are hashed: 0 none, 1 those of routes that say so, 2 all but those of routes that say not to. */
  bodyDigests: u32 = 0;
  /** Name of the response header with the stream's id, or "". */
  idHeader: string = "";
}

const KNOWN: string =
  "cluster, authority, tickMs, batchBytes, bufferBytes, timeoutMs, heartbeatMs, delivery, moduleDigest, " +
  "enforceMs, spill, batchKey, batchKeyEnv, signKeyEnv, signKeyId, groups, auditGroups, requestHeaders, " +
  "responseHeaders, queryKeys, paths, otherPaths, jwtKey, jwtSubject, hashKey, hashKeyEnv, policyDigests, " +
  "place, requestStart, bodyDigests, idHeader";

/** What is wrong with the last configuration that was parsed, or "". */
export let problem: string = "";

/** Returns the configuration that host.data holds, or null with `problem` set. Nothing at all means the defaults. */
export function parseConfig(): Config | null {
  const config = new Config();
  json.begin(data, size as u32);
  if (!json.isAtEnd()) readObject(config);
  if (json.problem === "") check(config);
  problem = json.problem;
  return problem === "" ? config : null;
}

function readObject(config: Config): void {
  if (!json.eat(0x7b)) return json.fail("the configuration must be a JSON object");
  if (!json.eat(0x7d)) {
    let seen = ",";
    for (;;) {
      const key = json.text();
      if (json.problem !== "") return;
      if (seen.includes("," + key + ",")) return json.fail(key + ": is given twice");
      seen += key + ",";
      if (!json.eat(0x3a)) return json.fail(key + ": a colon must follow");
      set(config, key);
      if (json.problem !== "") return;
      if (json.eat(0x7d)) break;
      if (!json.eat(0x2c)) return json.fail("a comma or } must follow the value of " + key);
    }
  }
  if (!json.isAtEnd()) json.fail("something follows the JSON object");
}

function set(config: Config, key: string): void {
  if (key === "tickMs") config.tickMs = json.number(key, 10, 10_000);
  else if (key === "batchBytes") config.batchBytes = json.number(key, 4096, 900_000);
  else if (key === "bufferBytes") config.bufferBytes = json.number(key, 65_536, 256 << 20);
  else if (key === "timeoutMs") config.timeoutMs = json.number(key, 100, 60_000);
  else if (key === "heartbeatMs") config.heartbeatMs = json.number(key, 1000, 60_000);
  else if (key === "cluster") config.cluster = named(key);
  else if (key === "authority") config.authority = named(key);
  else if (key === "delivery") {
    config.delivery = json.text();
    if (json.problem === "" && modeOf(config.delivery) === 0) {
      const allowed = '" is not allowed: "enforced", "bounded-loss" and "best-effort" are';
      json.fail('delivery: "' + config.delivery + allowed);
    }
  } else if (key === "enforceMs") config.enforceMs = json.number(key, 100, 600_000);
  else if (key === "spill") config.spill = json.bool_(key);
  else if (key === "batchKey") config.batchKey = secret(key, json.text());
  else if (key === "batchKeyEnv") config.batchKey = secret(key, variable(key));
  else if (key === "signKeyEnv") config.signKey = variable(key);
  else if (key === "signKeyId") {
    config.signKeyId = named(key);
    // It stands in a line of Envoy's log, between spaces.
    if (config.signKeyId.includes(" ")) json.fail(key + ": must have no spaces");
  } else if (key === "moduleDigest") config.moduleDigest = digest(key, json.text());
  else setFacts(config, key);
}

function setFacts(config: Config, key: string): void {
  if (key === "groups") config.groups = GROUP_CORE | groups(key);
  else if (key === "auditGroups") config.auditGroups = groups(key);
  else if (key === "requestHeaders") config.requestHeaders = captures(key);
  else if (key === "responseHeaders") config.responseHeaders = captures(key);
  else if (key === "queryKeys") config.queryKeys = json.bool_(key);
  else if (key === "paths") config.paths = templates(key);
  else if (key === "otherPaths") config.hidesIds = oneOf(key, "keep", "hide-ids") === "hide-ids";
  else if (key === "jwtKey") config.jwtKey = named(key);
  else if (key === "jwtSubject") {
    const word = oneOf(key, "hmac", "plain", "none");
    config.jwtSubject = word === "plain" ? KEEP_PLAIN : word === "none" ? KEEP_NOT : KEEP_HASH;
  } else if (key === "hashKey") config.hashKey = secret(key, json.text());
  else if (key === "hashKeyEnv") config.hashKey = secret(key, variable(key));
  else if (key === "policyDigests") {
    config.policyDigests = json.list(key);
    if (config.policyDigests.length > (MAX_POLICIES as i32)) {
      json.fail(key + ": has more than " + MAX_POLICIES.toString() + " items");
    }
    for (let i = 0; i < config.policyDigests.length; i++) digest(key, config.policyDigests[i]);
  } else setStreams(config, key);
}

function setStreams(config: Config, key: string): void {
  if (key === "place") config.atListener = oneOf(key, "http", "listener") === "listener";
  else if (key === "requestStart") {
    const word = oneOf(key, "none", "long", "all");
    config.requestStart = word === "all" ? 2 : word === "long" ? 1 : 0;
  } else if (key === "bodyDigests") {
    const word = oneOf(key, "none", "routes", "all");
    config.bodyDigests = word === "all" ? 2 : word === "routes" ? 1 : 0;
  } else if (key === "idHeader") {
    config.idHeader = named(key);
    if (!isHeaderName(config.idHeader) || config.idHeader.startsWith(":"))
      json.fail(key + ": " + config.idHeader + ": a name has 1 to 64 characters, in lower case");
  } else json.fail(key + ": unknown key; known are " + KNOWN);
}

function check(config: Config): void {
  if (config.batchBytes === 0) config.batchBytes = min(131_072, config.bufferBytes / 2);
  if (config.bufferBytes < 2 * config.batchBytes) {
    const bytes = config.bufferBytes.toString();
    json.fail("bufferBytes: " + bytes + " is less than twice batchBytes");
  }
  if (config.signKey !== "" && config.signKeyId === "")
    json.fail("signKeyEnv: needs a signKeyId, by which verifiers find the public key");
  if (config.hashKey !== null) return;
  const asHash = "hmac needs a key: give hashKey or hashKeyEnv";
  for (let i = 0; i < config.requestHeaders.length; i++) {
    if (config.requestHeaders[i].keep === KEEP_HASH) json.fail("requestHeaders: " + asHash);
  }
  for (let i = 0; i < config.responseHeaders.length; i++) {
    if (config.responseHeaders[i].keep === KEEP_HASH) json.fail("responseHeaders: " + asHash);
  }
}

/** A key never stands in a sentence: the log that it would go to is read by others. */
function secret(key: string, value: string): Key | null {
  if (json.problem !== "") return null;
  const found = readKey(value);
  if (found === null) json.fail(key + ": is not " + KEY_FORM);
  return found;
}

/** The value of an environment variable that the configuration names: it must be there. */
function variable(key: string): string {
  const name = named(key);
  if (json.problem !== "") return "";
  const value = environment(name);
  if (value === null) json.fail(key + ": the host gives no environment variable " + name);
  return value === null ? "" : value;
}

function groups(key: string): u32 {
  const words = json.list(key);
  let mask: u32 = 0;
  for (let i = 0; i < words.length; i++) {
    const at = GROUP_NAMES.indexOf(words[i]);
    if (at < 0) json.fail(key + ": " + words[i] + " is none of " + GROUP_NAMES.join(", "));
    else mask |= 1 << at;
  }
  return mask;
}

function captures(key: string): Capture[] {
  const items = json.pairs(key);
  const found: Capture[] = [];
  if (items.length > 2 * (MAX_HEADERS as i32))
    json.fail(key + ": has more than " + MAX_HEADERS.toString() + " headers");
  for (let i = 0; i + 1 < items.length && json.problem === ""; i += 2) {
    const name = items[i];
    const word = items[i + 1];
    if (!isHeaderName(name))
      json.fail(key + ": " + name + ": a name has 1 to 64 characters, in lower case");
    const keep =
      word === "plain"
        ? KEEP_PLAIN
        : word === "hmac"
          ? KEEP_HASH
          : word === "present"
            ? KEEP_PRESENT
            : KEEP_NOT;
    if (keep === KEEP_NOT) json.fail(key + ": " + name + ": must be plain, hmac or present");
    if (keep === KEEP_PLAIN && SECRETS.includes(name)) {
      json.fail(key + ": " + name + " carries credentials: it can be hmac or present, never plain");
    }
    found.push(new Capture(name, keep));
  }
  return found;
}

function isHeaderName(name: string): bool {
  for (let i = 0; i < name.length; i++) {
    const c = name.charCodeAt(i);
    if (c <= 0x20 || c > 0x7e || (c >= 0x41 && c <= 0x5a)) return false;
  }
  return name.length > 0 && name.length <= (MAX_KEY_NAME as i32);
}

function templates(key: string): string[] {
  const found = json.list(key);
  for (let i = 0; i < found.length; i++) {
    const parts = found[i].split("/");
    if (!found[i].startsWith("/"))
      json.fail(key + ": " + found[i] + " does not begin with a slash");
    for (let j = 1; j < parts.length; j++) {
      const part = parts[j];
      const isName = part.startsWith("{") && part.endsWith("}") && part.length > 2;
      if (!isName && (part.includes("{") || part.includes("}")))
        json.fail(key + ": " + found[i] + ": braces must enclose a whole part of the path");
      if (part === "*" && j !== parts.length - 1)
        json.fail(key + ": " + found[i] + ": * can only be the last part");
    }
  }
  return found;
}

function digest(key: string, value: string): string {
  let isDigest = value.length === 64;
  for (let i = 0; i < 64 && isDigest; i++) {
    const c = value.charCodeAt(i);
    isDigest = (c >= 0x30 && c <= 0x39) || (c >= 0x61 && c <= 0x66);
  }
  if (!isDigest) json.fail(key + ': "' + value + '" is not 64 lower-case hex digits');
  return value;
}

function oneOf(key: string, first: string, second: string = "", third: string = ""): string {
  const value = json.text();
  if (json.problem !== "" || value === first) return value;
  if ((second !== "" && value === second) || (third !== "" && value === third)) return value;
  let allowed = '"' + first + '"';
  if (second !== "") allowed += ', "' + second + '"';
  if (third !== "") allowed += ', "' + third + '"';
  const verb = second === "" ? " is" : " are";
  json.fail(key + ': "' + value + '" is not allowed: ' + allowed + verb);
  return value;
}

function named(key: string): string {
  const value = json.text();
  if (value.length === 0 || value.length > 255) json.fail(key + ": must have 1 to 255 characters");
  return value;
}
