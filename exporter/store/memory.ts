/** A store that forgets: for tests. */
import { Conflict, type Store } from "./store.ts";

/** Returns an empty store. */
export function memoryStore(): Store {
  const files = new Map<string, Buffer>();
  return {
    get: async (path) => files.get(path) ?? null,
    put: async (path, bytes) => {
      const held = files.get(path);
      if (held !== undefined && !held.equals(bytes)) throw new Conflict(path);
      files.set(path, Buffer.from(bytes));
    },
    replace: async (path, bytes) => {
      files.set(path, Buffer.from(bytes));
    },
    sync: async () => {},
    removePartials: async (path) => {
      for (const name of files.keys()) if (name.startsWith(`${path}.p/`)) files.delete(name);
    },
  };
}
