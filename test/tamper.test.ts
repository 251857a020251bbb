import {
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { request } from "undici";
import { beforeAll, describe, expect, test } from "vitest";
import type { VerifyReport } from "../exporter/audit/report.ts";
import { openSource, type Source } from "../exporter/audit/source.ts";
import { verifyLog } from "../exporter/audit/verify.ts";
import { signCheckpoint } from "../exporter/log/checkpoint.ts";
import { emptyRoot } from "../exporter/log/merkle.ts";
import { newSigner, parseSkey, parseVkey, type Verifier } from "../exporter/log/note.ts";
import { BATCH_TYPE } from "../record/wire.ts";
import { makeChain } from "./support/chains.ts";
import { startExporter } from "./support/exporter.ts";
import { checkLog } from "./support/log.ts";

/** A log after a clean stop, with several checkpoints and so with superseded partial tiles. */
let dir = "";
let log: Verifier;
let files: Map<string, Buffer>;

beforeAll(async () => {
  const exporter = await startExporter({ args: ["--checkpoint-ms", "10"] });
  dir = exporter.dir;
  for (const batch of makeChain({ batches: 4, perBatch: 2, entryBytes: 150 })) {
    const { treeSize } = await ready(exporter.url);
    const headers = { "content-type": BATCH_TYPE };
    const answer = await request(`${exporter.url}/v1/batches`, {
      method: "POST",
      headers,
      body: Buffer.from(batch),
    });
    expect(answer.statusCode).toBe(200);
    await answer.body.dump();
    while ((await ready(exporter.url)).treeSize === treeSize)
      await new Promise((done) => setTimeout(done, 5));
  }
  expect(await exporter.stop()).toBe(0);
  await checkLog(dir);
  log = parseVkey(exporter.vkey) as Verifier;
  files = new Map(
    listFiles(join(dir, "log")).map((path) => [path, readFileSync(join(dir, "log", path))]),
  );
});

async function ready(url: string): Promise<{ treeSize: number }> {
  return (await (await request(`${url}/readyz`)).body.json()) as { treeSize: number };
}

function listFiles(root: string, at = root): string[] {
  return readdirSync(at).flatMap((name) => {
    const path = join(at, name);
    return statSync(path).isDirectory() ? listFiles(root, path) : [relative(root, path)];
  });
}

function sourceOf(changed: Map<string, Buffer>): Source {
  return {
    read: async (path, limit) => {
      const bytes = changed.get(path);
      return bytes === undefined || bytes.length > limit ? null : bytes;
    },
    list: async function* () {
      for (const path of changed.keys()) yield { path, isFile: true };
    },
  };
}

function verify(changed: Map<string, Buffer>, lastSeen?: Uint8Array): Promise<VerifyReport> {
  return verifyLog(sourceOf(changed), { log, ...(lastSeen === undefined ? {} : { lastSeen }) });
}

function changed(path: string, bytes: Buffer): Map<string, Buffer> {
  return new Map(files).set(path, bytes);
}

describe("a log after a clean stop", () => {
  test("has superseded partial tiles, and verifies", async () => {
    const partials = [...files.keys()].filter((path) => path.includes(".p/"));
    expect(partials.length).toBeGreaterThan(6);
    expect((await verify(files)).verdict).toBe("verified");
  });

  test("a flip of any bit of any byte of any file is found", async () => {
    let flips = 0;
    for (const [path, bytes] of files) {
      for (let at = 0; at < bytes.length; at++) {
        const copy = Buffer.from(bytes);
        copy.writeUInt8(copy.readUInt8(at) ^ (1 << (at % 8)), at);
        const { verdict } = await verify(changed(path, copy));
        if (verdict !== "tampered") throw new Error(`${path} byte ${at} flipped: ${verdict}`);
        flips++;
      }
    }
    expect(flips).toBeGreaterThan(5000);
  }, 120_000);

  test("spare bits of the base64 in the checkpoint are found", async () => {
    const note = files.get("checkpoint")?.toString() ?? "";
    // A root of 32 bytes is 43 digits and one pad: its last digit has two spare bits.
    const digit = note.split("\n")[2]?.at(-2) ?? "";
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const other = alphabet[alphabet.indexOf(digit) ^ 1] ?? "";
    const spare = note.replace(`${digit}=\n\n`, `${other}=\n\n`);
    expect(spare).not.toBe(note);
    expect((await verify(changed("checkpoint", Buffer.from(spare)))).verdict).toBe("tampered");
  });

  test("a flipped entry is named by its index", async () => {
    const path =
      [...files.keys()]
        .filter((name) => name.startsWith("tile/entries/"))
        .sort((a, b) => Number(b.split("/").at(-1)) - Number(a.split("/").at(-1)))[0] ?? "";
    const bundle = files.get(path) ?? Buffer.alloc(0);
    let index = 0;
    for (let at = 0; at < bundle.length; index++) {
      const length = bundle.readUInt16BE(at);
      const copy = Buffer.from(bundle);
      copy.writeUInt8(copy.readUInt8(at + 2 + (length >> 1)) ^ 1, at + 2 + (length >> 1));
      expect((await verify(changed(path, copy))).findings[0]).toMatchObject({
        cause: "entry",
        index,
      });
      at += 2 + length;
    }
    expect(index).toBe(10);
  });

  test("every file that is removed, cut or longer is found", async () => {
    for (const [path, bytes] of files) {
      const without = new Map(files);
      without.delete(path);
      const { verdict } = await verify(without);
      // A superseded partial tile may be removed: tlog-tiles allows it.
      if (verdict === "verified") expect(path).toMatch(/\.p\/\d+$/);
      expect((await verify(changed(path, bytes.subarray(0, -1)))).verdict).toBe("tampered");
      expect((await verify(changed(path, Buffer.concat([bytes, Buffer.of(0)])))).verdict).toBe(
        "tampered",
      );
    }
  });

  test.each([
    "readme",
    "tile/0/000.p/9x",
    "tile/0/x999/999",
    "tile/entries/000.p/0",
    "tile/1/000",
    "tile/0/x000/000",
    "checkpoint.bak",
  ])("a file %s that does not belong is found", async (path) => {
    expect((await verify(changed(path, Buffer.alloc(32)))).verdict).toBe("tampered");
  });

  test("links and empty directories below log/ are found on disk", async () => {
    const copy = mkdtempSync(join(tmpdir(), "meshseal-tamper-"));
    try {
      cpSync(join(dir, "log"), join(copy, "log"), { recursive: true });
      symlinkSync("/dev/null", join(copy, "log", "tile", "link"));
      expect((await verifyLog(await openSource(copy), { log })).verdict).toBe("tampered");
      rmSync(join(copy, "log", "tile", "link"));
      expect((await verifyLog(await openSource(copy), { log })).verdict).toBe("verified");
      writeFileSync(join(copy, "log", "note.txt"), "");
      expect((await verifyLog(await openSource(copy), { log })).verdict).toBe("tampered");
    } finally {
      rmSync(copy, { recursive: true, force: true });
    }
  });
});

describe("the checkpoint", () => {
  test("of another key with the same name is tampered", async () => {
    const thief = newSigner(log.name, Buffer.alloc(32, 9));
    const note = signCheckpoint({ origin: log.name, size: 0, root: emptyRoot() }, [thief]);
    expect((await verify(changed("checkpoint", Buffer.from(note)))).verdict).toBe("tampered");
  });

  test("that was rolled back is found with a last-seen checkpoint, and only then", async () => {
    const newest = files.get("checkpoint") ?? Buffer.alloc(0);
    const older = new Map([...files].filter(([path]) => !path.includes(".p/")));
    for (const path of files.keys()) {
      const width = Number(/\.p\/(\d+)$/.exec(path)?.[1]);
      if (width <= 2) older.set(path, files.get(path) ?? Buffer.alloc(0));
    }
    const signer = parseSkey(readFileSync(join(dir, "log.key"), "utf8").trim());
    const partial = [...older.keys()].find((path) => path.startsWith("tile/0/"));
    if (signer === null || partial === undefined) throw new Error("no key or no older tile");
    const hashes = older.get(partial) ?? Buffer.alloc(0);
    expect(hashes.length).toBe(32);
    const note = signCheckpoint({ origin: log.name, size: 1, root: hashes }, [signer]);
    const back = new Map([...older].filter(([path]) => !path.endsWith("/2"))).set(
      "checkpoint",
      Buffer.from(note),
    );
    const alone = await verify(back);
    expect(alone.verdict).toBe("verified");
    expect(alone.notes.join(" ")).toContain("roll-back");
    expect((await verify(back, newest)).findings[0]).toMatchObject({ cause: "rolled-back" });
    expect((await verify(files, Buffer.from(note))).verdict).toBe("verified");
  });
});
