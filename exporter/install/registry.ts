/**
 * Pushes an artifact to an OCI registry: the few requests of the distribution specification that takes
 * (https://github.com/opencontainers/distribution-spec/blob/main/spec.md, "Push"), with Basic and Bearer authorisation.
 */
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { request } from "undici";
import { z } from "zod";
import { MeshsealError } from "../errors.ts";
import type { Artifact, Blob } from "./artifact.ts";

const TIMEOUT_MS = 30_000;
const MAX_ANSWER_BYTES = 1 << 20;

/** The grammar of the distribution specification, for a reference that names its registry. */
const REFERENCE =
  /^(?:oci:\/\/)?([A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?)\/([a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)(?::([A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?$/;

export type Reference = {
  readonly registry: string;
  readonly repository: string;
  readonly tag: string;
};

/** Parses `registry.example/team/meshseal-filter:0.1.0`. Throws MeshsealError with the form that is wanted. */
export function parseReference(text: string, tag: string): Reference {
  const match = REFERENCE.exec(text);
  const [, registry, repository] = match ?? [];
  if (registry === undefined || repository === undefined || text.length > 512) {
    throw new MeshsealError(
      `"${text.slice(0, 200)}" is no reference: it must be like registry.example/team/meshseal-filter:0.1.0, with the registry's name in it.`,
    );
  }
  return { registry, repository, tag: match?.[3] ?? tag };
}

export type Login = { readonly user: string; readonly password: string };

const Auths = z.object({
  auths: z.record(z.string(), z.object({ auth: z.string().optional() })).default({}),
});

/** Finds what `docker login` and its kin wrote for this registry, or null. */
export function findLogin(registry: string): Login | null {
  const dir = process.env["DOCKER_CONFIG"] ?? join(homedir(), ".docker");
  let text: string;
  try {
    text = readFileSync(join(dir, "config.json"), "utf8");
  } catch {
    return null;
  }
  let auth: string | undefined;
  try {
    const { auths } = Auths.parse(JSON.parse(text));
    auth = (auths[registry] ?? auths[`https://${registry}`])?.auth;
  } catch {
    throw new MeshsealError(`${join(dir, "config.json")} is not what docker login writes.`);
  }
  if (!auth) return null;
  const [user, ...rest] = Buffer.from(auth, "base64").toString("utf8").split(":");
  return user === undefined ? null : { user, password: rest.join(":") };
}

type Answer = {
  readonly status: number;
  readonly headers: Record<string, string>;
  readonly text: string;
};

export class Registry {
  readonly #base: string;
  readonly #reference: Reference;
  readonly #login: Login | null;
  #authorization: string | null = null;

  /** `isPlain`: HTTP without TLS, as a registry on loopback or inside a cluster may speak it. */
  constructor(reference: Reference, login: Login | null, isPlain: boolean) {
    this.#reference = reference;
    this.#base = `${isPlain ? "http" : "https"}://${reference.registry}/v2/${reference.repository}`;
    this.#login = login;
  }

  /** Pushes blobs, then the manifest, under the tag or, where `tag` is null, under its digest. What is there already is not sent again. */
  async push({ manifest, blobs }: Artifact, tag: string | null): Promise<void> {
    for (const blob of blobs) await this.#pushBlob(blob);
    const name = tag ?? manifest.digest;
    const answer = await this.#send("PUT", `${this.#base}/manifests/${name}`, manifest);
    if (answer.status !== 201) throw this.#refused(`the manifest ${name}`, answer);
  }

  async #pushBlob(blob: Blob): Promise<void> {
    const found = await this.#send("HEAD", `${this.#base}/blobs/${blob.digest}`);
    if (found.status === 200) return;
    const start = await this.#send("POST", `${this.#base}/blobs/uploads/`);
    const { location } = start.headers;
    if (start.status !== 202 || location === undefined) throw this.#refused("an upload", start);
    const url = new URL(location, this.#base);
    url.searchParams.set("digest", blob.digest);
    const put = await this.#send("PUT", url.href, {
      ...blob,
      mediaType: "application/octet-stream",
    });
    if (put.status !== 201) throw this.#refused(`the blob ${blob.digest}`, put);
  }

  async #send(method: "HEAD" | "POST" | "PUT", url: string, body?: Blob): Promise<Answer> {
    const first = await this.#once(method, url, body);
    if (first.status !== 401 || this.#authorization !== null) return first;
    this.#authorization = await this.#authorize(first.headers["www-authenticate"] ?? "");
    return this.#once(method, url, body);
  }

  async #once(method: "HEAD" | "POST" | "PUT", url: string, body?: Blob): Promise<Answer> {
    const headers: Record<string, string> = { "user-agent": "meshseal" };
    // An upload may be sent to another host: what opens this registry is not for that one.
    const isHere = new URL(url).host === new URL(this.#base).host;
    if (this.#authorization !== null && isHere) headers["authorization"] = this.#authorization;
    if (body !== undefined) headers["content-type"] = body.mediaType;
    try {
      const answer = await request(url, {
        method,
        headers,
        body: body?.bytes ?? null,
        headersTimeout: TIMEOUT_MS,
        bodyTimeout: TIMEOUT_MS,
      });
      const text = await readShort(answer.body);
      return { status: answer.statusCode, headers: flat(answer.headers), text };
    } catch (error) {
      throw new MeshsealError(
        `${this.#reference.registry} cannot be reached: ${error instanceof Error ? error.message : error}`,
      );
    }
  }

  /** https://distribution.github.io/distribution/spec/auth/token/ */
  async #authorize(challenge: string): Promise<string> {
    const basic =
      this.#login === null
        ? null
        : `Basic ${Buffer.from(`${this.#login.user}:${this.#login.password}`).toString("base64")}`;
    if (/^basic\b/i.test(challenge) && basic !== null) return basic;
    const of = (key: string): string | undefined =>
      new RegExp(`\\b${key}="([^"]*)"`, "i").exec(challenge)?.[1];
    const realm = of("realm");
    if (!/^bearer\b/i.test(challenge) || realm === undefined || !URL.canParse(realm)) {
      throw new MeshsealError(
        `${this.#reference.registry} wants a login: docker login ${this.#reference.registry}, or --user.`,
      );
    }
    const url = new URL(realm);
    // A password goes where TLS protects it, or back to the host that it is for.
    if (url.protocol !== "https:" && url.host !== this.#reference.registry) {
      throw new MeshsealError(
        `${this.#reference.registry} sends its login to ${url.origin}, without TLS: refused.`,
      );
    }
    const service = of("service");
    if (service !== undefined) url.searchParams.set("service", service);
    url.searchParams.set("scope", `repository:${this.#reference.repository}:pull,push`);
    const answer = await request(url, {
      headers: basic === null ? {} : { authorization: basic },
      headersTimeout: TIMEOUT_MS,
      bodyTimeout: TIMEOUT_MS,
    });
    const text = await readShort(answer.body);
    const Token = z.object({ token: z.string().optional(), access_token: z.string().optional() });
    const parsed = answer.statusCode === 200 ? Token.safeParse(parseJson(text)) : null;
    const token = parsed?.data?.token ?? parsed?.data?.access_token;
    if (token === undefined) {
      throw new MeshsealError(`${url.host} gives no token to push with: check user and password.`);
    }
    return `Bearer ${token}`;
  }

  #refused(what: string, { status, text }: Answer): MeshsealError {
    const reason = text.replaceAll(/\s+/g, " ").slice(0, 300);
    return new MeshsealError(
      `${this.#reference.registry} does not take ${what}: ${status} ${reason}`,
    );
  }
}

async function readShort(body: AsyncIterable<Buffer>): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of body) {
    bytes += part.length;
    if (bytes > MAX_ANSWER_BYTES) break;
    parts.push(part);
  }
  return Buffer.concat(parts).toString("utf8");
}

function flat(headers: Record<string, string | string[] | undefined>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).flatMap(([key, value]) =>
      value === undefined ? [] : [[key, Array.isArray(value) ? value.join(", ") : value]],
    ),
  );
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
