/** Last words in Envoy's log, signed heads, and what a forger can do with either. */
import { generateKeyPairSync, verify } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { headText, ProxyWalk } from "../exporter/audit/proxies.ts";
import { Findings } from "../exporter/audit/report.ts";
import { checkSeals, parseSeal, proofOf } from "../exporter/audit/seals.ts";
import { readSpills } from "../exporter/audit/spill.ts";
import { bytesOf, type Entry } from "../record/codec.ts";
import * as f from "../record/fields.ts";
import { entriesOf, lastCall, receiptFor, started, stream } from "./support/filter.ts";
import type { Host } from "./support/host.ts";

const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
const other = generateKeyPairSync("ec", { namedCurve: "P-256" });
const MAC_KEY = Buffer.alloc(32, 5);
const environment = {
  SIGN: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
  MAC: `cart:${MAC_KEY.toString("hex")}`,
};
const SIGNED = '{"signKeyEnv":"SIGN","signKeyId":"cart-1"';
const PROXIES = [{ key: publicKey, keyId: "cart-1" }];
const MACS = new Map([["cart", MAC_KEY]]);
const NO_KEYS = { proxies: [], macs: new Map() };

describe("signatures", () => {
  test("each batch ends with one, over the entry before it and so over all", async () => {
    const host = await started(`${SIGNED}}`, { environment });
    host.request(stream("/a"));
    host.tick();
    const { entries } = entriesOf(lastCall(host));
    expect(entries.map(({ kind }) => kind)).toEqual([
      f.KIND_OPEN,
      f.KIND_REQUEST,
      f.KIND_SIGNATURE,
    ]);
    const last = entries[2] as Entry;
    const signature = bytesOf(last, f.F_SIGNATURE) ?? new Uint8Array();
    expect(verify("sha256", headText(last.chain, 1, last.prev), publicKey, signature)).toBe(true);
    expect(Buffer.from(bytesOf(entries[0] as Entry, f.F_SIGN_KEY) ?? []).toString()).toBe("cart-1");
    host.answer(lastCall(host), receiptFor(lastCall(host)));
    host.tick();
    expect(host.calls).toHaveLength(1);
  });

  test("a host that cannot sign: the filter says so, and open names no key", async () => {
    const host = await started("{}", { environment });
    host.hasSign = false;
    expect(host.configure(`${SIGNED}}`, 2)).toBe(true);
    expect(host.logs.at(-1)).toContain("cannot sign");
    host.request(stream("/a"));
    host.tick(250, 2);
    const { entries } = entriesOf(lastCall(host));
    expect(entries.map(({ kind }) => kind)).toEqual([f.KIND_OPEN, f.KIND_REQUEST]);
    expect(bytesOf(entries[0] as Entry, f.F_SIGN_KEY)).toBeUndefined();
  });

  /** What verify says of a chain, with these proxies in the policy. */
  async function judge(
    proxies: ConstructorParameters<typeof ProxyWalk>[1],
    change: (entry: Entry) => Entry | null = (entry) => entry,
  ) {
    const host = await started(`${SIGNED}}`, { environment });
    host.request(stream("/a"));
    host.tick();
    const { entries, chain } = entriesOf(lastCall(host));
    const findings = new Findings();
    const walk = new ProxyWalk(findings, proxies);
    for (const [i, entry] of entries.entries()) {
      const changed = change(entry);
      if (changed !== null) walk.visit(changed, chain, i);
    }
    const notes: string[] = [];
    walk.finish(notes);
    return { causes: findings.list.map(({ cause }) => cause), verdict: findings.verdict, notes };
  }

  test("of a listed proxy are verified, by key id or by workload", async () => {
    expect(await judge(PROXIES)).toMatchObject({ causes: [], verdict: "verified" });
    expect((await judge(PROXIES)).notes).toEqual(["1 signatures by proxies were verified."]);
    expect((await judge([])).notes).toEqual([
      "1 signatures by proxies were not checked: no key given.",
    ]);
  });

  test("by another key are tampering", async () => {
    const proxies = [{ key: other.publicKey, keyId: "cart-1" }];
    expect(await judge(proxies)).toMatchObject({
      causes: ["signature", "unsigned"],
      verdict: "tampered",
    });
  });

  test("that are left out are noticed", async () => {
    const strip = (entry: Entry) => (entry.kind === f.KIND_SIGNATURE ? null : entry);
    expect(await judge(PROXIES, strip)).toMatchObject({
      causes: ["unsigned"],
      verdict: "cannot-say",
    });
  });

  test("over another entry do not fit", async () => {
    const move = (entry: Entry) =>
      entry.kind === f.KIND_SIGNATURE ? { ...entry, prev: Buffer.alloc(32, 1) } : entry;
    expect((await judge(PROXIES, move)).causes).toContain("signature");
  });
});

/** A chain that ends with `rest` unreceipted requests, and what Envoy's log has of it. */
async function ended(config: string, rest: number): Promise<Host> {
  const host = await started(config, { environment });
  host.request(stream("/receipted"));
  host.tick();
  host.answer(lastCall(host), receiptFor(lastCall(host)));
  for (let i = 0; i < rest; i++) host.request(stream(`/${i}`));
  host.done();
  return host;
}

