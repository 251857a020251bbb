/** Work on many things, some of them at a time. */

/** Runs `look` for each of `items`, `atOnce` at a time, beginning in their order. Rejects with what the first of them rejects with. */
export async function each<T>(
  items: readonly T[],
  atOnce: number,
  look: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let item = items[next++]; item !== undefined; item = items[next++]) await look(item);
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, worker));
}
