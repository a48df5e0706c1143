/** JSON from strangers: canonical (RFC 8785), so that one value has one byte string, and read field by field. */

export class Malformed extends Error {}

/** Something that may be right, of a kind that this page does not know: it accuses nobody. */
export class Unknown extends Error {}

/** Throws `Malformed` unless `data` is canonical JSON: no key stands twice, nothing can be written in two ways. */
export function parseCanonical(data: Uint8Array): unknown {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(data);
    const value: unknown = JSON.parse(text);
    if (canonical(value) === text) return value;
  } catch (error) {
    throw new Malformed(`not valid JSON: ${error instanceof Error ? error.message : "?"}`);
  }
  throw new Malformed("not in canonical form (RFC 8785)");
}

/** ECMAScript writes numbers and strings as RFC 8785 asks; only the keys are to be sorted, by UTF-16 units. */
export function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, each]) => `${JSON.stringify(key)}:${canonical(each)}`).join(",")}}`;
}

/** A table of keys that are read by name; each read throws `Malformed` where what is there is something else. */
export class Fields {
  readonly #value: Record<string, unknown>;
  readonly #where: string;

  constructor(value: unknown, where: string) {
    if (value === null || typeof value !== "object" || Array.isArray(value))
      throw new Malformed(`${where} is not a table of keys`);
    this.#value = value as Record<string, unknown>;
    this.#where = where;
  }

  get keys(): string[] {
    return Object.keys(this.#value);
  }

  has(key: string): boolean {
    return this.#value[key] !== null && this.#value[key] !== undefined;
  }

  table(key: string): Fields {
    return new Fields(this.#value[key], `${this.#where}.${key}`);
  }

  list(key: string): unknown[] {
    const value = this.#value[key];
    if (Array.isArray(value)) return value;
    throw this.#wrong(key, "a list");
  }

  tables(key: string): Fields[] {
    return this.list(key).map((each, index) => new Fields(each, `${this.#where}.${key}.${index}`));
  }

  text(key: string): string {
    const value = this.#value[key];
    if (typeof value === "string") return value;
    throw this.#wrong(key, "a text");
  }

  number(key: string): number {
    const value = this.#value[key];
    if (typeof value === "number") return value;
    throw this.#wrong(key, "a number");
  }

  whole(key: string, most: number = Number.MAX_SAFE_INTEGER): number {
    const value = this.number(key);
    if (Number.isSafeInteger(value) && value >= 0 && value <= most) return value;
    throw this.#wrong(key, `a whole number of at most ${most}`);
  }

  integer(key: string): number {
    const value = this.number(key);
    if (Number.isSafeInteger(value)) return value;
    throw this.#wrong(key, "an integer");
  }

  flag(key: string): boolean {
    const value = this.#value[key];
    if (typeof value === "boolean") return value;
    throw this.#wrong(key, "true or false");
  }

  #wrong(key: string, wanted: string): Malformed {
    return new Malformed(`${this.#where}.${key} is not ${wanted}`);
  }
}
