/** How the benchmarks sum up what they measured. */

/** Returns the median, or NaN of nothing. */
export function median(figures: readonly number[]): number {
  const sorted = figures.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

/** Returns "median (least to most)", with one decimal. */
export function spread(figures: readonly number[]): string {
  const [least, most] = [Math.min(...figures), Math.max(...figures)];
  return `${median(figures).toFixed(1)} (${least.toFixed(1)} to ${most.toFixed(1)})`;
}

/** Returns the least and the most, NaN of nothing. */
export function spreadOf(figures: readonly number[]): [number, number] {
  if (figures.length === 0) return [Number.NaN, Number.NaN];
  return [Math.min(...figures), Math.max(...figures)];
}

/** Returns the figure below which `share` of the sorted figures lie. */
export function percentile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

/** Returns the first and the third quartile, by the nearest rank. */
export function quartiles(figures: readonly number[]): number[] {
  const sorted = figures.toSorted((a, b) => a - b);
  return [0.25, 0.75].map((share) => sorted[Math.floor((sorted.length - 1) * share)] ?? Number.NaN);
}
