import { spawnSync } from "node:child_process";
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { request } from "undici";
import { afterEach, beforeEach, expect, test } from "vitest";
import { BATCH_TYPE } from "../../record/wire.ts";
import { startEnvoy } from "../../scripts/demo/envoy.ts";
import { runLoad } from "../../scripts/demo/load.ts";
import { startUpstream } from "../../scripts/demo/upstream.ts";
import { makeChain } from "../support/chains.ts";
import { startExporter } from "../support/exporter.ts";
import { checkLog } from "../support/log.ts";
import { openRig } from "../support/rig.ts";

// On a small file system of its own (tmpfs), which a ballast file fills.

let root = "";
let disk = "";

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "meshseal-full-"));
  disk = join(root, "disk");
  mkdirSync(disk);
  const run = spawnSync("mount", ["-t", "tmpfs", "-o", "size=16m", "meshseal-test", disk]);
  if (run.status !== 0) throw new Error(`mount: ${run.stderr}`);
});

afterEach(() => {
  spawnSync("umount", [disk]);
  rmSync(root, { recursive: true, force: true });
});

/** Fills the disk but for `free` bytes. */
function fill(free: number): void {
  const { bavail, bsize } = statfsSync(disk);
  writeFileSync(join(disk, "ballast"), Buffer.alloc(Math.max(0, bavail * bsize - free)));
}

/** Fills what has become free since. */
function topUp(): void {
  const { bavail, bsize } = statfsSync(disk);
  try {
    if (bavail > 0) appendFileSync(join(disk, "ballast"), Buffer.alloc(bavail * bsize));
  } catch {
    // The exporter was quicker: it is full.
  }
}

const makeRoom = (): void => rmSync(join(disk, "ballast"));

test("a full disk: 503, the chains wait in the proxy, nothing is corrupt, and it goes on by itself", async () => {
  const exporter = await startExporter({
    dir: join(disk, "data"),
    args: ["--checkpoint-ms", "100"],
  });
  const upstream = await startUpstream();
  const envoy = await startEnvoy({
    dir: root,
    upstreamPort: upstream.port,
    exporterPort: Number(new URL(exporter.url).port),
  });
  try {
    let sent = await runLoad({ port: envoy.port, upstream, seconds: 1, rate: 100 });
    expect(await envoy.settled(30_000)).toBe(true);
    fill(0);
    sent += await runLoad({ port: envoy.port, upstream, seconds: 3, rate: 200 });
    const post = async (body: Uint8Array): ReturnType<typeof request> => {
      const answer = await request(`${exporter.url}/v1/batches`, {
        method: "POST",
        headers: { "content-type": BATCH_TYPE },
        body: Buffer.from(body),
      });
      await answer.body.dump();
      return answer;
    };
    const hundred = (): Uint8Array =>
      makeChain({ batches: 1, perBatch: 100, entryBytes: 300 })[0] ?? new Uint8Array();
    // Partial tiles that go make room again: the disk is kept full, and there is always something to write.
    const posts: ReturnType<typeof post>[] = [];
    for (;;) {
      topUp();
      posts.push(post(hundred()));
      const ready = await request(`${exporter.url}/readyz`);
      const { reasons } = (await ready.body.json()) as { reasons: string[] };
      if (reasons.includes("the disk is full")) break;
      await sleep(100);
    }
    const batch = hundred();
    const refused = await post(batch);
    expect(refused.statusCode).toBe(503);
    expect(refused.headers).toMatchObject({ "meshseal-refusal": "busy", "retry-after": "1" });
    const while_ = await checkLog(exporter.dir);
    expect(while_.entries["request"]).toBeLessThan(sent);
    makeRoom();
    expect(await envoy.settled(60_000)).toBe(true);
    const taken = [await post(batch), ...(await Promise.all(posts))].filter(
      ({ statusCode }) => statusCode === 200,
    );
    expect(taken.length).toBeGreaterThan(0);
    await envoy.stop();
    expect(await exporter.stop()).toBe(0);
    const report = await checkLog(exporter.dir);
    // All that Envoy logged, and what this test sent itself.
    expect(report.entries["request"]).toBe(sent + 99 * taken.length);
    expect(report.gaps.count).toBe(0);
  } finally {
    await envoy.stop();
    await exporter.stop();
    await upstream.stop();
  }
}, 240_000);

test("a disk that is full at any point, to the page: nothing ends, and all of it is there when there is room", async () => {
  for (let pages = 0; pages < 24; pages += 3) {
    const dir = join(disk, `rig-${pages}`);
    let fatal: unknown = null;
    const rig = await openRig(dir, 16 * 1024, (error) => {
      fatal = error;
    });
    const chain = makeChain({ batches: 8, perBatch: 40, entryBytes: 200 });
    expect(await rig.send(chain[0] as Uint8Array)).not.toBeNull();
    await rig.publish();
    fill(pages * 4096);
    // The first that meets the full disk waits in the log; a proxy would be told to wait from then on.
    const waiting = (async () => {
      for (const batch of chain.slice(1)) {
        for (;;) {
          const receipt = await rig.send(batch);
          if (receipt !== null || fatal !== null) break;
          await sleep(100);
        }
        await rig.publish();
      }
    })();
    await Promise.race([waiting, sleep(1200)]);
    makeRoom();
    await waiting;
    await rig.close();
    expect(fatal, `with ${pages} pages free`).toBeNull();
    expect((await checkLog(dir)).entries["request"]).toBe(8 * 40 - 1);
    for (const path of [dir, `${dir}.index`]) rmSync(path, { recursive: true, force: true });
  }
}, 240_000);
