/** Envoy's admin address, of which nothing is believed: every page has a bound in time and size. */
import { request } from "undici";
import { isObject, listAt } from "./plugins.ts";

const TIMEOUT_MS = 10_000;
const MAX_PAGE_BYTES = 256 << 20;

export class Admin {
  readonly #base: string;
  readonly #pages = new Map<string, Promise<unknown>>();

  constructor(base: string) {
    this.#base = base.replace(/\/$/, "");
  }

  async text(path: string): Promise<{ text: string; date: string | undefined }> {
    const answer = await request(`${this.#base}${path}`, {
      headersTimeout: TIMEOUT_MS,
      bodyTimeout: TIMEOUT_MS,
    });
    const parts: Buffer[] = [];
    let bytes = 0;
    for await (const part of answer.body as AsyncIterable<Buffer>) {
      bytes += part.length;
      if (bytes > MAX_PAGE_BYTES) throw new Error(`${path} has more than ${MAX_PAGE_BYTES} bytes`);
      parts.push(part);
    }
    if (answer.statusCode !== 200)
      throw new Error(`${this.#base}${path} answers ${answer.statusCode}`);
    const { date } = answer.headers;
    return {
      text: Buffer.concat(parts).toString("utf8"),
      date: typeof date === "string" ? date : undefined,
    };
  }

  /** A page is read once for all checks: they speak of one moment. */
  json(path: string): Promise<unknown> {
    const page =
      this.#pages.get(path) ?? this.text(path).then(({ text }) => JSON.parse(text) as unknown);
    this.#pages.set(path, page);
    return page;
  }

  async stats(): Promise<Map<string, number>> {
    return numbers(await this.json("/stats?format=json"));
  }

  /** As they are now, for what is watched over time. */
  async statsNow(): Promise<Map<string, number>> {
    const { text } = await this.text("/stats?format=json");
    return numbers(JSON.parse(text));
  }

  /** Of each cluster the counts of its hosts, summed: `rq_total`, `cx_connect_fail` and others. No setting leaves them out. */
  async clustersNow(): Promise<Map<string, Map<string, number>>> {
    const { text } = await this.text("/clusters?format=json");
    const clusters = new Map<string, Map<string, number>>();
    for (const status of listAt(JSON.parse(text), "cluster_statuses")) {
      if (!isObject(status) || typeof status["name"] !== "string") continue;
      const sums = new Map<string, number>();
      for (const host of listAt(status, "host_statuses")) {
        for (const stat of listAt(host, "stats")) {
          if (!isObject(stat) || typeof stat["name"] !== "string") continue;
          // A count is a text there, and left out where it is 0.
          const value = Number(stat["value"] ?? 0);
          if (Number.isSafeInteger(value))
            sums.set(stat["name"], (sums.get(stat["name"]) ?? 0) + value);
        }
      }
      clusters.set(status["name"], sums);
    }
    return clusters;
  }

  dump(): Promise<unknown> {
    return this.json("/config_dump");
  }
}

function numbers(page: unknown): Map<string, number> {
  return new Map(
    listAt(page, "stats").flatMap((stat) =>
      isObject(stat) && typeof stat["name"] === "string" && typeof stat["value"] === "number"
        ? [[stat["name"], stat["value"]] as const]
        : [],
    ),
  );
}
