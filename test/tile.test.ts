import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  formatBundle,
  parseBundle,
  parseTilePath,
  type Tile,
  tilePath,
  tilesOf,
} from "../exporter/log/tile.ts";

describe("tiles", () => {
  it.each<[string, Tile]>([
    ["tile/0/000", { level: 0, index: 0, width: 256 }],
    ["tile/3/255", { level: 3, index: 255, width: 256 }],
    ["tile/0/x001/000", { level: 0, index: 1000, width: 256 }],
    ["tile/0/x001/x234/067", { level: 0, index: 1234067, width: 256 }],
    ["tile/entries/x123/x456/789.p/41", { level: "entries", index: 123456789, width: 41 }],
  ])("have the path %s", (path, tile) => {
    expect(tilePath(tile)).toBe(path);
    expect(parseTilePath(path)).toEqual(tile);
  });

  it.each([
    "tile/0/0",
    "tile/00/000",
    "tile/64/000",
    "tile/0/x000/000",
    "tile/0/000.p/0",
    "tile/0/000.p/256",
    "tile/0/000.p/01",
    "tile/0/000/",
    "/tile/0/000",
    "tile/data/000",
    "tile/0/../0/000",
  ])("do not have the path %s", (path) => {
    expect(parseTilePath(path)).toBeNull();
  });

  // c2sp.org/tlog-tiles, "Partial tiles": the example of a tree of 70,000.
  it("of a tree of 70,000 are the specification's", () => {
    const all = [...tilesOf(70_000)];
    expect(all.filter((t) => t.level === 0 && t.width === 256)).toHaveLength(273);
    expect(all.filter((t) => t.level !== "entries" && t.width < 256).map(tilePath)).toEqual([
      "tile/0/273.p/112",
      "tile/1/001.p/17",
      "tile/2/000.p/1",
    ]);
    expect([...tilesOf(256)].map(tilePath)).toEqual([
      "tile/entries/000",
      "tile/0/000",
      "tile/1/000.p/1",
    ]);
    expect([...tilesOf(0)]).toEqual([]);
  });

  it("pack entries that come back, and nothing else comes back", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array(), { maxLength: 20 }), fc.uint8Array(), (entries, any) => {
        const bundle = formatBundle(entries);
        expect(parseBundle(bundle, entries.length)).toEqual(entries.map((e) => Buffer.from(e)));
        expect(parseBundle(bundle, entries.length + 1)).toBeNull();
        const parsed = parseBundle(any, 3);
        if (parsed !== null) expect(formatBundle(parsed)).toEqual(Buffer.from(any));
      }),
    );
  });
});
