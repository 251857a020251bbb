/** A Proxy-Wasm filter that does nothing, with the callbacks that ours has for each request: what the host's own part costs. */
import "../../filter/abort";

export function proxy_abi_version_0_2_1(): void {}

export function proxy_on_memory_allocate(size: usize): usize {
  return heap.alloc(size);
}

export function proxy_on_configure(_root: u32, _size: u32): u32 {
  return 1;
}

export function proxy_on_log(_context: u32): void {}

export function proxy_on_done(_context: u32): u32 {
  return 1;
}
