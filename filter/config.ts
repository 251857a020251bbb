/** The plugin's configuration: one flat JSON object, strictly. A bad one is refused with a sentence, and Envoy keeps the old. */
import { modeOf } from "./delivery";
import { environment } from "./environment";
import { KEY_FORM, Key, readKey } from "./hmac";
import { data, size } from "./host";

export class Config {
  cluster: string = "meshseal";
  authority: string = "meshseal";
  tickMs: u32 = 250;
  batchBytes: u32 = 65_536;
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
}

/** What is wrong with the last configuration that was parsed, or "". */
export let problem: string = "";

let at: u32 = 0;

/** Returns the configuration that host.data holds, or null with `problem` set. Nothing at all means the defaults. */
export function parseConfig(): Config | null {
  const config = new Config();
  problem = "";
  at = 0;
  space();
  if (at === (size as u32)) return config;
  if (!eat(0x7b)) return fail("the configuration must be a JSON object");
  space();
  if (!eat(0x7d)) {
    let seen = ",";
    for (;;) {
      space();
      const key = text();
      if (problem !== "") return null;
      if (seen.includes("," + key + ",")) return fail(key + ": is given twice");
      seen += key + ",";
      space();
      if (!eat(0x3a)) return fail(key + ": a colon must follow");
      space();
      if (!set(config, key)) return null;
      space();
      if (eat(0x7d)) break;
      if (!eat(0x2c)) return fail("a comma or } must follow the value of " + key);
    }
  }
  if (config.signKey !== "" && config.signKeyId === "") {
    return fail("signKeyEnv: needs a signKeyId, by which verifiers find the public key");
  }
  space();
  if (at !== (size as u32)) return fail("something follows the JSON object");
  if (config.bufferBytes < 2 * config.batchBytes) {
    return fail("bufferBytes: " + config.bufferBytes.toString() + " is less than twice batchBytes");
  }
  return config;
}

function fail(reason: string): Config | null {
  problem = reason;
  return null;
}

function set(config: Config, key: string): bool {
  if (key === "tickMs") config.tickMs = number(key, 10, 10_000);
  else if (key === "batchBytes") config.batchBytes = number(key, 4096, 900_000);
  else if (key === "bufferBytes") config.bufferBytes = number(key, 65_536, 256 << 20);
  else if (key === "timeoutMs") config.timeoutMs = number(key, 100, 60_000);
  else if (key === "heartbeatMs") config.heartbeatMs = number(key, 1000, 60_000);
  else if (key === "cluster") config.cluster = named(key);
  else if (key === "authority") config.authority = named(key);
  else if (key === "delivery") {
    config.delivery = text();
    if (problem === "" && modeOf(config.delivery) === 0) {
      problem =
        'delivery: "' +
        config.delivery +
        '" is not allowed: "enforced", "bounded-loss" and "best-effort" are';
    }
  } else if (key === "enforceMs") config.enforceMs = number(key, 100, 600_000);
  else if (key === "spill") config.spill = boolean(key);
  else if (key === "batchKey") config.batchKey = secret(key, text());
  else if (key === "batchKeyEnv") config.batchKey = secret(key, variable(key));
  else if (key === "signKeyEnv") config.signKey = variable(key);
  else if (key === "signKeyId") {
    config.signKeyId = named(key);
    // It stands in a line of Envoy's log, between spaces.
    if (config.signKeyId.includes(" ")) problem = key + ": must have no spaces";
  } else if (key === "moduleDigest") {
    config.moduleDigest = text();
    if (problem === "" && !isDigest(config.moduleDigest)) {
      problem = 'moduleDigest: "' + config.moduleDigest + '" is not 64 lower-case hex digits';
    }
  } else {
    problem =
      key +
      ": unknown key; known are cluster, authority, tickMs, batchBytes, bufferBytes, timeoutMs, heartbeatMs, delivery, moduleDigest, enforceMs, spill, batchKey, batchKeyEnv, signKeyEnv, signKeyId";
  }
  return problem === "";
}

function secret(key: string, value: string): Key | null {
  if (problem !== "") return null;
  const found = readKey(value);
  if (found === null) problem = key + ": is not " + KEY_FORM;
  return found;
}

/** The value of an environment variable that the configuration names: it must be there. */
function variable(key: string): string {
  const name = named(key);
  if (problem !== "") return "";
  const value = environment(name);
  if (value === null) {
    problem = key + ": the host gives no environment variable " + name;
    return "";
  }
  return value;
}

function boolean(key: string): bool {
  if (word("true")) return true;
  if (!word("false")) problem = key + ": is neither true nor false";
  return false;
}

function word(expected: string): bool {
  const bytes = expected.length as u32;
  if (at + bytes > (size as u32)) return false;
  for (let i: u32 = 0; i < bytes; i++) {
    if (load<u8>(data + at + i) !== (expected.charCodeAt(i) as u8)) return false;
  }
  at += bytes;
  return true;
}

function isDigest(value: string): bool {
  if (value.length !== 64) return false;
  for (let i = 0; i < 64; i++) {
    const c = value.charCodeAt(i);
    if (!((c >= 0x30 && c <= 0x39) || (c >= 0x61 && c <= 0x66))) return false;
  }
  return true;
}

function named(key: string): string {
  const value = text();
  if (problem === "" && (value.length === 0 || value.length > 255)) {
    problem = key + ": must have 1 to 255 characters";
  }
  return value;
}

function peek(): u8 {
  return at < (size as u32) ? load<u8>(data + at) : 0;
}

function eat(byte: u8): bool {
  if (peek() !== byte || at >= (size as u32)) return false;
  at++;
  return true;
}

function space(): void {
  while (at < (size as u32)) {
    const c = peek();
    if (c !== 0x20 && c !== 0x09 && c !== 0x0a && c !== 0x0d) return;
    at++;
  }
}

/** A JSON string of printable ASCII without escapes: no key and no value here needs more. */
function text(): string {
  if (!eat(0x22)) {
    problem = "a string in quotes is expected at byte " + at.toString();
    return "";
  }
  const from = at;
  while (at < (size as u32) && peek() !== 0x22) {
    const c = peek();
    if (c < 0x20 || c > 0x7e || c === 0x5c) {
      problem = "the string at byte " + from.toString() + " holds a character that is not allowed";
      return "";
    }
    at++;
  }
  const value = String.UTF8.decodeUnsafe(data + from, at - from);
  if (!eat(0x22)) problem = "the string at byte " + from.toString() + " has no end";
  return value;
}

function number(key: string, least: u32, most: u32): u32 {
  const from = at;
  let value: u64 = 0;
  while (at < (size as u32) && peek() >= 0x30 && peek() <= 0x39 && at - from < 10) {
    value = value * 10 + (peek() - 0x30);
    at++;
  }
  const digits = at - from;
  const c = peek();
  const isWhole = c === 0x2c || c === 0x7d || c === 0x20 || c === 0x0a || c === 0x0d || c === 0x09;
  const isPlain = digits > 0 && (digits === 1 || load<u8>(data + from) !== 0x30) && isWhole;
  if (!isPlain || value < least || value > most) {
    let end = at;
    while (end < (size as u32) && end - from < 20) {
      const b = load<u8>(data + end);
      if (b === 0x2c || b === 0x7d || b < 0x20 || b > 0x7e) break;
      end++;
    }
    const given = String.UTF8.decodeUnsafe(data + from, end - from);
    problem =
      key +
      ": " +
      given +
      " is not a whole number from " +
      least.toString() +
      " to " +
      most.toString();
    return least;
  }
  return value as u32;
}
