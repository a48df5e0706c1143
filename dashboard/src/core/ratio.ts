/** Exact fractions, of doubles and of what is made of them. Denominators are positive. */

export type Ratio = [bigint, bigint];

/** The double's exact value; throws `RangeError` for none. */
export function ratioOf(value: number): Ratio {
  if (!Number.isFinite(value)) throw new RangeError("not a number");
  let shift = 0n;
  let whole = value;
  while (!Number.isInteger(whole)) [whole, shift] = [whole * 2, shift + 1n];
  return [BigInt(whole), 1n << shift];
}

export function times(a: Ratio, b: Ratio): Ratio {
  return [a[0] * b[0], a[1] * b[1]];
}

export function over(a: Ratio, b: Ratio): Ratio {
  return [a[0] * b[1], a[1] * b[0]];
}

/** Of what is not negative. */
export function floor([above, below]: Ratio): bigint {
  return above / below;
}

export function ceil([above, below]: Ratio): bigint {
  return (above + below - 1n) / below;
}
