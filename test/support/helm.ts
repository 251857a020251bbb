/** Helm against a test's API server. */
import { spawnSync } from "node:child_process";
import type { ApiServer } from "./api-server.ts";
import { goTool } from "./go-tools.ts";

/** Returns what it printed. The namespace is the one that the README names. */
export function helm(api: ApiServer, ...args: string[]): string {
  const place = ["--namespace", "meshseal-system", "--create-namespace"];
  const { status, stdout, stderr } = spawnSync(goTool("helm"), [...args, ...place], {
    env: { ...process.env, KUBECONFIG: api.kubeconfig },
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`helm ${args.join(" ")}: ${stderr}${stdout}`);
  return stdout;
}
