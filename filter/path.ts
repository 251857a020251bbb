/** Paths: the query's names without its values, and templates in place of ids. Whatever a path holds was chosen by the client. */
import {
  F_PATH_VALUE,
  F_QUERY_KEY,
  MAX_KEY_NAME,
  MAX_PATH_VALUES,
  MAX_QUERY_KEYS,
} from "../record/fields";
import { noteCut, putBytes } from "./entry";
import * as hash from "./hash";
import { allocate, isText, Text } from "./host";

const SLASH: u8 = 0x2f;
const ID = new Text("{id}");

/** A configured path, by its parts between slashes. */
class Template {
  parts: Text[] = [];
  isName: bool[] = [];
  /** The last part is "*": what follows stays as it is. */
  isOpen: bool = false;
  bytes: u32;
  constructor(text: string) {
    this.bytes = text.length as u32;
    const parts = text.split("/");
    for (let i = 1; i < parts.length; i++) {
      if (parts[i] === "*") {
        this.isOpen = true;
        break;
      }
      this.parts.push(new Text(parts[i]));
      this.isName.push(parts[i].startsWith("{"));
    }
  }
}

let templates: Template[] = [];
let hidesIds: bool = false;

/** What the last call of `render` found. */
export let at: usize = 0;
export let bytes: u32 = 0;
/** True if any path of this request had values replaced. */
export let isTemplate: bool = false;

/** How many values this render replaced. */
let replaced: u32 = 0;
// The values that are kept: those of the first path that has any.
let values: u32 = 0;
let isKept: bool = false;
const VALUE_AT: StaticArray<usize> = new StaticArray<usize>(MAX_PATH_VALUES);
const VALUE_BYTES: StaticArray<u32> = new StaticArray<u32>(MAX_PATH_VALUES);

export function prepare(paths: string[], hides: bool): void {
  templates = [];
  for (let i = 0; i < paths.length; i++) templates.push(new Template(paths[i]));
  hidesIds = hides;
}

/** Returns how many bytes there are before the query. */
export function lengthOf(from: usize, size: u32): u32 {
  for (let i: u32 = 0; i < size; i++) {
    const c = load<u8>(from + i);
    if (c === 0x3f || c === 0x23) return i;
  }
  return size;
}

/** Begins a request: no value is kept yet. */
export function begin(): void {
  values = 0;
  isTemplate = false;
}

/** Leaves in at and bytes what is written of a path without query, and keeps its values unless another path's are kept. */
export function render(from: usize, size: u32): void {
  at = from;
  bytes = size;
  replaced = 0;
  isKept = values === 0;
  if (size === 0 || load<u8>(from) !== SLASH) return;
  for (let i = 0; i < templates.length; i++) {
    if (fits(unchecked(templates[i]), from, size)) return;
    replaced = 0;
    if (isKept) values = 0;
  }
  if (hidesIds) hide(from, size);
}

function fits(template: Template, from: usize, size: u32): bool {
  const to = from + size;
  const text = allocate(size + template.bytes);
  let out = text;
  let here = from;
  for (let i = 0; i < template.parts.length; i++) {
    if (here >= to) return false;
    const part = here + 1;
    here = endOfPart(part, to);
    const wanted = unchecked(template.parts[i]);
    if (unchecked(template.isName[i])) {
      if (here === part) return false;
      value(part, (here - part) as u32);
    } else if (!isText(part, here - part, wanted)) return false;
    store<u8>(out++, SLASH);
    memory.copy(out, wanted.at, wanted.bytes);
    out += wanted.bytes;
  }
  if (here !== to) {
    if (!template.isOpen) return false;
    memory.copy(out, here, to - here);
    out += to - here;
  }
  at = text;
  bytes = (out - text) as u32;
  if (replaced > 0) isTemplate = true;
  return true;
}

function endOfPart(from: usize, to: usize): usize {
  let here = from;
  while (here < to && load<u8>(here) !== SLASH) here++;
  return here;
}

function value(from: usize, size: u32): void {
  replaced++;
  if (!isKept) return;
  if (values < MAX_PATH_VALUES) {
    unchecked((VALUE_AT[values] = from));
    unchecked((VALUE_BYTES[values] = size));
  }
  values++;
}

/** Replaces each part that looks like an id. */
function hide(from: usize, size: u32): void {
  const to = from + size;
  const text = allocate(size);
  let out = text;
  let here = from;
  while (here < to) {
    const part = here + 1;
    here = endOfPart(part, to);
    const length = here - part;
    store<u8>(out++, SLASH);
    const isHidden = looksLikeId(part, length);
    if (isHidden) value(part, length as u32);
    const wanted = isHidden ? ID.at : part;
    const wantedBytes = isHidden ? (ID.bytes as usize) : length;
    memory.copy(out, wanted, wantedBytes);
    out += wantedBytes;
  }
  if (replaced === 0) return;
  at = text;
  bytes = (out - text) as u32;
  isTemplate = true;
}

/** An e-mail address; a UUID, and anything else of hex digits and dashes only, with at least six digits: numbers of accounts, cards, telephones. */
function looksLikeId(from: usize, size: usize): bool {
  let digits = 0;
  let others = 0;
  for (let i: usize = 0; i < size; i++) {
    const c = load<u8>(from + i);
    if (c === 0x40) return true;
    if (c === 0x25 && i + 2 < size && load<u16>(from + i, 1) === 0x3034) return true;
    if (c >= 0x30 && c <= 0x39) digits++;
    else if (!((c >= 0x41 && c <= 0x46) || (c >= 0x61 && c <= 0x66) || c === 0x2d)) others++;
  }
  return digits >= 6 && others === 0;
}

/** Writes the hashes of the values that are kept. */
export function putValues(): void {
  if (values === 0 || !hash.hasKey()) return;
  const count = min(values, MAX_PATH_VALUES);
  for (let i: u32 = 0; i < count; i++)
    hash.put(F_PATH_VALUE, unchecked(VALUE_AT[i]), unchecked(VALUE_BYTES[i]));
  if (values > MAX_PATH_VALUES) noteCut(F_PATH_VALUE);
}

/** Writes the names in a query, which begins at its question mark. What has no "=" may be a value, and is left out. */
export function putQueryKeys(from: usize, size: u32): void {
  if (size === 0 || load<u8>(from) !== 0x3f) return;
  let count: u32 = 0;
  let name = from + 1;
  let isName = true;
  const to = from + size;
  for (let here = name; here < to; here++) {
    const c = load<u8>(here);
    if (c === 0x23) return;
    if (c === 0x26) {
      name = here + 1;
      isName = true;
    } else if (c === 0x3d && isName) {
      isName = false;
      if (here === name) continue;
      if (count === MAX_QUERY_KEYS) return noteCut(F_QUERY_KEY);
      putBytes(F_QUERY_KEY, name, (here - name) as u32, MAX_KEY_NAME);
      count++;
    }
  }
}
