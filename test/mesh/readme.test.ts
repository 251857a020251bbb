import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { startRegistry } from "../support/control-plane.ts";
import { goTool } from "../support/go-tools.ts";
import { commandsUnder } from "../support/readme.ts";

const ROOT = new URL("../../", import.meta.url).pathname;

function run(
  command: string,
  args: readonly string[],
  cwd = ROOT,
): { status: number | null; out: string } {
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd,
    encoding: "utf8",
    timeout: 300_000,
  });
  return { status, out: `${stdout}${stderr}` };
}

test("the README's commands for Istio, in their order, with a registry on loopback and no cluster", async () => {
  const registry = await startRegistry();
  const dir = mkdtempSync(join(tmpdir(), "meshseal-readme-"));
  onTestFinished(async () => {
    await registry.stop();
    rmSync(dir, { recursive: true, force: true });
  });
  const manifest = join(dir, "meshseal.yaml");
  const done: string[] = [];
  for (const line of commandsUnder("In Istio")) {
    const here = line
      .replace("registry.example", registry.address)
      .replace("meshseal.yaml", manifest);
    const [program = "", ...args] = here.split(" ");
    if (program === "helm") {
      // No cluster: what would be installed is rendered. The chart's own tests say what an API server makes of it.
      expect(args[0]).toBe("install");
      const { status, out } = run(goTool("helm"), [
        "template",
        ...args.slice(1),
        "--kube-version",
        "1.31.0",
      ]);
      expect(status, out).toBe(0);
      const set = parseAllDocuments(out)
        .map((document) => document.toJS())
        .find((one) => one?.kind === "StatefulSet");
      // Where a Pod would start, its command is asked for its flags.
      expect(set.spec.template.spec.containers[0].args).toEqual([
        "serve",
        "--config",
        "/config/meshseal.json",
      ]);
      done.push("helm");
    } else if (program === "npm") {
      const { status, out } = run(program, args);
      expect(status, `${here}\n${out}`).toBe(0);
      done.push(args[4] ?? "");
    } else {
      expect(here).toBe(`kubectl apply -f ${manifest}`);
      expect(existsSync(manifest)).toBe(true);
      const crds = run(goTool("meshseal-istio"), ["crds"]).out;
      expect(crds).toContain("trafficextensions.extensions.istio.io");
      done.push("kubectl");
    }
  }
  expect(done).toEqual(["helm", "push", "init", "doctor", "kubectl"]);
  // What was written is what the pushed image is.
  const { status, out } = run(goTool("meshseal-istio"), [
    "pull",
    "--modules",
    dir,
    "--sha256",
    /sha256: "(\w+)"/.exec(readFileSync(manifest, "utf8"))?.[1] ?? "",
    `oci://${registry.address}/team/meshseal-filter:0.1.0`,
  ]);
  expect(status, out).toBe(0);
}, 600_000);

test.each([
  [
    "istio",
    "Where did meshseal push put the filter",
    "registry.example/team/filter",
    "url: oci://registry.example/team/filter:",
  ],
  ["envoy", "Which service is behind Envoy", "127.0.0.1:8080", "port_value: 8080"],
])(
  "init %s asks a person at a terminal",
  (target, question, answer, written) => {
    const dir = mkdtempSync(join(tmpdir(), "meshseal-terminal-"));
    onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
    // util-linux's script gives the command a terminal; what is typed comes from its own input.
    const command = `npm run -s meshseal -- init ${target} --out ${join(dir, "out")}`;
    const { status, stdout } = spawnSync("script", ["-qec", command, "/dev/null"], {
      cwd: ROOT,
      input: `${answer}\n`,
      encoding: "utf8",
      timeout: 120_000,
    });
    expect(stdout).toContain(question);
    expect(status, stdout).toBe(0);
    const file = target === "envoy" ? join(dir, "out/envoy.yaml") : join(dir, "out");
    expect(readFileSync(file, "utf8")).toContain(written);
  },
  180_000,
);

test("the packed package is a command that works where nothing else is", () => {
  const dir = mkdtempSync(join(tmpdir(), "meshseal-pack-"));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  const packed = run("npm", ["pack", "--pack-destination", dir]);
  expect(packed.status, packed.out).toBe(0);
  const install = run(
    "npm",
    [
      "install",
      "--prefer-offline",
      "--no-audit",
      "--no-fund",
      "--prefix",
      dir,
      join(dir, "meshseal-0.1.0.tgz"),
    ],
    dir,
  );
  expect(install.status, install.out).toBe(0);
  const command = join(dir, "node_modules/.bin/meshseal");
  const help = run(command, ["--help"], dir);
  expect(help.out).toContain("serve [options]");
  expect(help.status).toBe(0);
  const port = 20_000 + Math.floor(Math.random() * 20_000);
  // Told to stop at once: it starts, writes its first entries, and ends cleanly.
  const served = run(
    "timeout",
    ["--signal=TERM", "20", command, "serve", "--data", "d", "--listen", `127.0.0.1:${port}`],
    dir,
  );
  expect(served.out).toContain('"msg":"listening"');
  const verified = run(command, ["verify", "d", "--key", "@d/log.vkey"], dir);
  expect(verified.out).toContain("VERIFIED");
  expect(verified.status).toBe(0);
  const made = run(command, ["init", "envoy", "--upstream", "127.0.0.1:8080"], dir);
  expect(made.status, made.out).toBe(0);
  expect(made.out).toContain("build/filter.wasm");
}, 900_000);
