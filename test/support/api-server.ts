/** A real Kubernetes API server with etcd behind it, on loopback: it stores and validates objects; no Pod ever runs. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { freePort } from "./control-plane.ts";
import { goTool } from "./go-tools.ts";
import { until } from "./run-envoy.ts";

export type Said = { readonly status: number | null; readonly out: string };

export type ApiServer = {
  /** KUBECONFIG of an administrator. */
  readonly kubeconfig: string;
  readonly kubectl: (args: readonly string[], input?: string) => Said;
  readonly stop: () => Promise<void>;
};

export async function startApiServer(dir: string): Promise<ApiServer> {
  const [client, peer, secure] = [await freePort(), await freePort(), await freePort()];
  const inDir = (name: string): string => join(dir, name);
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  writeFileSync(inDir("sa.key"), privateKey.export({ type: "pkcs1", format: "pem" }));
  writeFileSync(inDir("tokens.csv"), 'token,admin,1,"system:masters"\n', { mode: 0o600 });
  const etcdUrl = `http://127.0.0.1:${client}`;
  const etcd = run(goTool("etcd"), [
    ...["--data-dir", inDir("etcd"), "--unsafe-no-fsync", "--log-level", "error"],
    ...["--listen-client-urls", etcdUrl, "--advertise-client-urls", etcdUrl],
    ...["--listen-peer-urls", `http://127.0.0.1:${peer}`],
  ]);
  const api = run(goTool("kube-apiserver"), [
    ...["--etcd-servers", etcdUrl, "--cert-dir", inDir("certs")],
    ...["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"],
    ...["--secure-port", String(secure), "--service-cluster-ip-range", "10.0.0.0/24"],
    ...["--service-account-issuer", "https://kubernetes.default.svc"],
    ...["--service-account-key-file", inDir("sa.key")],
    ...["--service-account-signing-key-file", inDir("sa.key")],
    ...["--token-auth-file", inDir("tokens.csv"), "--authorization-mode", "RBAC"],
    ...["--endpoint-reconciler-type", "none", "--disable-admission-plugins", "ServiceAccount"],
  ]);
  const kubeconfig = inDir("kubeconfig");
  const config = {
    apiVersion: "v1",
    kind: "Config",
    clusters: [
      {
        name: "test",
        cluster: {
          server: `https://127.0.0.1:${secure}`,
          // It holds the authority that the server made for itself.
          "certificate-authority": inDir("certs/apiserver.crt"),
        },
      },
    ],
    users: [{ name: "admin", user: { token: "token" } }],
    contexts: [{ name: "test", context: { cluster: "test", user: "admin" } }],
    "current-context": "test",
  };
  writeFileSync(kubeconfig, JSON.stringify(config), { mode: 0o600 });
  const kubectl: ApiServer["kubectl"] = (args, input) => {
    const env = { ...process.env, KUBECONFIG: kubeconfig };
    const { status, stdout, stderr } = spawnSync(goTool("kubectl"), args, {
      env,
      input,
      encoding: "utf8",
      maxBuffer: 1 << 26,
    });
    return { status, out: `${stdout}${stderr}` };
  };
  let last: Said = { status: null, out: "" };
  await until(
    () => {
      last = kubectl(["get", "--raw", "/readyz"]);
      return last.status === 0;
    },
    () => `${last.out}\n${api.said()}\n${etcd.said()}`,
  );
  return {
    kubeconfig,
    kubectl,
    // In this order: without etcd the server would wait for ever.
    stop: async () => {
      await api.stop();
      await etcd.stop();
    },
  };
}

function run(
  command: string,
  args: readonly string[],
): { said: () => string; stop: () => Promise<void> } {
  const child: ChildProcess = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"] });
  const lines: string[] = [];
  child.stderr?.setEncoding("utf8").on("data", (text: string) => lines.push(text));
  const ended = new Promise<void>((resolve) => {
    child.once("exit", () => resolve());
    child.once("error", () => resolve());
  });
  return {
    said: () => lines.join("").slice(-2000),
    stop: () => {
      child.kill("SIGTERM");
      return ended;
    },
  };
}