describe("seals", () => {
  test.each([
    ["a signature", `${SIGNED}}`, "signature"],
    ["a MAC", '{"batchKeyEnv":"MAC"}', "mac"],
    ["nothing", "{}", "none"],
  ])("with %s say what they are worth", async (_, config, proof) => {
    // A MAC'd receipt is not made here: the seal counts that chain from its start.
    const host = await ended(config, 3);
    const line = host.logs.find((text) => text.startsWith("meshseal seal")) ?? "";
    const seal = parseSeal(`[2026-11-25][warning][wasm] wasm log: ${line}`);
    if (seal === null) throw new Error(line);
    expect(proofOf(seal, { proxies: PROXIES, macs: MACS })).toBe(proof);
    expect(proofOf(seal, NO_KEYS)).toBe("none");
    const forged = parseSeal(line.replace(/unreceipted=\d+/, "unreceipted=0"));
    if (forged === null) throw new Error(line);
    const expected = proof === "none" ? "none" : "forged";
    expect(proofOf(forged, { proxies: PROXIES, macs: MACS })).toBe(expected);
  });

  test("are compared with what a log holds", async () => {
    const host = await ended(`${SIGNED}}`, 3);
    const line = host.logs.at(-1) ?? "";
    const seal = parseSeal(line);
    if (seal === null) throw new Error(line);
    const { chain, seq, head } = seal;
    const check = (last: number, ends: string) => {
      const findings = new Findings();
      const one = {
        chain,
        first: 0,
        last,
        head: ends,
        entries: last + 1,
        prev: "",
        from: "",
        state: "open",
      } as const;
      const keys = { proxies: PROXIES, macs: MACS };
      const whole = checkSeals([line], keys, last < 0 ? [] : [one], findings, []);
      return {
        whole: whole.has(chain),
        causes: findings.list.map((found) => found.cause),
        verdict: findings.verdict,
      };
    };
    expect(check(seq, head)).toEqual({ whole: true, causes: [], verdict: "verified" });
    expect(check(seq - 2, "00")).toEqual({ whole: false, causes: ["seal"], verdict: "incomplete" });
    expect(check(-1, "")).toEqual({ whole: false, causes: ["seal"], verdict: "incomplete" });
    expect(check(seq, "00")).toEqual({
      whole: false,
      causes: ["seal-contradicted"],
      verdict: "tampered",
    });
    expect(check(seq + 1, head)).toMatchObject({ verdict: "tampered" });
  });

  test("any text is read without a throw", () => {
    const piece = fc.oneof(
      fc.string(),
      fc.constantFrom("meshseal seal chain=", "a".repeat(32), " seq=1", " head=", "b".repeat(64)),
      fc.constantFrom(
        " unreceipted=0",
        " missed=0",
        " sign_key=x sig=",
        " key=cart mac=",
        "A".repeat(44),
      ),
    );
    fc.assert(
      fc.property(
        fc.array(piece).map((parts) => parts.join("")),
        (line) => {
          const seal = parseSeal(line);
          if (seal !== null) proofOf(seal, { proxies: PROXIES, macs: MACS });
        },
      ),
    );
  });
});

describe("spills", () => {
  const config = '{"spill":true,"batchKeyEnv":"MAC"}';

  test("come home whole, in order, whatever else is in the log", async () => {
    const host = await ended('{"spill":true}', 100);
    const noise = host.logs.flatMap((line) => ["[info] something else", `x ${line} y`]);
    const shuffled = [...noise].reverse();
    const { batches, forged, missing } = readSpills([...shuffled, ...noise], NO_KEYS);
    expect({ forged, missing }).toEqual({ forged: [], missing: [] });
    // 100 requests and the close; the open and the first request were receipted.
    expect(batches.reduce((sum, { count }) => sum + count, 0)).toBe(101);
    expect(batches[0]?.firstSeq).toBe(2);
    for (const line of host.logs) expect(line.length).toBeLessThan(16_000);
  });

  test("with a MAC are told from forged ones", async () => {
    const host = await ended(config, 5);
    const keys = { proxies: [], macs: MACS };
    expect(readSpills(host.logs, keys)).toMatchObject({ batches: [{ proof: "mac" }], forged: [] });
    const wrong = { proxies: [], macs: new Map([["cart", Buffer.alloc(32, 6)]]) };
    expect(readSpills(host.logs, wrong)).toMatchObject({
      batches: [],
      forged: [expect.any(String)],
    });
  });

  test("that were changed, cut or put together wrongly never come out as more than they are", async () => {
    const host = await ended(config, 40);
    const keys = { proxies: [], macs: MACS };
    const honest = readSpills(host.logs, keys).batches[0]?.bytes ?? Buffer.alloc(0);
    const spills = host.logs.filter((line) => line.startsWith("meshseal spill"));
    const at = fc.nat(spills.length - 1);
    fc.assert(
      fc.property(
        at,
        fc.nat(),
        fc.constantFrom("flip", "cut", "drop", "double"),
        (line, place, how) => {
          const changed = [...host.logs];
          const index = changed.indexOf(spills[line] ?? "");
          const before = changed[index] ?? "";
          const from = before.indexOf("data=") + 5;
          const where = from + (place % (before.length - from));
          const flipped = `${before.slice(0, where)}${before[where] === "A" ? "B" : "A"}${before.slice(where + 1)}`;
          if (how === "flip") changed[index] = flipped;
          else if (how === "cut") changed[index] = before.slice(0, where);
          else if (how === "drop") changed.splice(index, 1);
          else changed.push(flipped);
          const { batches, forged, missing } = readSpills(changed, keys);
          for (const { bytes } of batches) expect(bytes.equals(honest)).toBe(true);
          if (batches.length === 0) expect(forged.length + missing.length).toBeGreaterThan(0);
        },
      ),
      { numRuns: 400 },
    );
  });
});
