/** What of the WebAssembly API exporter and tests use: TypeScript has it only with the types of a browser. */
declare namespace WebAssembly {
  type Descriptor = { readonly module: string; readonly name: string; readonly kind: string };
  class Module {
    constructor(bytes: Uint8Array);
    static imports(module: Module): Descriptor[];
    static exports(module: Module): Descriptor[];
  }
  class Instance {
    constructor(module: Module);
    readonly exports: unknown;
  }
  type Memory = { readonly buffer: ArrayBuffer; readonly grow: (pages: number) => number };
  function compile(bytes: Uint8Array): Promise<Module>;
  function instantiate(module: Module, imports: object): Promise<{ readonly exports: unknown }>;
}
