import { expect, onTestFinished, test } from "vitest";
import type { BucketView } from "../../exporter/audit/bucket-source.ts";
import { parsePolicy } from "../../exporter/audit/policy.ts";
import { openSource } from "../../exporter/audit/source.ts";
import { verifyLog } from "../../exporter/audit/verify.ts";
import { bucketChecks, lockedLongEnough, provesImmutable } from "../../exporter/doctor/bucket.ts";
import { runChecks } from "../../exporter/doctor/check.ts";
import { parseVkey, type Verifier } from "../../exporter/log/note.ts";
import { openService, whereOf } from "../../exporter/store/settings.ts";
import { listsBehindAKey } from "../support/bucket-promises.ts";
import { makeChain } from "../support/chains.ts";
import { ask, cloudRig, DAY_MS, doctored, HOME, holdsLogs, pruned } from "../support/cloud-rig.ts";
import { startLocks } from "../support/gcs-locks.ts";
import { sendChain } from "../support/senders.ts";

// fake-gcs-server 1.56.1, as tried: `ifGenerationMatch` is right, also among many at the same time. Versions are kept (in its
// store in memory only). MD5 of what it is sent is checked. A retention is taken and shown, cannot become Unlocked, and
// the version is deleted all the same. It says yes to a temporary hold and forgets it. Object retention of a bucket, and soft
// delete, are no fields it has.
const rig = cloudRig("fake-gcs-server");
holdsLogs("fake-gcs-server", rig);
listsBehindAKey(async () => openService(rig.where(await rig.server().newStore())));

test("doctor says that what is locked there can be deleted", async () => {
  const named = await doctored(rig);
  expect(named("bad")).toEqual([
    "a locked version that is live cannot be deleted",
    "writing over a locked file leaves its version",
    "deleting a locked file leaves its version",
    "a locked version cannot be deleted",
    "versions can be listed, as verify needs it",
    "the bucket keeps versions and has object retention",
    "versioning cannot be suspended",
  ]);
  expect(named("unknown")).toEqual([]);
  const where = rig.where(await rig.server().newStore());
  const proof = await provesImmutable({ ...where, lockMs: DAY_MS }, "b/");
  expect(proof[0]).toMatch(
    /"a locked version that is live cannot be deleted" does not hold: .* it is gone/,
  );
});

test.concurrent("it is not called immutable; verify believes its locks, and misses what was deleted", async () => {
  const { store, vkey, ready } = await rig.logged("5");
  expect(ready["immutable"]).toMatch(
    /^no: .*"a locked version that is live cannot be deleted" does not hold/s,
  );
  const { notes } = await rig.verified(store, vkey);
  expect(notes.join("\n")).toMatch(/files are locked/);
  const there = await openService(rig.where(store));
  for await (const one of there.versions(`${HOME}log/tile/entries/000`)) await there.remove([one]);
  const { findings } = await rig.verified(store, vkey, "tampered");
  expect(findings.map(({ cause }) => cause)).toContain("bundle-missing");
  // As a list of what was softly deleted would have it: this server has none (test/cloud-requests.test.ts).
  const source = await openSource(store, rig.server().flagsAt(rig.server().endpoint));
  const until = new Date("2026-12-05T00:00:00Z");
  const asked: string[] = [];
  const findRemoved = async (path: string): Promise<Date> => {
    asked.push(path);
    return until;
  };
  const bucket = { ...(source.bucket as BucketView), findRemoved };
  const log = parseVkey(vkey) as Verifier;
  const report = await verifyLog({ ...source, bucket }, { log });
  expect(asked).toEqual(["log/tile/entries/000"]);
  expect(report.notes.filter((note) => note.includes("soft delete"))).toEqual([
    "log/tile/entries/000 was removed. The service still has it (soft delete) until 2026-12-05T00:00:00.000Z: restore it.",
  ]);
}, 300_000);

test.concurrent("verify names what was added, hidden, written over and rolled back, and reads all of it", async () => {
  const { store, vkey } = await rig.logged("0");
  const there = await openService(rig.where(store));
  const over = async (path: string, bytes: Buffer): Promise<void> => {
    const held = await there.get(`${HOME}${path}`, 1e6);
    expect(await there.swap(`${HOME}${path}`, bytes, held?.etag ?? "")).not.toBeNull();
  };
  const note = (await there.get(`${HOME}log/checkpoint`, 1e5))?.bytes ?? Buffer.of();
  await over("log/tile/0/001", Buffer.from("other"));
  await over("log/checkpoint", Buffer.from("not signed"));
  await over("log/checkpoint", note);
  await rig.server().hide(store, `${HOME}log/tile/entries/000`);
  const report = await rig.verified(store, vkey, "tampered");
  expect(report.findings.map(({ cause, file }) => `${cause} ${file}`).sort()).toEqual([
    "checkpoint log/checkpoint",
    "delete-marker log/tile/entries/000",
    "extra-version log/tile/0/001",
  ]);
  // A roll-back by who may delete versions that are not locked: the kept checkpoints remember.
  const all = [];
  for await (const version of there.versions(`${HOME}log/checkpoint`)) all.push(version);
  await there.remove(all.slice(0, -1));
  const rolled = await rig.verified(store, vkey, "tampered");
  expect(rolled.findings.map(({ cause }) => cause)).toContain("rolled-back");
}, 300_000);

test.concurrent("a log there is pruned below a hold, and verified", async () => {
  expect(await pruned(rig)).toMatchObject({ left: 0, legalHolds: null });
}, 300_000);

test.concurrent("where locks hold it is called immutable, a policy can ask for that, and what is locked stays", async () => {
  const locks = await startLocks(rig.server().port);
  onTestFinished(locks.close);
  const store = await rig.server().newStore();
  const exporter = await rig.started({ args: rig.argsOf(store, "5", [], locks.endpoint) });
  const { url, vkey } = exporter;
  const batches = makeChain({ batches: 8, perBatch: 70, entryBytes: 200 });
  await sendChain(() => url, vkey, batches, new Map());
  expect(await ask(`${url}/readyz`)).toMatchObject({ status: "ready", immutable: "yes" });
  expect(await ask(`${url}/v1/retention?below=520`, "POST")).toMatchObject({ minimumIndex: 512 });
  expect(await ask(`${url}/v1/retention`)).toMatchObject({
    left: 2,
    because: expect.stringContaining("under retention"),
  });
  expect(await exporter.stop()).toBe(0);
  const where = whereOf(store, { gcsEndpoint: locks.endpoint });
  const results = await runChecks(await bucketChecks(where, "audit.example/shop", 5));
  expect(results.filter(({ status }) => status !== "good")).toEqual([]);
  expect(results.at(-1)?.name).toBe("the log's files are locked for 5 days");
  const longer = await lockedLongEnough(await openService(where), HOME, 6).run();
  expect(longer).toMatchObject({ status: "bad" });
  const require_ = [{ anchor: "object-lock", maxAgeSeconds: 300 }];
  const text = JSON.stringify({ logs: [{ key: vkey }], require: require_ });
  const policy = parsePolicy(text, () => Buffer.alloc(0));
  const report = await verifyLog(await openSource(store, where.reach), { policy });
  expect(report.anchors[0]).toMatchObject({ kind: "object-lock", status: "verified" });
  expect(report.verdict).toBe("verified");
}, 300_000);
