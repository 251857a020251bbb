/** `meshseal init`: writes a working configuration for Istio, Envoy Gateway or a plain Envoy, with the right digests in it. */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline/promises";
import { Command, Option } from "commander";
import { MeshsealError } from "../errors.ts";
import type { Form } from "../install/artifact.ts";
import { type Address, envoyFiles } from "../install/envoy.ts";
import { gatewayManifest } from "../install/envoy-gateway.ts";
import { builtImages } from "../install/images.ts";
import { type IstioSetup, istioManifest, istioMeshConfig } from "../install/istio.ts";
import { builtModule, readModule } from "../install/module.ts";
import { parseReference } from "../install/registry.ts";
import { readPackage } from "../install/sbom.ts";
import type { Setup } from "../install/setup.ts";

/** DNS-1123 label. */
const NAME = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
const LABEL_KEY = /^([a-z0-9.-]{1,253}\/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/;
const VARIABLE = /^[A-Za-z_][A-Za-z0-9_]{0,254}$/;
const DELIVERIES: readonly string[] = ["bounded-loss", "best-effort", "enforced"];
/** TrafficExtension is there from this minor version of Istio on, FAIL_RELOAD from that one. */
const TRAFFIC_EXTENSION_SINCE = 30;
const FAIL_RELOAD_SINCE = 27;

type Print = (text: string) => unknown;

type Common = {
  image?: string;
  form: Form;
  module?: string;
  enforceModule?: string;
  exporter: string;
  delivery: string;
  routesEnforce?: boolean;
  pullSecret?: string;
  keyEnv?: string;
  out?: string;
};

/** `print` gets what has no file to go to. */
export function initCommand(print: Print = (text) => process.stdout.write(text)): Command {
  return new Command("init")
    .description("Write a working configuration for Istio, Envoy Gateway or a plain Envoy.")
    .addCommand(istioCommand(print))
    .addCommand(gatewayCommand(print))
    .addCommand(envoyCommand(print));
}

function common(command: Command): Command {
  return command
    .option(
      "--image <reference>",
      "where meshseal push put the filter: registry.example/team/meshseal-filter[:tag]",
    )
    .addOption(
      new Option("--form <form>", "as given to push")
        .choices(["image", "artifact"])
        .default("image"),
    )
    .option("--module <file>", "the plain build that was pushed (default: that of this version)")
    .option(
      "--enforce-module <file>",
      "the enforcing build that was pushed (default: that of this version)",
    )
    .option(
      "--exporter <service.namespace:port>",
      "the exporter's Service",
      "meshseal.meshseal-system:7700",
    )
    .addOption(
      new Option("--delivery <mode>", "what happens when the exporter is away")
        .choices([...DELIVERIES])
        .default("bounded-loss"),
    )
    .option(
      "--routes-enforce",
      "routes ask for enforced by their metadata: use the build that can refuse",
    )
    .option("--pull-secret <name>", "Secret with the registry's login, in the same namespace")
    .option(
      "--key-env <variable>",
      "variable of the proxy's container that holds the key of batches",
    )
    .option("--out <file>", "write to a new file (default: stdout)");
}

type IstioFlags = Common & {
  namespace: string[];
  gateway: string[];
  gatewayLabel: string[];
  side: string;
  rootNamespace: string;
  istioVersion: string;
  meshConfig?: boolean;
};

function istioCommand(print: Print): Command {
  const gather = (value: string, previous: string[]): string[] => [...previous, value];
  return common(new Command("istio"))
    .description("WasmPlugin or TrafficExtension for sidecars, gateways and waypoints.")
    .option(
      "--namespace <name[=delivery]>",
      "record at the sidecars of this namespace; may be repeated (default: the whole mesh)",
      gather,
      [],
    )
    .option(
      "--gateway <namespace/name>",
      "record at this gateway or waypoint (a Gateway resource); may be repeated",
      gather,
      [],
    )
    .option(
      "--gateway-label <namespace/label=value>",
      "record at a gateway that is chosen by its Pods' label; may be repeated",
      gather,
      [],
    )
    .addOption(
      new Option("--side <side>", "which side of a sidecar records")
        .choices(["server", "client", "both"])
        .default("server"),
    )
    .option("--root-namespace <name>", "Istio's root namespace", "istio-system")
    .option("--istio-version <minor>", "decides between WasmPlugin and TrafficExtension", "1.31")
    .option("--mesh-config", "print the settings for Istio itself instead")
    .addHelpText(
      "after",
      "\nExample:\n  meshseal init istio --image registry.example/team/meshseal-filter > meshseal.yaml",
    )
    .action(async (flags: IstioFlags) => {
      const setup = await istioSetup(flags);
      write(flags.meshConfig ? istioMeshConfig(setup) : istioManifest(setup), flags.out, print);
    });
}

async function istioSetup(flags: IstioFlags): Promise<IstioSetup> {
  const minor = Number(/^1\.(\d{1,3})(\.\d+)?$/.exec(flags.istioVersion)?.[1]);
  if (Number.isNaN(minor))
    throw new MeshsealError(`--istio-version ${flags.istioVersion}: must be like 1.31`);
  const setup = await imageSetup(flags);
  const isWhole = flags.namespace.length + flags.gateway.length + flags.gatewayLabel.length === 0;
  const namespaces = isWhole ? [flags.rootNamespace] : flags.namespace;
  return {
    ...setup,
    kind: minor >= TRAFFIC_EXTENSION_SINCE ? "TrafficExtension" : "WasmPlugin",
    failStrategy: minor >= FAIL_RELOAD_SINCE ? "FAIL_RELOAD" : "FAIL_CLOSE",
    rootNamespace: name("--root-namespace", flags.rootNamespace),
    namespaces: namespaces.map((text) => {
      const [namespace = "", delivery = setup.delivery] = text.split("=");
      return { name: name("--namespace", namespace), delivery: mode("--namespace", delivery) };
    }),
    gateways: flags.gateway.map((text) => pair("--gateway", text)),
    gatewayLabels: flags.gatewayLabel.map((text) => {
      const match = /^([^/]+)\/(.+)=([^=]+)$/.exec(text);
      const [, namespace = "", label = "", value = ""] = match ?? [];
      if (!LABEL_KEY.test(label) || !NAME.test(value)) {
        throw new MeshsealError(
          `--gateway-label ${text}: must be like istio-ingress/istio=ingressgateway`,
        );
      }
      return { namespace: name("--gateway-label", namespace), label, value };
    }),
    side:
      flags.side === "server" ? "SERVER" : flags.side === "client" ? "CLIENT" : "CLIENT_AND_SERVER",
  };
}

type GatewayFlags = Common & { gateway?: string; route: string[]; tls?: boolean };

function gatewayCommand(print: Print): Command {
  return common(new Command("envoy-gateway"))
    .description("EnvoyExtensionPolicy and EnvoyProxy for Envoy Gateway.")
    .option("--gateway <namespace/name>", "the Gateway to record at")
    .option(
      "--route <name=delivery>",
      "an HTTPRoute of the same namespace with a delivery of its own; may be repeated",
      (value: string, previous: string[]) => [...previous, value],
      [],
    )
    .option("--tls", "mutual TLS with the exporter, with the Secret meshseal-proxy-tls")
    .addHelpText(
      "after",
      "\nExample:\n  meshseal init envoy-gateway --image registry.example/team/meshseal-filter --gateway shop/edge > meshseal.yaml",
    )
    .action(async (flags: GatewayFlags) => {
      const gateway = flags.gateway ?? (await ask("Which Gateway (namespace/name)?", "--gateway"));
      const manifest = gatewayManifest({
        ...(await imageSetup(flags)),
        gateway: pair("--gateway", gateway),
        routes: flags.route.map((text) => {
          const [route = "", delivery = flags.delivery] = text.split("=");
          return { name: name("--route", route), delivery: mode("--route", delivery) };
        }),
        tls: flags.tls === true,
      });
      write(manifest, flags.out, print);
    });
}

type EnvoyFlags = {
  listen: string;
  admin: string;
  upstream?: string;
  exporter: string;
  module?: string;
  delivery: string;
  tlsCert?: string;
  tlsKey?: string;
  tlsCa?: string;
  fileXds?: boolean;
  out?: string;
};

function envoyCommand(print: Print): Command {
  return new Command("envoy")
    .description("A complete bootstrap for a plain Envoy, or files for its file xDS.")
    .option("--upstream <host:port>", "the service behind Envoy")
    .option("--listen <host:port>", "where Envoy listens", "127.0.0.1:10000")
    .option("--admin <host:port>", "Envoy's admin address", "127.0.0.1:9901")
    .option("--exporter <host:port>", "the exporter", "127.0.0.1:7700")
    .option(
      "--module <file>",
      "the module, as Envoy finds it (default: the filter of this version)",
    )
    .addOption(
      new Option("--delivery <mode>", "what happens when the exporter is away")
        .choices([...DELIVERIES])
        .default("bounded-loss"),
    )
    .option(
      "--tls-cert <file>",
      "this proxy's certificate for the exporter (PEM), with --tls-key and --tls-ca",
    )
    .option("--tls-key <file>", "its private key (PEM)")
    .option("--tls-ca <file>", "the authority of the exporter's certificate (PEM)")
    .option(
      "--file-xds",
      "write envoy.yaml, lds.yaml and cds.yaml in place of one bootstrap; needs --out",
    )
    .option("--out <dir>", "write into this folder (default: stdout)")
    .addHelpText(
      "after",
      "\nExample:\n  meshseal init envoy --upstream 127.0.0.1:8080 > envoy.yaml",
    )
    .action(async (flags: EnvoyFlags) => {
      const upstream =
        flags.upstream ?? (await ask("Which service is behind Envoy (host:port)?", "--upstream"));
      const build = flags.delivery === "enforced" ? "enforce.wasm" : "filter.wasm";
      const module = await readModule(flags.module ?? builtModule(build));
      const { tlsCert: cert, tlsKey: key, tlsCa: ca } = flags;
      const given = [cert, key, ca].filter((file) => file !== undefined).length;
      if (given !== 0 && given !== 3)
        throw new MeshsealError(
          "--tls-cert, --tls-key and --tls-ca belong together: give all three, or none.",
        );
      const files = envoyFiles(
        {
          module,
          modulePath: resolve(module.path),
          listen: address("--listen", flags.listen),
          admin: address("--admin", flags.admin),
          upstream: address("--upstream", upstream),
          exporter: address("--exporter", flags.exporter),
          delivery: flags.delivery,
          ...(cert && key && ca ? { tls: { cert, key, ca } } : {}),
        },
        flags.fileXds ? "file-xds" : "bootstrap",
      );
      if (flags.out === undefined) {
        if (files.size > 1) throw new MeshsealError("--file-xds writes three files: give --out.");
        for (const text of files.values()) print(text);
        return;
      }
      mkdirSync(flags.out, { recursive: true });
      for (const [file, text] of files) write(text, join(flags.out, file), print);
    });
}

async function imageSetup(flags: Common): Promise<Setup> {
  const text =
    flags.image ??
    (await ask("Where did meshseal push put the filter (registry/repository:tag)?", "--image"));
  const info = readPackage();
  const [, service = "", namespace = "", port = ""] =
    /^([^.:]+)\.([^.:]+):(\d+)$/.exec(flags.exporter) ?? [];
  if (!NAME.test(service) || !NAME.test(namespace) || Number(port) < 1 || Number(port) > 65_535) {
    throw new MeshsealError(
      `--exporter ${flags.exporter}: must be service.namespace:port, like meshseal.meshseal-system:7700`,
    );
  }
  if (flags.keyEnv !== undefined && !VARIABLE.test(flags.keyEnv)) {
    throw new MeshsealError(`--key-env ${flags.keyEnv}: must be the name of a variable`);
  }
  const reference = parseReference(text, info.version);
  const files = { plain: flags.module, enforcing: flags.enforceModule };
  const { plain, enforcing } = await builtImages(reference, flags.form, info, files);
  return {
    plain,
    enforcing,
    routesEnforce: flags.routesEnforce === true,
    exporterNamespace: namespace,
    service,
    port: Number(port),
    delivery: flags.delivery,
    ...(flags.pullSecret === undefined
      ? {}
      : { pullSecret: name("--pull-secret", flags.pullSecret) }),
    ...(flags.keyEnv === undefined ? {} : { keyVariable: flags.keyEnv }),
  };
}

/** Asks a person; without one the flag is needed. */
async function ask(question: string, flag: string): Promise<string> {
  if (!process.stdin.isTTY) throw new MeshsealError(`${flag} is needed.`);
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return (await lines.question(`${question} `)).trim();
  } finally {
    lines.close();
  }
}

