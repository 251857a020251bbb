import { defineConfig } from "vitest/config";

/** `main` is what `npm test` runs; the others need more than Node and Envoy: scripts/test.mjs says what. */
export default defineConfig({
  test: {
    testTimeout: 60_000,
    hookTimeout: 120_000,
    projects: [
      { extends: true, test: { name: "main", include: ["test/*.test.ts"] } },
      { extends: true, test: { name: "interop", include: ["test/interop/*.test.ts"] } },
      { extends: true, test: { name: "cluster", include: ["test/cluster/*.test.ts"] } },
      {
        extends: true,
        test: { name: "crash", include: ["test/crash/*.test.ts"], maxConcurrency: 3 },
      },
      { extends: true, test: { name: "stores", include: ["test/stores/*.test.ts"] } },
      { extends: true, test: { name: "mesh", include: ["test/mesh/*.test.ts"] } },
    ],
  },
});
