/** An OpenTimestamps calendar, and a chain of Bitcoin block headers that it makes up. */
import { createHash } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import {
  addOp,
  emptyNode,
  formatAttestation,
  formatCalendarAnswer,
} from "../../exporter/anchor/ots.ts";

export type Calendar = {
  readonly url: string;
  /** Puts all digests that have come into a block. Returns its height and header, in hex. */
  readonly mine: (time: number) => { height: number; header: string };
  readonly stop: () => Promise<void>;
};

const OPEN: Buffer = Buffer.from("[");
const CLOSE: Buffer = Buffer.from("]");
const sha256 = (bytes: Buffer): Buffer => createHash("sha256").update(bytes).digest();

export async function startCalendar(firstHeight = 800_000): Promise<Calendar> {
  const waiting = new Set<string>();
  const mined = new Map<string, { height: number; before: Buffer; after: Buffer }>();
  let height = firstHeight;
  let url = "";
  const server = createServer((incoming, outgoing) => {
    const parts: Buffer[] = [];
    incoming.on("data", (part: Buffer) => parts.push(part));
    incoming.on("end", () => {
      const path = incoming.url ?? "";
      if (incoming.method === "POST" && path === "/digest") {
        waiting.add(Buffer.concat(parts).toString("hex"));
        const node = emptyNode();
        node.attestations.push(formatAttestation({ uri: url }));
        outgoing.end(formatCalendarAnswer(node));
        return;
      }
      const digest = /^\/timestamp\/([0-9a-f]{64})$/.exec(path)?.[1] ?? "";
      const block = mined.get(digest);
      if (block === undefined) {
        outgoing.writeHead(404).end("Pending confirmation in Bitcoin blockchain");
        return;
      }
      const node = emptyNode();
      const joined = addOp(addOp(node, "append", block.after), "prepend", block.before);
      const root = addOp(joined, "sha256");
      root.attestations.push(formatAttestation({ height: block.height }));
      outgoing.end(formatCalendarAnswer(node));
    });
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    url,
    mine: (time) => {
      // What stands for transactions: the block's Merkle root is the hash of all digests, one after the other, in brackets.
      const digests = [...waiting].map((digest) => Buffer.from(digest, "hex"));
      waiting.clear();
      height++;
      for (const [i, digest] of digests.entries()) {
        const before = Buffer.concat([OPEN, ...digests.slice(0, i)]);
        const after = Buffer.concat([...digests.slice(i + 1), CLOSE]);
        mined.set(digest.toString("hex"), { height, before, after });
      }
      const header = Buffer.alloc(80);
      header.set(sha256(Buffer.concat([OPEN, ...digests, CLOSE])), 36);
      header.writeUInt32LE(time, 68);
      return { height, header: header.toString("hex") };
    },
    stop: async () => {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    },
  };
}
