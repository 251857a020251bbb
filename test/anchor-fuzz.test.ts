import { beforeAll, expect, test } from "vitest";
import { anchorTargets, mutate, type Target } from "./support/anchor-fuzz.ts";
import { randomFrom } from "./support/random.ts";

// Short; scripts/fuzz-anchors.ts runs for as long as is wanted.

const NAMES = [
  "tsr-ec",
  "tsr-rsa",
  "ots",
  "calendar",
  "cosignature",
  "tlog-policy",
  "headers",
  "rekor",
  "rekor-body",
  "add-checkpoint",
];
let targets: Target[] = [];
beforeAll(async () => {
  targets = await anchorTargets();
});

test("every parser of the area is a target", () => {
  expect(targets.map(({ name }) => name)).toEqual(NAMES);
});

test.each(NAMES)("%s: what was changed is refused, or says the same", (name) => {
  const target = targets.find((one) => one.name === name);
  if (target === undefined) throw new Error("no target");
  const seed = Math.floor(Math.random() * 2 ** 31);
  console.log(`seed ${seed}`);
  const random = randomFrom(seed);
  const outcomes = new Set<string>();
  for (const good of target.seeds) outcomes.add(target.judge(good, good));
  // The good ones are good: else nothing was tested.
  if (name !== "add-checkpoint")
    expect([...outcomes].every((word) => ["verified", "parsed"].includes(word))).toBe(true);
  const before = outcomes.size;
  // A token is verified with certificates: some milliseconds each.
  const inputs = name.startsWith("tsr") ? 400 : 2000;
  for (let i = 0; i < inputs; i++) {
    const good = target.seeds[i % target.seeds.length] as Buffer;
    const input = mutate(good, target.seeds, random);
    try {
      outcomes.add(target.judge(input, good));
    } catch (error) {
      throw new Error(`${name} on ${input.toString("base64")} from ${good.toString("base64")}`, {
        cause: error,
      });
    }
  }
  expect(outcomes.size).toBeGreaterThan(before);
});
