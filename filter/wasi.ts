/** What WASI gives. In a file of its own, since Biome reads no decorator in front of a function. */

// @ts-expect-error: a decorator of AssemblyScript
@external("wasi_snapshot_preview1", "random_get")
export declare function random_get(to: usize, size: usize): u32;

// @ts-expect-error: a decorator of AssemblyScript
@external("wasi_snapshot_preview1", "environ_sizes_get")
export declare function environ_sizes_get(count: usize, bytes: usize): u32;

// @ts-expect-error: a decorator of AssemblyScript
@external("wasi_snapshot_preview1", "environ_get")
export declare function environ_get(pointers: usize, text: usize): u32;
