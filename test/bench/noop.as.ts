/** A Proxy-Wasm filter that does nothing, with the callbacks that ours exports: what the host's own part costs. */

export function _start(): void {}

export function abort(_message: usize, _file: usize, _line: u32, _column: u32): void {
  unreachable();
}

export function proxy_abi_version_0_2_0(): void {}

export function malloc(size: usize): usize {
  return heap.alloc(size);
}

export function proxy_on_context_create(_context: u32, _parent: u32): void {}

export function proxy_on_vm_start(_root: u32, _size: u32): u32 {
  return 1;
}

export function proxy_on_configure(_root: u32, _size: u32): u32 {
  return 1;
}

export function proxy_on_log(_context: u32): void {}

export function proxy_on_done(_context: u32): u32 {
  return 1;
}

export function proxy_on_delete(_context: u32): void {}
