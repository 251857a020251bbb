/** What of the WebAssembly API the tests use: TypeScript has it only with the types of a browser. */
declare namespace WebAssembly {
  type Descriptor = { readonly module: string; readonly name: string; readonly kind: string };
  type Module = { readonly module: unique symbol };
  const Module: {
    imports(module: Module): Descriptor[];
    exports(module: Module): Descriptor[];
  };
  function compile(bytes: Uint8Array): Promise<Module>;
  function instantiate(module: Module, imports: object): Promise<{ readonly exports: unknown }>;
}
