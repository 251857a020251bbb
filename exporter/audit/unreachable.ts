/** The log cannot be read: says nothing about what it holds. */
export class Unreachable extends Error {
  override name = "Unreachable";
}
