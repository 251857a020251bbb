/**
 * The environment of the VM: what the host's `environment_variables` (vm_config) lets in, by WASI. Keys come this way, so that they
 * stand neither in the plugin's configuration nor in Envoy's configuration dump.
 */
import { allocate, OK } from "./host";
import { environ_get, environ_sizes_get } from "./wasi";

const COUNT: usize = memory.data(4, 4);
const BYTES: usize = memory.data(4, 4);

/** An environment of more than this many bytes is not read: Envoy passes on only what its configuration names. */
const MAX_BYTES: u32 = 1 << 20;

/** Returns the value of a variable, or null where there is none or the host gives no environment. */
export function environment(name: string): string | null {
  if (environ_sizes_get(COUNT, BYTES) !== OK) return null;
  const count = load<u32>(COUNT);
  const bytes = load<u32>(BYTES);
  if (bytes === 0 || bytes > MAX_BYTES || count > bytes) return null;
  const pointers = allocate(4 * (count as usize));
  const text = allocate(bytes);
  if (environ_get(pointers, text) !== OK) return null;
  const end = text + bytes;
  const prefix = String.UTF8.encode(name + "=");
  for (let i: usize = 0; i < (count as usize); i++) {
    const at: usize = load<u32>(pointers + 4 * i);
    if (at < text || at >= end) return null;
    let to = at;
    while (to < end && load<u8>(to) !== 0) to++;
    const length = prefix.byteLength;
    if (
      to - at >= (length as usize) &&
      memory.compare(at, changetype<usize>(prefix), length) === 0
    ) {
      return String.UTF8.decodeUnsafe(at + length, to - at - length);
    }
  }
  return null;
}
