/** The exporter's certificate and the authorities of its clients: read from files, and again when these change. */
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { createSecureContext, type SecureContextOptions, type Server } from "node:tls";
import { MeshsealError } from "../errors.ts";

export type TlsFiles = {
  /** PEM: certificate with its chain, private key, and authorities of clients. */
  readonly cert: string;
  readonly key: string;
  readonly clientCa?: string | undefined;
};

/** How often the files are looked at, in milliseconds. cert-manager and Istio replace them long before they expire. */
const RELOAD_MS = 5_000;

/** Returns what the files hold, or throws MeshsealError that names the file that does not fit. */
export function readTls(files: TlsFiles): SecureContextOptions {
  const options: SecureContextOptions = {
    cert: read("--tls-cert", files.cert),
    key: read("--tls-key", files.key),
    minVersion: "TLSv1.2",
    ...(files.clientCa === undefined ? {} : { ca: read("--tls-client-ca", files.clientCa) }),
  };
  try {
    createSecureContext(options);
  } catch (error) {
    const reason = error instanceof Error ? error.message : error;
    throw new MeshsealError(`${files.cert} and ${files.key} do not fit together: ${reason}`);
  }
  return options;
}

/** Returns when the certificate ends, as Unix time in milliseconds. */
export function endOf(options: SecureContextOptions): number {
  return Date.parse(new X509Certificate(String(options.cert)).validTo);
}

export type TlsWatch = {
  /** Unix time in milliseconds at which the certificate in use ends. */
  readonly endsAt: () => number;
  readonly stop: () => void;
};

/**
 * Gives `server` the files' new content when they change: connections that are open go on. Files that do not fit, as in the
 * middle of a replacement, change nothing; `onProblem` gets the reason once.
 */
export function watchTls(
  files: TlsFiles,
  server: Server,
  onReload: () => void,
  onProblem: (error: unknown) => void,
): TlsWatch {
  let current = readTls(files);
  let problem = "";
  const timer = setInterval(() => {
    try {
      const next = readTls(files);
      problem = "";
      if (isSame(next, current)) return;
      server.setSecureContext(next);
      current = next;
      onReload();
    } catch (error) {
      if (String(error) === problem) return;
      problem = String(error);
      onProblem(error);
    }
  }, RELOAD_MS);
  timer.unref();
  return { endsAt: () => endOf(current), stop: () => clearInterval(timer) };
}

function isSame(a: SecureContextOptions, b: SecureContextOptions): boolean {
  return a.cert === b.cert && a.key === b.key && a.ca === b.ca;
}

function read(flag: string, path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new MeshsealError(`${flag} ${path}: ${error instanceof Error ? error.message : error}`);
  }
}
