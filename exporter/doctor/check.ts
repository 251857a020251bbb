/**
 * A check of what surrounds the exporter: it tries, looks, and says what it saw. `meshseal doctor` runs lists of them,
 * one list a subject (data.ts; others beside it).
 */

export type Status =
  /** As it should be, and it was tried. */
  | "good"
  /** Worth knowing; nothing that the log promises depends on it. */
  | "warning"
  /** A promise of the documentation does not hold here. */
  | "bad"
  /** It could not be tried: says nothing. */
  | "unknown";

export type Outcome = { readonly status: Status; readonly message: string };

export type Check = {
  /** What is promised, in a few words: "a locked file cannot be deleted". */
  readonly name: string;
  readonly run: () => Promise<Outcome>;
};

export type CheckResult = Outcome & { readonly name: string };

/** Runs checks one after the other, in order. One that throws is "unknown", with what it threw. */
export async function runChecks(
  checks: readonly Check[],
  onResult: (result: CheckResult) => void = () => {},
): Promise<CheckResult[]> {
  const results: CheckResult[] = [];
  for (const { name, run } of checks) {
    const outcome = await run().catch((error: unknown): Outcome => {
      return { status: "unknown", message: error instanceof Error ? error.message : String(error) };
    });
    const result = { name, ...outcome };
    results.push(result);
    onResult(result);
  }
  return results;
}
