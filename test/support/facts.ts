/** An entry as its facts, by field names: what tests of the filter compare. */
import { type Entry, fieldOf } from "../../record/codec.ts";

export type Facts = Readonly<Record<string, string | number | (string | number)[] | undefined>>;

/** Text as it is, or hex where a field has one length. What may stand more than once is a list. */
export function factsOf(entry: Entry): Facts {
  const facts: Record<string, string | number | (string | number)[]> = {};
  for (const { number, value } of entry.fields) {
    const field = fieldOf(number);
    if (field === undefined) throw new Error(`field ${number} is unknown`);
    const encoding = field.min === field.max ? "hex" : "latin1";
    const shown = typeof value === "number" ? value : Buffer.from(value).toString(encoding);
    if (field.times === 1) facts[field.name] = shown;
    else facts[field.name] = [(facts[field.name] as (string | number)[]) ?? [], shown].flat();
  }
  return facts;
}
