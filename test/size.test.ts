import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { receiptFor, stream } from "./support/filter.ts";
import { Host } from "./support/host.ts";

describe.each(["filter", "enforce"])("%s.wasm", (name) => {
  const module = `build/${name}.wasm`;

  test("is smaller than 64 KiB", () => {
    expect(readFileSync(module).length).toBeLessThan(64 * 1024);
  });

  test("a VM keeps less than 1 MiB resident, idle and after many batches, and its memory does not grow", async () => {
    const { host } = await Host.start("{}", { module });
    const idle = host.touchedBytes;
    const bytes = host.memoryBytes;
    expect(idle).toBeLessThan(512 * 1024);
    for (let batch = 0; batch < 60; batch++) {
      for (let i = 0; i < 250; i++) host.request(stream(`/cart/${i}`));
      host.tick();
      for (const call of host.calls.splice(0)) host.answer(call, receiptFor(call));
    }
    expect(host.metric("gap_requests")).toBe(0);
    expect(host.metric("receipted_entries")).toBeGreaterThan(12_000);
    expect(host.touchedBytes).toBeLessThan(1024 * 1024);
    expect(host.memoryBytes).toBe(bytes);
  });
});
