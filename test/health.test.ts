import { setTimeout as sleep } from "node:timers/promises";
import { request } from "undici";
import { expect, test } from "vitest";
import { BATCH_TYPE, RECEIPT_HEADER } from "../record/wire.ts";
import { makeChain } from "./support/chains.ts";
import { startExporter } from "./support/exporter.ts";
import { checkLog } from "./support/log.ts";

type Ready = Record<string, unknown> & { reasons: string[] };

async function ready(url: string): Promise<{ status: number; body: Ready }> {
  const answer = await request(`${url}/readyz`);
  return { status: answer.statusCode, body: (await answer.body.json()) as Ready };
}

async function post(
  url: string,
  batch: Uint8Array,
): Promise<{ status: number; hasReceipt: boolean }> {
  const answer = await request(`${url}/v1/batches`, {
    method: "POST",
    headers: { "content-type": BATCH_TYPE },
    body: Buffer.from(batch),
  });
  await answer.body.dump();
  return { status: answer.statusCode, hasReceipt: RECEIPT_HEADER in answer.headers };
}

test("a draining exporter says so while it still takes batches, then stops", async () => {
  const args = ["--health-listen", "127.0.0.1:0", "--drain-delay-ms", "60000"];
  const exporter = await startExporter({ args });
  const health = `http://${String(exporter.logged.find(({ msg }) => msg === "listening")?.["healthAddress"])}`;
  const [first, second] = makeChain({ batches: 2, perBatch: 3, entryBytes: 300 });
  if (first === undefined || second === undefined) throw new Error("no batches");
  expect(await post(exporter.url, first)).toEqual({ status: 200, hasReceipt: true });
  for (const url of [exporter.url, health]) {
    const { status, body } = await ready(url);
    expect(status).toBe(200);
    expect(body).toMatchObject({
      status: "ready",
      reasons: [],
      takesBatches: true,
      version: "0.1.0",
    });
    expect(body["uptimeMs"]).toBeGreaterThan(0);
    expect(body["checkpointAgeMs"]).toBeGreaterThanOrEqual(0);
  }

  process.kill(exporter.pid, "SIGTERM");
  let said = await ready(health);
  while (said.status === 200) {
    await sleep(20);
    said = await ready(health);
  }
  expect(said).toMatchObject({
    status: 503,
    body: { reasons: ["shutting down"], takesBatches: true },
  });
  expect((await ready(exporter.url)).status).toBe(503);
  // Load balancers have heard it; what is still on its way is taken.
  expect(await post(exporter.url, second)).toEqual({ status: 200, hasReceipt: true });
  // A second signal ends the delay.
  expect(await exporter.stop()).toBe(0);
  const report = await checkLog(exporter.dir);
  expect(report.chains.some(({ first: from, last }) => from === 0 && last === 5)).toBe(true);
});

test("the health address has health and metrics, and nothing else", async () => {
  const exporter = await startExporter({ args: ["--health-listen", "127.0.0.1:0"] });
  const health = `http://${String(exporter.logged.find(({ msg }) => msg === "listening")?.["healthAddress"])}`;
  const status = async (path: string, method: "GET" | "POST" | "HEAD" = "GET"): Promise<number> => {
    const answer = await request(`${health}${path}`, { method });
    await answer.body.dump();
    return answer.statusCode;
  };
  expect(await status("/healthz")).toBe(200);
  expect(await status("/healthz", "HEAD")).toBe(200);
  expect(await status("/metrics")).toBe(200);
  expect(await status("/log/checkpoint")).toBe(404);
  expect(await status("/v1/batches", "POST")).toBe(404);
  expect(await exporter.stop()).toBe(0);
  await checkLog(exporter.dir);
});
