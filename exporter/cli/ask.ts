/** Asks a running exporter for something an administrator may do, and says what it answered. */
import { MeshsealError } from "../errors.ts";
import { call } from "./policy.ts";

/** Resolves to the JSON that it answered with. Throws MeshsealError with its message where it refused. */
export async function askExporter(
  method: "GET" | "PUT" | "POST" | "DELETE",
  url: string,
): Promise<unknown> {
  const { status, body } = await call(method, url);
  let said: { message?: unknown };
  try {
    said = JSON.parse(body.toString());
  } catch {
    throw new MeshsealError(`${url} answered ${status} with something else than JSON.`);
  }
  if (status === 202) throw new MeshsealError("it takes longer, and goes on: ask again later.");
  if (status !== 200) throw new MeshsealError(String(said.message ?? `${url} answered ${status}`));
  return said;
}
