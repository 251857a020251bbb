import { expect, test } from "vitest";
import { provesImmutable } from "../../exporter/doctor/bucket.ts";
import { openService } from "../../exporter/store/settings.ts";
import { cloudRig, DAY_MS, doctored, HOME, holdsLogs, pruned } from "../support/cloud-rig.ts";

// Azurite 3.37.0, as tried: `If-None-Match` and `If-Match` are right, also among many at the same time. MD5 is checked. A policy in
// Put Blob is taken and forgotten; Set Blob Immutability Policy and Set Blob Legal Hold answer 501. There are no versions: a
// `versionid` is taken, and the blob is deleted whatever it says. It has the archive tier.
const rig = cloudRig("azurite");
holdsLogs("azurite", rig);

test("doctor says that nothing is locked there, and what a change of tier can do", async () => {
  const named = await doctored(rig);
  expect(named("bad")).toEqual([
    "an object can be locked, so that nobody can unlock it",
    "the container has version-level immutability",
  ]);
  expect(named("good")).toContain("a file is written once");
  expect(named("good")).toContain("the checkpoint is swapped only by who has read it");
  expect(named("warning")).toEqual(["a file cannot be sent to the archive"]);
  const where = rig.where(await rig.server().newStore());
  const proof = await provesImmutable({ ...where, lockMs: DAY_MS }, "b/");
  expect(proof[0]).toMatch(/the bucket keeps no versions: nothing can be locked/);
});

test.concurrent("it is not called immutable, and verify names what its locks did not keep", async () => {
  const { store, vkey, ready } = await rig.logged("5");
  expect(ready["immutable"]).toMatch(/^no: .*keeps no versions: nothing can be locked/s);
  const { findings } = await rig.verified(store, vkey, "tampered");
  expect(findings).toContainEqual(
    expect.objectContaining({ cause: "lock-shortened", file: "log/tile/entries/000" }),
  );
}, 300_000);

test.concurrent("verify names what was deleted and written over", async () => {
  const { store, vkey } = await rig.logged("0");
  await rig.verified(store, vkey);
  const there = await openService(rig.where(store));
  const tile = await there.get(`${HOME}log/tile/0/001`, 1e6);
  await there.swap(`${HOME}log/tile/0/001`, Buffer.from("other"), tile?.etag ?? "");
  await rig.server().hide(store, `${HOME}log/tile/entries/000`);
  const { findings } = await rig.verified(store, vkey, "tampered");
  const causes = findings.map(({ cause, file }) => `${cause} ${file}`);
  expect(causes).toContain("bundle-missing tile/entries/000");
  expect(causes.join("\n")).toMatch(/tile\/0\/001/);
}, 300_000);

test.concurrent("a log there is pruned below a hold, and that no legal hold can be set is said", async () => {
  const { left, legalHolds } = await pruned(rig);
  expect(left).toBe(0);
  expect(legalHolds).toMatch(/not implemented/);
}, 300_000);
