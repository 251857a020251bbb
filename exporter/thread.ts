/** Starts threads of the exporter. */
import { Worker } from "node:worker_threads";

/** Starts `file` (a URL without extension) on a thread of its own: TypeScript in a checkout, JavaScript in the package. */
export function startThread(file: URL, workerData: unknown): Worker {
  const extension = import.meta.url.slice(-3);
  const main = new URL(file.href + extension);
  if (extension !== ".ts") return new Worker(main, { workerData });
  // On Node 20 a thread does not inherit the loader that runs TypeScript.
  const loader = JSON.stringify(import.meta.resolve("tsx/esm/api"));
  const code = `import { register } from ${loader}; register(); await import(${JSON.stringify(main.href)});`;
  return new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`), { workerData });
}
