/**
 * Writes the examples in deploy/ with `meshseal init`: `npx tsx scripts/manifests.ts`. Digests are zeros there, since each
 * change to the filter changes them; test/install.test.ts holds the files to what init writes.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { initCommand } from "../exporter/cli/init.ts";
import { ROOT } from "./setup.mjs";

const IMAGE = ["--image", "registry.example/team/meshseal-filter"];

/** File, what it is for, and the arguments of init that make it. */
export const EXAMPLES: readonly (readonly [string, readonly string[]])[] = [
  ["deploy/istio/mesh-wide.yaml", ["istio", ...IMAGE]],
  [
    "deploy/istio/gateways.yaml",
    [
      "istio",
      ...IMAGE,
      "--gateway",
      "shop/edge",
      "--gateway",
      "shop/waypoint",
      "--gateway-label",
      "istio-ingress/istio=ingressgateway",
    ],
  ],
  [
    "deploy/istio/by-namespace.yaml",
    ["istio", ...IMAGE, "--namespace", "shop", "--namespace", "bank=enforced"],
  ],
  ["deploy/istio/for-routes.yaml", ["istio", ...IMAGE, "--namespace", "shop", "--routes-enforce"]],
  ["deploy/istio/before-1.30.yaml", ["istio", ...IMAGE, "--istio-version", "1.29"]],
  ["deploy/istio/mesh-config.yaml", ["istio", ...IMAGE, "--mesh-config"]],
  [
    "deploy/envoy-gateway/meshseal.yaml",
    ["envoy-gateway", ...IMAGE, "--gateway", "shop/edge", "--route", "pay=enforced", "--tls"],
  ],
];

/** Runs init and returns what it prints, with zeros in place of digests. */
export async function init(args: readonly string[]): Promise<string> {
  let printed = "";
  const command = initCommand((text) => {
    printed += text;
  });
  await command.parseAsync([...args], { from: "user" });
  return withoutDigests(printed);
}

/** The example of file xDS, by the names of its files: what init writes, with the checkout's module and no digest of it. */
export async function fileXds(): Promise<Map<string, string>> {
  const dir = mkdtempSync(join(tmpdir(), "meshseal-manifests-"));
  try {
    await init(["envoy", "--upstream", "127.0.0.1:8080", "--file-xds", "--out", dir]);
    return new Map(
      readdirSync(dir).map((name) => [
        name,
        readFileSync(join(dir, name), "utf8")
          .replace(join(ROOT, "build"), "../../build")
          .replace(/,"moduleDigest":"[0-9a-f]{64}"/, ""),
      ]),
    );
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

export const FILE_XDS = "envoy-configs/file-xds";

export function withoutDigests(text: string): string {
  return text.replaceAll(/\b[0-9a-f]{64}\b/g, "0".repeat(64));
}

if (process.argv[1] === import.meta.filename) {
  for (const [file, args] of EXAMPLES) {
    mkdirSync(dirname(join(ROOT, file)), { recursive: true });
    writeFileSync(join(ROOT, file), await init(args));
  }
  mkdirSync(join(ROOT, FILE_XDS), { recursive: true });
  for (const [name, text] of await fileXds()) writeFileSync(join(ROOT, FILE_XDS, name), text);
}
