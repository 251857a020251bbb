/** The examples in the documents about anchors and policies are read as they stand. */
import { generateKeyPairSync } from "node:crypto";
import { readFileSync } from "node:fs";
import { beforeAll, expect, test } from "vitest";
import { anchorNames, parseAnchors } from "../exporter/anchor/config.ts";
import { parsePolicy } from "../exporter/audit/policy.ts";
import { newCosigner } from "../exporter/log/cosignature.ts";
import { newSigner } from "../exporter/log/note.ts";
import { makeAuthority } from "./support/tsa.ts";

const logKey = (name: string): string => newSigner(name, Buffer.alloc(32, name)).vkey;
const cosigner = (name: string): string => newCosigner(name, Buffer.alloc(32, name), () => 1).vkey;
const witnesses = ["north", "south"].map(
  (name) => `witness ${name} ${cosigner(`wit.example/${name}`)} https://${name}.example/`,
);
let root = "";
let proxy = "";
beforeAll(() => {
  const authority = makeAuthority();
  root = readFileSync(authority.root, "utf8");
  const { publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  proxy = publicKey.export({ type: "spki", format: "pem" }).toString();
});

/** What stands in the files that the examples name. */
function file(name: string): string {
  if (name.endsWith("witnesses.policy")) return `${witnesses.join("\n")}\nquorum north\n`;
  if (name === "cart.pem") return proxy;
  if (name.endsWith(".pem")) return root;
  if (name.endsWith("peer.vkey")) return cosigner("replica.example/b/peer");
  if (name.endsWith(".vkey")) return logKey(`log.example/${name.length}`);
  if (name === "headers.txt") return `800001 ${"ab".repeat(80)}\n`;
  if (name === "seen.checkpoint") return "";
  throw new Error(`the example names ${name}, which nobody knows`);
}

function example(path: string): string {
  const [, json] = /```json\n(.*?)```/s.exec(readFileSync(path, "utf8")) ?? [];
  if (json === undefined) throw new Error(`${path} has no example`);
  return json;
}

test("docs/anchors.md", () => {
  const config = parseAnchors(example("docs/anchors.md"), file);
  expect(anchorNames(config)).toEqual([
    "witnesses",
    "freetsa",
    "bitcoin",
    "rekor",
    "archive",
    "shelf",
  ]);
  expect(config.required).toEqual(["witnesses", "freetsa"]);
});

test("docs/policy.md", () => {
  // Its key is cut short for the page.
  const json = example("docs/policy.md").replace(
    "audit.example/shop+1a2b3c4d+AQ...",
    logKey("audit.example/shop"),
  );
  const policy = parsePolicy(json, (name) => Buffer.from(file(name)));
  expect(policy.git).toMatchObject([{ name: "archive", branch: "main" }]);
  expect(policy.rekorLogs).toHaveLength(1);
  expect(policy.required.map(({ anchor }) => anchor)).toEqual(["witness", "rfc3161"]);
});
