/**
 * Reads JSON (RFC 8259), strictly, and no more of it than a configuration needs: an object of strings, whole numbers, true
 * and false, lists of strings, and objects of strings. What is wrong goes into `problem`, as one sentence, and reading ends.
 */

/** The longest string, and the most items of a list or an object, that any setting takes. */
const MAX_STRING: u32 = 8192;
const MAX_ITEMS: i32 = 64;

/** What is wrong, or "". Whoever reads goes on only while it is "". */
export let problem: string = "";

let from: usize = 0;
let size: u32 = 0;
let at: u32 = 0;

/** Begins to read `bytes` bytes. */
export function begin(text: usize, bytes: u32): void {
  problem = "";
  from = text;
  size = bytes;
  at = 0;
}

/** Says what is wrong, unless something was wrong before. */
export function fail(reason: string): void {
  if (problem === "") problem = reason;
}

export function isAtEnd(): bool {
  space();
  return at === size;
}

function peek(): u8 {
  return at < size ? load<u8>(from + at) : 0;
}

/** Moves past white space and then past `byte`, if it is there. */
export function eat(byte: u8): bool {
  space();
  if (at >= size || peek() !== byte) return false;
  at++;
  return true;
}

function space(): void {
  while (at < size) {
    const c = peek();
    if (c !== 0x20 && c !== 0x09 && c !== 0x0a && c !== 0x0d) return;
    at++;
  }
}

/** Reads a string of printable ASCII; of escapes it knows \" \\ \/ and \n, which a PEM key needs. */
export function text(): string {
  if (problem !== "") return "";
  space();
  const start = at;
  if (!eat(0x22)) {
    fail("a string in quotes is expected at byte " + at.toString());
    return "";
  }
  let value = "";
  let run = at;
  for (;;) {
    if (at >= size || at - start > MAX_STRING) {
      fail("the string at byte " + start.toString() + " has no end or is too long");
      return "";
    }
    const c = peek();
    if (c === 0x22) break;
    if (c < 0x20 || c > 0x7e) {
      fail("the string at byte " + start.toString() + " holds a character that is not allowed");
      return "";
    }
    at++;
    if (c !== 0x5c) continue;
    value += String.UTF8.decodeUnsafe(from + run, at - 1 - run);
    const escaped = peek();
    if (escaped === 0x6e) value += "\n";
    else if (escaped === 0x22 || escaped === 0x5c || escaped === 0x2f)
      value += String.fromCharCode(escaped);
    else {
      fail("the string at byte " + start.toString() + " holds an escape that is not allowed");
      return "";
    }
    at++;
    run = at;
  }
  value += String.UTF8.decodeUnsafe(from + run, at - run);
  at++;
  return value;
}

/** Reads a whole number from `least` to `most`. */
export function number(key: string, least: u32, most: u32): u32 {
  if (problem !== "") return least;
  space();
  const start = at;
  let value: u64 = 0;
  while (at < size && peek() >= 0x30 && peek() <= 0x39 && at - start < 10) {
    value = value * 10 + (peek() - 0x30);
    at++;
  }
  const digits = at - start;
  const c = peek();
  const isWhole = c === 0x2c || c === 0x7d || c === 0x20 || c === 0x0a || c === 0x0d || c === 0x09;
  const isPlain = digits > 0 && (digits === 1 || load<u8>(from + start) !== 0x30) && isWhole;
  if (!isPlain || value < least || value > most) {
    const range = least.toString() + " to " + most.toString();
    fail(key + ": " + given(start) + " is not a whole number from " + range);
    return least;
  }
  return value as u32;
}

/** Reads true or false. */
export function bool_(key: string): bool {
  if (problem !== "") return false;
  space();
  const start = at;
  while (at < size && peek() >= 0x61 && peek() <= 0x7a) at++;
  const word = String.UTF8.decodeUnsafe(from + start, at - start);
  if (word === "true") return true;
  if (word !== "false") fail(key + ": " + given(start) + " is neither true nor false");
  return false;
}

/** Reads a list of strings. */
export function list(key: string): string[] {
  const items: string[] = [];
  if (!eat(0x5b)) fail(key + ": must be a list of strings");
  if (problem !== "" || eat(0x5d)) return items;
  do {
    items.push(text());
    if (items.length > MAX_ITEMS) fail(key + ": has more than " + MAX_ITEMS.toString() + " items");
  } while (problem === "" && eat(0x2c));
  if (!eat(0x5d)) fail(key + ": a comma or ] must follow each item");
  return items;
}

/** Reads an object of strings as name, value, name, value. No name twice. */
export function pairs(key: string): string[] {
  const items: string[] = [];
  if (!eat(0x7b)) fail(key + ": must be an object of strings");
  if (problem !== "" || eat(0x7d)) return items;
  do {
    const name = text();
    for (let i = 0; i < items.length; i += 2) {
      if (items[i] === name) fail(key + ": " + name + " is given twice");
    }
    if (!eat(0x3a)) fail(key + ": a colon must follow " + name);
    items.push(name);
    items.push(text());
    if (items.length > 2 * MAX_ITEMS)
      fail(key + ": has more than " + MAX_ITEMS.toString() + " items");
  } while (problem === "" && eat(0x2c));
  if (!eat(0x7d)) fail(key + ": a comma or } must follow each item");
  return items;
}

/** What stands at `start`, for a sentence. */
function given(start: u32): string {
  let end = start;
  while (end < size && end - start < 20) {
    const b = load<u8>(from + end);
    if (b === 0x2c || b === 0x7d || b < 0x20 || b > 0x7e) break;
    end++;
  }
  return String.UTF8.decodeUnsafe(from + start, end - start);
}
