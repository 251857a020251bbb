/** Names of AssemblyScript's number types, for tsc only: files that both compilers read use these and no others. */
type u8 = number;
type u16 = number;
type u32 = number;
type i32 = number;
type f64 = number;
type bool = boolean;
