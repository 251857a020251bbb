/**
 * As much of CEL as the filter uses: lists, `has(x) ? a : b`, attributes and ''. Evaluates to bytes as Envoy serialises them: a list is
 * pairs without values, and so is a list in a list.
 */

/** Gives an attribute's bytes, or null where it is absent. */
export type Attributes = (name: string) => Uint8Array | null;

/** Returns the bytes, or null: one absent attribute fails everything. Throws at what it cannot read. */
export function evaluate(text: string, attributes: Attributes): Uint8Array | null {
  const tokens = text.match(/[\w]+(?:\.\w+)+|has|metadata|''|[[\](),?:]/g) ?? [];
  let at = 0;
  const eat = (token: string): void => {
    if (tokens[at++] !== token) throw new Error(`this host cannot read ${text} at ${token}`);
  };

  /** `isTaken` is false in the branch that is not chosen. */
  function expression(isTaken: boolean): Uint8Array | null {
    if (tokens[at] === "[") return list(isTaken);
    if (tokens[at] === "has") {
      at++;
      eat("(");
      const isThere = attributes(tokens[at++] ?? "") !== null;
      eat(")");
      eat("?");
      const first = expression(isTaken && isThere);
      eat(":");
      const second = expression(isTaken && !isThere);
      return isThere ? first : second;
    }
    const name = tokens[at++] ?? "";
    if (name === "''" || !isTaken) return new Uint8Array();
    return attributes(name);
  }

  function list(isTaken: boolean): Uint8Array | null {
    eat("[");
    const items: (Uint8Array | null)[] = [];
    while (tokens[at] !== "]") {
      if (items.length > 0) eat(",");
      items.push(expression(isTaken));
    }
    eat("]");
    return items.some((item) => item === null)
      ? null
      : formatPairs(items.map((item) => [item ?? new Uint8Array(), new Uint8Array()]));
  }

  return expression(true);
}

/** Returns pairs as Proxy-Wasm hosts serialise them. */
export function formatPairs(pairs: readonly (readonly [Uint8Array, Uint8Array])[]): Buffer {
  const head = Buffer.alloc(4 + 8 * pairs.length);
  head.writeUInt32LE(pairs.length);
  pairs.forEach(([key, value], i) => {
    head.writeUInt32LE(key.length, 4 + 8 * i);
    head.writeUInt32LE(value.length, 8 + 8 * i);
  });
  const nul = Buffer.alloc(1);
  return Buffer.concat([head, ...pairs.flatMap(([key, value]) => [key, nul, value, nul])]);
}
