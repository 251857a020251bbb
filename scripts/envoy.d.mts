/** Types of envoy.mjs, which is plain JavaScript since nothing is installed yet when it runs. */
export function findEnvoy(options?: { version?: "1.40" | "1.36" }): Promise<string>;
