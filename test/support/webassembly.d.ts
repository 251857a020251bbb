/** What of the WebAssembly API the tests use: TypeScript has it only with the types of a browser. */
declare namespace WebAssembly {
  type Descriptor = { readonly module: string; readonly name: string; readonly kind: string };
  class Module {
    static imports(module: Module): Descriptor[];
    static exports(module: Module): Descriptor[];
  }
  function compile(bytes: Uint8Array): Promise<Module>;
}
