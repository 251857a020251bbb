/** What asc calls where it would throw: `--use abort=filter/abort/abort`. Without it the module imports env.abort, which Envoy does not have. */
export function abort(_message: usize, _file: usize, _line: u32, _column: u32): void {
  unreachable();
}