function write(text: string, file: string | undefined, print: Print): void {
  if (file === undefined) {
    print(text);
    return;
  }
  if (existsSync(file)) throw new MeshsealError(`${file} is there already: nothing was written.`);
  writeFileSync(file, text, { flag: "wx" });
  console.error(`meshseal: wrote ${file}`);
}

function name(flag: string, text: string): string {
  if (NAME.test(text)) return text;
  throw new MeshsealError(
    `${flag} ${text}: must be a name of lower-case letters, digits and hyphens`,
  );
}

function mode(flag: string, text: string): string {
  if (DELIVERIES.includes(text)) return text;
  throw new MeshsealError(
    `${flag} ...=${text}: the delivery must be one of ${DELIVERIES.join(", ")}`,
  );
}

function pair(flag: string, text: string): { namespace: string; name: string } {
  const [namespace = "", last = "", ...rest] = text.split("/");
  if (rest.length > 0 || !NAME.test(namespace) || !NAME.test(last)) {
    throw new MeshsealError(`${flag} ${text}: must be namespace/name`);
  }
  return { namespace, name: last };
}

function address(flag: string, text: string): Address {
  const [, host = "", port = ""] =
    /^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]{1,253}):(\d{1,5})$/.exec(text) ?? [];
  if (host === "" || Number(port) > 65_535)
    throw new MeshsealError(`${flag} ${text}: must be host:port`);
  return { host: host.replaceAll(/[[\]]/g, ""), port: Number(port) };
}
