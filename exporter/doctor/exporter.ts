/** Looks at a running exporter from outside: does it answer, does it take batches, is its clock right, how long do its certificates last. */
import { connect } from "node:tls";
import { Agent, request } from "undici";
import { z } from "zod";
import type { Check, Outcome } from "./check.ts";
import { bad, good, unknown, warning } from "./rules.ts";

export type ExporterOptions = {
  readonly url: string;
  /** This program's own version. */
  readonly version: string;
  /** PEM texts, for an exporter that wants a client's certificate. */
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
};

const TIMEOUT_MS = 10_000;
const LATE_CERTIFICATE_DAYS = 3;
const DAY_MS = 86_400_000;
const CLOCK_WARNING_MS = 2_000;
const CLOCK_BAD_MS = 60_000;
const LATE_CHECKPOINT_MS = 10_000;

const Ready = z.looseObject({
  reasons: z.array(z.string()),
  version: z.string().optional(),
  timeMs: z.number().optional(),
  treeSize: z.number().optional(),
  unpublished: z.number().optional(),
  checkpointAgeMs: z.number().optional(),
});

type Got = { readonly status: number; readonly text: string; readonly atMs: number };

export function exporterChecks(options: ExporterOptions): Check[] {
  const url = options.url.replace(/\/$/, "");
  const isTls = url.startsWith("https:");
  const { ca, cert, key } = options;
  const dispatcher = new Agent({
    connect: { ...(ca && { ca }), ...(cert && { cert }), ...(key && { key }) },
  });
  const get = async (path: string): Promise<Got> => {
    const answer = await request(`${url}${path}`, {
      dispatcher,
      headersTimeout: TIMEOUT_MS,
      bodyTimeout: TIMEOUT_MS,
    });
    return {
      status: answer.statusCode,
      text: (await answer.body.text()).slice(0, 1 << 20),
      atMs: Date.now(),
    };
  };
  let page: Promise<z.infer<typeof Ready> & Pick<Got, "atMs">> | undefined;
  const ready = (): NonNullable<typeof page> => {
    page ??= get("/readyz").then(({ text, atMs }) => ({ ...Ready.parse(JSON.parse(text)), atMs }));
    return page;
  };
  return [
    { name: "the exporter answers", run: () => answers(url, get) },
    { name: "the exporter takes batches", run: async () => takes(await ready()) },
    { name: "checkpoints are signed in time", run: async () => checkpoints(await ready()) },
    {
      name: "the exporter's version",
      run: async () => sameVersion((await ready()).version, options.version),
    },
    { name: "the exporter's clock", run: async () => clock(await ready()) },
    {
      name: "the exporter's certificate",
      run: async () => (isTls ? certificate(url, options) : plain(url)),
    },
  ];
}

async function answers(url: string, get: (path: string) => Promise<Got>): Promise<Outcome> {
  try {
    const { status } = await get("/healthz");
    return status === 200
      ? good(url)
      : bad(`${url}/healthz answers ${status}: is that a Meshseal exporter?`);
  } catch (error) {
    const code = String((error as { code?: unknown }).code ?? "");
    const reason = error instanceof Error ? error.message || code : String(error);
    if (code === "ECONNREFUSED")
      return bad(
        `nothing listens at ${url}: is the exporter up, and its address right (--listen, --health-listen)?`,
      );
    if (/CERT|SIGNATURE|SELF_SIGNED|ALTNAME/i.test(code))
      return bad(`its certificate is not trusted here: ${reason}. Give its authority with --ca.`);
    if (code.startsWith("ERR_SSL") || /wrong version number|packet length/i.test(reason))
      return bad(`${url} speaks no TLS: use http://.`);
    if (code === "UND_ERR_SOCKET" && url.startsWith("http:"))
      return bad(`${url} closes the connection: does it speak TLS? Use https://.`);
    return bad(`${url} cannot be reached: ${reason}`);
  }
}

function takes({ reasons }: z.infer<typeof Ready>): Outcome {
  if (reasons.length === 0) return good("it is ready.");
  const advice = reasons.includes("the disk is full")
    ? " Give it room; it goes on by itself, and proxies keep what their buffers hold."
    : reasons.includes("shutting down")
      ? " It was told to stop: send to another replica, or start it again."
      : "";
  return bad(`it is not ready: ${reasons.join("; ")}.${advice}`);
}

function checkpoints({ unpublished, checkpointAgeMs, treeSize }: z.infer<typeof Ready>): Outcome {
  if (unpublished === undefined || checkpointAgeMs === undefined)
    return unknown("it does not say.");
  if (unpublished > 0 && checkpointAgeMs > LATE_CHECKPOINT_MS)
    return bad(
      `${unpublished} entries have waited ${Math.round(checkpointAgeMs / 1000)} s for a checkpoint: its log says why.`,
    );
  return good(
    `${treeSize ?? 0} entries, the newest checkpoint is ${Math.round(checkpointAgeMs / 1000)} s old.`,
  );
}

function sameVersion(theirs: string | undefined, ours: string): Outcome {
  if (theirs === ours) return good(`${theirs}, as this command.`);
  return warning(`it is ${theirs ?? "older than this command"}, this command is ${ours}.`);
}

function clock({ timeMs, atMs }: z.infer<typeof Ready> & Pick<Got, "atMs">): Outcome {
  if (timeMs === undefined) return unknown("it does not say the time.");
  const off = Math.abs(timeMs - atMs);
  const direction = timeMs > atMs ? "ahead of" : "behind";
  if (off > CLOCK_BAD_MS)
    return bad(`it is ${Math.round(off / 1000)} s ${direction} this machine's. Use NTP on both.`);
  if (off > CLOCK_WARNING_MS)
    return warning(`it is ${(off / 1000).toFixed(1)} s ${direction} this machine's.`);
  return good("within 2 s of this machine's.");
}

function plain(url: string): Outcome {
  const { hostname } = new URL(url);
  if (/^(127\.|\[::1\]|localhost$)/.test(hostname)) return good("plain HTTP on loopback.");
  return warning(
    "plain HTTP: right behind a sidecar or for the health address only. Otherwise whoever is on the path can forge receipts.",
  );
}

function certificate(url: string, { ca, cert, key }: ExporterOptions): Promise<Outcome> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    const host = hostname.replaceAll(/[[\]]/g, "");
    const servername = /^[\d.]+$|:/.test(host) ? {} : { servername: host };
    const socket = connect({
      host,
      port: Number(port || 443),
      timeout: TIMEOUT_MS,
      rejectUnauthorized: false,
      ...servername,
      ...(ca && { ca }),
      ...(cert && { cert }),
      ...(key && { key }),
    });
    const done = (outcome: Outcome): void => {
      socket.destroy();
      resolve(outcome);
    };
    socket.once("timeout", () => done(unknown("it does not answer in time.")));
    socket.once("error", (error) => done(unknown(error.message)));
    socket.once("secureConnect", () => {
      const { valid_to: until, valid_from: from } = socket.getPeerCertificate();
      const days = (Date.parse(until) - Date.now()) / DAY_MS;
      if (days < 0)
        return done(
          bad(
            `it ended on ${until}: no proxy sends any more. Renew it; the exporter reads the files again by itself.`,
          ),
        );
      if (Date.parse(from) > Date.now())
        return done(bad(`it begins only on ${from}: is a clock wrong?`));
      if (days < LATE_CERTIFICATE_DAYS) return done(warning(`it ends in ${days.toFixed(1)} days.`));
      return done(good(`it ends in ${days.toFixed(0)} days.`));
    });
  });
}
