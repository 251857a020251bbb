/** Retention and holds over HTTP: for `meshseal retain` and `meshseal hold`, and the texts for whoever verifies a pruned log. */
import type { FastifyInstance, FastifyReply } from "fastify";
import { retentionName } from "../audit/retention-texts.ts";
import { MeshsealError } from "../errors.ts";
import type { Keeper } from "./keeper.ts";
import type { Wish } from "./pruner.ts";
import type { Shelf } from "./shelf.ts";

export const RETENTION_PATH = "/v1/retention";
export const HOLDS_PATH = "/v1/holds";

/** What takes longer goes on without the caller, in milliseconds. */
const WAIT_MS = 20_000;
const MAX_REASON = 512;

type Query = Readonly<Record<string, string | undefined>>;

export function retentionRoutes(app: FastifyInstance, keeper: Keeper, shelf: Shelf): void {
  const administer = { config: { role: "administer" } } as const;
  const read = { config: { role: "read" } } as const;

  app.get(RETENTION_PATH, read, (_request, reply) =>
    answer(reply, async () => await keeper.status()),
  );
  app.post<{ Querystring: Query }>(RETENTION_PATH, administer, (request, reply) =>
    answer(reply, async () => {
      const { trial } = request.query;
      return await keeper.retain(wishOf(request.query), trial === "true");
    }),
  );
  app.put<{ Params: { name: string }; Querystring: Query }>(
    `${HOLDS_PATH}/:name`,
    administer,
    (request, reply) =>
      answer(reply, async () => {
        const { from, to } = request.query;
        const range = [numberOf(from ?? "0"), to === undefined ? null : numberOf(to)] as const;
        return await keeper.place(request.params.name, ...range, reasonOf(request.query));
      }),
  );
  app.delete<{ Params: { name: string }; Querystring: Query }>(
    `${HOLDS_PATH}/:name`,
    administer,
    (request, reply) =>
      answer(reply, async () => {
        await keeper.lift(request.params.name, reasonOf(request.query));
        return { lifted: request.params.name };
      }),
  );
  // Beside /log/, for verify.
  app.get("/retention/", read, async (_request, reply) =>
    reply.type("text/plain").send((await shelf.texts()).map(retentionName).join("\n")),
  );
  app.get<{ Params: { name: string } }>("/retention/:name", read, async (request, reply) => {
    const { name } = request.params;
    const text = /^[0-9]{20}$/.test(name) ? await shelf.get(name) : null;
    if (text === null)
      return reply.code(404).send({ code: "unknown", message: "there is no such text" });
    return reply.type("text/plain; charset=utf-8").send(text);
  });
}

async function answer(reply: FastifyReply, work: () => Promise<object>): Promise<FastifyReply> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(resolve, WAIT_MS, null);
  });
  try {
    const done = work();
    done.catch(() => undefined);
    const result = await Promise.race([done, late]);
    if (result === null)
      return reply.code(202).send({ code: "running", message: "it takes longer, and goes on" });
    return reply.send(result);
  } catch (error) {
    if (!(error instanceof MeshsealError)) throw error;
    return reply.code(409).send({ code: "refused", message: error.message });
  } finally {
    clearTimeout(timer);
  }
}

function wishOf({ before, below }: Query): Wish {
  if (below !== undefined) return { below: numberOf(below) };
  const date = new Date(before ?? Number.NaN);
  if (Number.isNaN(date.getTime())) throw new MeshsealError("say before when, or below what.");
  return { before: date };
}

function numberOf(text: string): number {
  if (!/^(0|[1-9][0-9]{0,14})$/.test(text))
    throw new MeshsealError(`"${text.slice(0, 40)}" is no index of an entry.`);
  return Number(text);
}

function reasonOf({ reason = "" }: Query): string {
  if (reason === "" || /\p{Cc}/u.test(reason) || Buffer.byteLength(reason) > MAX_REASON)
    throw new MeshsealError(`a hold needs a reason, of ${MAX_REASON} bytes at most.`);
  return reason;
}
