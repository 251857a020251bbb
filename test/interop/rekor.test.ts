import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { verifyRekor } from "../../exporter/anchor/rekor-entry.ts";
import { parsePolicy } from "../../exporter/audit/policy.ts";
import { openProofs } from "../../exporter/audit/proofs.ts";
import type { VerifyReport } from "../../exporter/audit/report.ts";
import { openSource } from "../../exporter/audit/source.ts";
import { verifyLog } from "../../exporter/audit/verify.ts";
import { sha256 } from "../../exporter/log/merkle.ts";
import { newSigner, parseVkey, type Verifier } from "../../exporter/log/note.ts";
import { startExporter } from "../support/exporter.ts";
import { checkLog } from "../support/log.ts";
import { type RekorServer, startRekor } from "../support/rekor.ts";

const ORIGIN = "rekor.example";
let server: RekorServer;
let dir = "";
let log = "";

/** A log whose checkpoints went to a real Rekor v2, twice. */
beforeAll(async () => {
  server = await startRekor(ORIGIN);
  const first = await startExporter();
  ({ dir, vkey: log } = first);
  expect(await first.stop()).toBe(0);
  const anchors = join(dir, "anchors.json");
  const target = { name: "public", url: server.url, key: server.vkey, everySeconds: 0.5 };
  writeFileSync(anchors, JSON.stringify({ rekor: [target], required: ["public"] }));
  for (let i = 0; i < 2; i++) {
    // A clean stop shows the last checkpoint: each start and stop adds entries.
    const exporter = await startExporter({ dir, args: ["--anchors", anchors] });
    expect(await exporter.stop()).toBe(0);
  }
}, 600_000);
afterAll(async () => {
  await server?.stop();
  await checkLog(dir);
});

async function verified(rekorLogs: readonly string[]): Promise<VerifyReport> {
  const require_ = [{ anchor: "rekor", name: ORIGIN, maxAgeSeconds: 60 }];
  const policy = parsePolicy(
    JSON.stringify({ logs: [{ key: log }], rekorLogs, require: require_ }),
    (name) => readFileSync(name),
  );
  const proofs = await openProofs(dir);
  if (proofs === null) throw new Error("no proofs were kept");
  return await verifyLog(await openSource(dir), { policy, proofs });
}

test("its entry is verified offline by the log's key, and meets what the policy asks for", async () => {
  const report = await verified([server.vkey]);
  expect(report.findings).toEqual([]);
  const [found] = report.anchors;
  expect(found).toMatchObject({ kind: "rekor", name: ORIGIN, status: "verified" });
  expect(found?.says).toMatch(
    new RegExp(
      `^The first ${report.treeSize} entries are in the public log ${ORIGIN} at index \\d+`,
    ),
  );
});

test("without its key nothing is said; with another key of that name it is broken", async () => {
  const blind = await verified([]);
  expect(blind.verdict).toBe("cannot-say");
  expect(blind.anchors[0]).toMatchObject({ kind: "rekor", status: "not-checked" });
  const other = await verified([newSigner(ORIGIN, Buffer.alloc(32, 7)).vkey]);
  expect(other.findings[0]).toMatchObject({ severity: "tampered", cause: "anchor-broken" });
});

test("an entry does not verify once a bit of it is another", () => {
  const [day = ""] = readdirSync(join(dir, "anchors")).filter((name) => name.startsWith("2"));
  const names = readdirSync(join(dir, "anchors", day));
  const name = names.find((file) => file.endsWith(".rekor")) ?? "";
  const bytes = readFileSync(join(dir, "anchors", day, name));
  const note = readFileSync(join(dir, "anchors", day, `${name.split(".")[0]}.checkpoint`));
  const keys = [parseVkey(server.vkey) as Verifier];
  const digest = sha256(note);
  expect(verifyRekor(bytes, digest, keys).status).toBe("verified");
  const { canonicalizedBody, inclusionProof } = JSON.parse(bytes.toString());
  const other = { canonicalizedBody, inclusionProof: { ...inclusionProof, logIndex: "77" } };
  expect(verifyRekor(Buffer.from(JSON.stringify(other)), digest, keys).status).toBe("invalid");
  const body = Buffer.from(canonicalizedBody, "base64");
  body[body.length - 10] = (body[body.length - 10] ?? 0) ^ 1;
  const changed = { canonicalizedBody: body.toString("base64"), inclusionProof };
  expect(verifyRekor(Buffer.from(JSON.stringify(changed)), digest, keys).status).toBe("invalid");
  expect(verifyRekor(bytes, sha256(Buffer.from("x")), keys)).toMatchObject({ status: "invalid" });
});
