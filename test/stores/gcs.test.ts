import { expect, test } from "vitest";
import type { BucketView } from "../../exporter/audit/bucket-source.ts";
import { openSource } from "../../exporter/audit/source.ts";
import { verifyLog } from "../../exporter/audit/verify.ts";
import { provesImmutable } from "../../exporter/doctor/bucket.ts";
import { parseVkey, type Verifier } from "../../exporter/log/note.ts";
import { openService } from "../../exporter/store/settings.ts";
import { cloudRig, DAY_MS, doctored, HOME, holdsLogs, pruned } from "../support/cloud-rig.ts";

// fake-gcs-server 1.56.1, as tried: `ifGenerationMatch` is right, also among many at the same time. Versions are kept (in its
// store in memory only). MD5 of what it is sent is checked. A retention is taken and shown, cannot become Unlocked, and
// the version is deleted all the same. It says yes to a temporary hold and forgets it. Object retention of a bucket, and soft
// delete, are no fields it has.
const rig = cloudRig("fake-gcs-server");
holdsLogs("fake-gcs-server", rig);

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
  const removed = new Map([
    ["log/tile/entries/000", until],
    ["log/tile/entries/000.p/7", until],
    ["log/tile/entries/001", until],
  ]);
  const bucket = { ...(source.bucket as BucketView), removed };
  const log = parseVkey(vkey) as Verifier;
  const report = await verifyLog({ ...source, bucket }, { log });
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
