/** A time stamp authority made of `openssl ts` behind a small HTTP server, with certificates of its own. Needs openssl. */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

export type KeyKind = "ec" | "rsa";

/** Certificates below one root: what `issue` makes has the extensions it is given. */
export type Authority = {
  readonly dir: string;
  /** PEM files. */
  readonly root: string;
  readonly issue: (name: string, options: IssueOptions) => { cert: string; key: string };
};

export type IssueOptions = {
  /** Lines of an openssl extension section. */
  readonly extensions: string;
  readonly kind?: KeyKind;
  /** Name of the issuer, made before; the root if absent. */
  readonly issuer?: string;
  readonly days?: number;
};

export type Tsa = {
  readonly url: string;
  readonly root: string;
  readonly dir: string;
  readonly stop: () => Promise<void>;
};

export const TSA_EXTENSIONS =
  "extendedKeyUsage=critical,timeStamping\nkeyUsage=critical,digitalSignature";

export function openssl(dir: string, ...args: string[]): Buffer {
  try {
    return execFileSync("openssl", args, { cwd: dir, stdio: ["ignore", "pipe", "pipe"] });
  } catch (error) {
    const { code, stderr } = error as { code?: string; stderr?: Buffer };
    if (code === "ENOENT") throw new Error("this needs the openssl command: install it");
    throw new Error(`openssl ${args.join(" ")}: ${stderr?.toString()}`);
  }
}

/** Makes a root in a new directory. */
export function makeAuthority(kind: KeyKind = "ec"): Authority {
  const dir = mkdtempSync(join(tmpdir(), "meshseal-tsa-"));
  const newKey = (name: string, of: KeyKind): void => {
    const how =
      of === "ec"
        ? ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
        : ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    openssl(dir, "genpkey", "-quiet", "-algorithm", ...how, "-out", `${name}.key`);
  };
  writeFileSync(join(dir, "req.cnf"), "[req]\ndistinguished_name=dn\n[dn]\n");
  newKey("root", kind);
  const self = [
    "-subj",
    "/O=Example/CN=root",
    "-days",
    "30",
    "-addext",
    "basicConstraints=critical,CA:TRUE",
  ];
  openssl(
    dir,
    "req",
    "-config",
    "req.cnf",
    "-x509",
    "-new",
    "-key",
    "root.key",
    "-out",
    "root.crt",
    ...self,
  );
  let serial = 1;
  const issue: Authority["issue"] = (name, options) => {
    const { extensions, issuer = "root", days = 20 } = options;
    newKey(name, options.kind ?? kind);
    writeFileSync(join(dir, `${name}.ext`), `${extensions}\n`);
    const subject = ["-config", "req.cnf", "-new", "-subj", `/O=Example/CN=${name}`];
    openssl(dir, "req", ...subject, "-key", `${name}.key`, "-out", `${name}.csr`);
    const by = ["-CA", `${issuer}.crt`, "-CAkey", `${issuer}.key`, "-set_serial", String(++serial)];
    const span = ["-days", String(days), "-extfile", `${name}.ext`];
    openssl(dir, "x509", "-req", "-in", `${name}.csr`, "-out", `${name}.crt`, ...by, ...span);
    return { cert: join(dir, `${name}.crt`), key: join(dir, `${name}.key`) };
  };
  return { dir, root: join(dir, "root.crt"), issue };
}

/** Starts an authority with a signer below a new root. */
export async function startTsa(kind: KeyKind = "ec"): Promise<Tsa> {
  const authority = makeAuthority(kind);
  const { dir } = authority;
  authority.issue("tsa", { extensions: TSA_EXTENSIONS });
  writeFileSync(join(dir, "serial"), "01\n");
  writeFileSync(
    join(dir, "tsa.cnf"),
    `[tsa]
default_tsa=t
[t]
serial=${dir}/serial
signer_cert=${dir}/tsa.crt
certs=${dir}/root.crt
signer_key=${dir}/tsa.key
signer_digest=sha256
default_policy=1.3.6.1.4.1.13762.3
digests=sha256
accuracy=secs:1
ess_cert_id_alg=sha256
`,
  );
  let count = 0;
  const server: Server = createServer((incoming, outgoing) => {
    const parts: Buffer[] = [];
    incoming.on("data", (part: Buffer) => parts.push(part));
    incoming.on("end", () => {
      const work = join(dir, `request-${count++}`);
      mkdirSync(work);
      writeFileSync(join(work, "q.tsq"), Buffer.concat(parts));
      const files = ["-queryfile", join(work, "q.tsq"), "-out", join(work, "r.tsr")];
      try {
        openssl(dir, "ts", "-reply", "-config", "tsa.cnf", ...files);
        outgoing.setHeader("content-type", "application/timestamp-reply");
        outgoing.end(readFileSync(join(work, "r.tsr")));
      } catch (error) {
        outgoing.writeHead(500).end(String(error));
      }
    });
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}/`,
    root: authority.root,
    dir,
    stop: async () => {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
