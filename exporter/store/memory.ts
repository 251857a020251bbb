/** A store that forgets: for tests. */
import type { Store } from "./store.ts";

/** Returns an empty store. */
export function memoryStore(): Store {
  const files = new Map<string, Buffer>();
  const put = async (path: string, bytes: Uint8Array): Promise<void> => {
    files.set(path, Buffer.from(bytes));
  };
  return {
    get: async (path) => files.get(path) ?? null,
    put,
    replace: put,
    removePartials: async (path) => {
      for (const name of files.keys()) if (name.startsWith(`${path}.p/`)) files.delete(name);
    },
  };
}
