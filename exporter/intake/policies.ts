/**
 * The texts of rules and configurations, kept by their SHA-256 beside the log: an entry names the digest of the rules it was made under, and
 * here is what that digest is of. Each text that comes in is noted in the log itself, so that the log says when it was there.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import type { FastifyInstance } from "fastify";
import type { FieldValue } from "../../record/codec.ts";
import { F_POLICY_DIGEST, F_POLICY_NAME, KIND_CONFIG, MAX_NAME } from "../../record/fields.ts";
import { fileStore } from "../store/file.ts";
import type { Store } from "../store/store.ts";

/** One text at most, in bytes. */
export const MAX_POLICY_BYTES: number = 1 << 20;
export const POLICY_PATH = "/v1/policies";
export const POLICY_TYPE = "application/vnd.meshseal.policy";

export type Policies = {
  /**
   * Keeps a text under its digest in hex. Resolves to whether it is new, when it survives a loss of power; to null where it has
   * another digest: then nothing is kept.
   */
  readonly put: (digest: string, text: Buffer, name: string) => Promise<boolean | null>;
  /** Returns the text with this digest, or null. */
  readonly get: (digest: string) => Promise<Buffer | null>;
};

/** Opens the texts in a data directory. `note` writes an entry of the log. */
export function openPolicies(
  data: string,
  note: (kind: number, fields: readonly FieldValue[]) => Promise<void>,
): Policies {
  const store: Store = fileStore(join(data, "policies"), join(data, "policies.drafts"));
  return {
    put: async (digest, text, name) => {
      const value = createHash("sha256").update(text).digest();
      if (value.toString("hex") !== digest) return null;
      const isNew = !(await store.get(digest))?.equals(text);
      if (isNew) await store.replace(digest, text);
      await note(KIND_CONFIG, [
        { number: F_POLICY_DIGEST, value },
        { number: F_POLICY_NAME, value: Buffer.from(name).subarray(0, MAX_NAME) },
      ]);
      return isNew;
    },
    get: (digest) => store.get(digest),
  };
}

/** PUT a text under its digest, GET it back. The digest in the path is checked: a text that was cut on its way is refused. */
export function policyRoutes(app: FastifyInstance, policies: Policies): void {
  app.addContentTypeParser(POLICY_TYPE, { parseAs: "buffer" }, (_request, body, done) =>
    done(null, body),
  );
  const path = `${POLICY_PATH}/:digest`;
  app.put<{ Params: { digest: string }; Querystring: { name?: string } }>(
    path,
    { config: { role: "administer" }, bodyLimit: MAX_POLICY_BYTES },
    async (request, reply) => {
      const text = request.body;
      if (!Buffer.isBuffer(text) || text.length === 0)
        return reply.code(415).send({ code: "error", message: `the body must be ${POLICY_TYPE}` });
      const { digest } = request.params;
      const isNew = await policies.put(digest, text, String(request.query.name ?? ""));
      if (isNew === null)
        return reply
          .code(400)
          .send({ code: "digest", message: "the body does not have the digest in the path" });
      return reply.code(isNew ? 201 : 200).send({ digest });
    },
  );
  app.get<{ Params: { digest: string } }>(
    path,
    { config: { role: "read" } },
    async (request, reply) => {
      const { digest } = request.params;
      const text = /^[0-9a-f]{64}$/.test(digest) ? await policies.get(digest) : null;
      if (text === null)
        return reply.code(404).send({ code: "unknown", message: "no text has this digest" });
      return reply.type(POLICY_TYPE).send(text);
    },
  );
}
