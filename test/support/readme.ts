/** The commands that README.md tells people to type: tests run them as they stand there. */
import { readFileSync } from "node:fs";

/** The indented lines below a heading, without their remarks. */
export function commandsUnder(heading: string): string[] {
  const section =
    readFileSync("README.md", "utf8").split(`\n## ${heading}\n`)[1]?.split("\n## ")[0] ?? "";
  return section
    .split("\n")
    .filter((line) => line.startsWith("    "))
    .map((line) => line.trim().replace(/ {2,}#.*$/, ""));
}
