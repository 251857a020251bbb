import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { anchorNames, parseAnchors } from "../../exporter/anchor/config.ts";
import { readSettings } from "../../exporter/config.ts";
import { newCosigner } from "../../exporter/log/cosignature.ts";
import { goTool } from "../support/go-tools.ts";

/** The ConfigMap of the chart with these values; what Helm says where it refuses them. */
function configOf(values: Readonly<Record<string, unknown>>): Record<string, string> | string {
  const sets = Object.entries(values).flatMap(([name, value]) => [
    "--set-json",
    `${name}=${JSON.stringify(value)}`,
  ]);
  const args = ["template", "meshseal", "deploy/helm/meshseal", "--kube-version", "1.31.0"];
  const { status, stdout, stderr } = spawnSync(goTool("helm"), [...args, ...sets], {
    encoding: "utf8",
  });
  if (status !== 0) return stderr;
  const documents = parseAllDocuments(stdout).map((document) => document.toJS());
  return documents.find((document) => document?.kind === "ConfigMap").data;
}

test("the chart hands on anchors with the files that they name", () => {
  const { vkey } = newCosigner("wit.example/chart", Buffer.alloc(32, 1), () => 1);
  const policy = `witness one ${vkey} https://wit.example/\nquorum one\n`;
  const data = configOf({
    anchors: { witnesses: { policy: "witnesses.policy" }, required: ["witnesses"] },
    anchorFiles: { "witnesses.policy": policy },
  });
  if (typeof data === "string") throw new Error(data);
  const settings = JSON.parse(data["meshseal.json"] ?? "");
  expect(settings.anchors).toBe("/config/anchors.json");
  const { trustXfcc, ...rest } = settings;
  expect(readSettings({ ...rest, trustXfcc: String(trustXfcc) }, {}).anchors).toBe(
    settings.anchors,
  );
  const config = parseAnchors(data["anchors.json"] ?? "", (name) => data[name] ?? "");
  expect(anchorNames(config)).toEqual(["witnesses"]);
  expect(config.witnesses?.policy.quorum).toBe("one");
});

test("and no file takes the place of its own", () => {
  expect(configOf({ anchorFiles: { "meshseal.json": "{}" } })).toContain(
    "invalid propertyName 'meshseal.json'",
  );
  expect(configOf({ anchorFiles: { "../x": "{}" } })).toContain("invalid propertyName '../x'");
  expect(configOf({})).not.toHaveProperty("anchors.json");
}, 120_000);
