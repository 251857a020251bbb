/** Types of setup.mjs, which is plain JavaScript since nothing is installed yet when it runs. */
export const ROOT: string;
export function fail(sentence: string): never;
export function installPackages(): void;
export const MODULES: Readonly<Record<string, string>>;
export function buildFilter(): void;
