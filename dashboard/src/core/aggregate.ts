/**
 * The model after a round, from the one before and the accepted updates, as `protocol/settlement/aggregation`: weighted
 * mean, median and trimmed mean. Rules that need other inputs than coordinates are left to `deepledger audit`.
 */
import type { Spec } from "./spec.ts";
import type { Update } from "./vectors.ts";

export interface Row {
  weight: number; // declared samples, at most the spec's
  vector: Update;
}

export const RULES = ["weighted_mean", "median", "trimmed_mean"];

export function isDerivable(spec: Pick<Spec, "rule" | "bucketSize">): boolean {
  return RULES.includes(spec.rule) && spec.bucketSize === 1;
}

const LEAST = -(2 ** 31);
const MOST = 2 ** 31 - 1;

/** Turns `model`, in place, into the model after; gives how many coordinates were held at the ends of int32. */
export function advance(model: Int32Array, rows: Row[], spec: Spec): number {
  if (!rows.length) return 0;
  const scale = 2 ** (spec.modelFraction - spec.updateFraction);
  const saturated =
    spec.rule === "weighted_mean" ? addWeightedMean(model, rows, scale, spec) : addMiddle(model, rows, scale, spec);
  for (let i = spec.variancesFrom; i < model.length; i++) model[i] = Math.max(model[i], spec.leastVariance);
  return saturated;
}

/** sum_p w_p·q_p·2^(F-U) / sum_p w_p, McMahan et al. 2017. In doubles where no sum can pass 2^53, else in big integers. */
function addWeightedMean(model: Int32Array, rows: Row[], scale: number, spec: Spec): number {
  const total = rows.reduce((sum, row) => sum + row.weight, 0);
  if (total * 2 ** (spec.updateBits - 1) * scale * 2 > Number.MAX_SAFE_INTEGER)
    return addLargeMean(model, rows, scale, total);
  let saturated = 0;
  for (let i = 0; i < model.length; i++) {
    let sum = 0;
    for (const { weight, vector } of rows) sum += weight * vector[i];
    saturated += step(model, i, divideHalfEven(sum * scale, total));
  }
  return saturated;
}

function addLargeMean(model: Int32Array, rows: Row[], scale: number, total: number): number {
  const [factor, denominator] = [BigInt(scale), BigInt(total)];
  let saturated = 0;
  for (let i = 0; i < model.length; i++) {
    let sum = 0n;
    for (const { weight, vector } of rows) sum += BigInt(weight) * BigInt(vector[i]);
    saturated += step(model, i, Number(divideLargeHalfEven(sum * factor, denominator)));
  }
  return saturated;
}

/** The mean of what is left of each coordinate without so many of its least and greatest (Yin et al. 2018). */
function addMiddle(model: Int32Array, rows: Row[], scale: number, spec: Spec): number {
  const count = rows.length;
  const drop = spec.rule === "median" ? (count - 1) >> 1 : Math.floor((count * spec.trimPercent) / 100);
  const kept = count - 2 * drop;
  const column = new Int32Array(count);
  let saturated = 0;
  for (let i = 0; i < model.length; i++) {
    for (let row = 0; row < count; row++) {
      const value = rows[row].vector[i];
      let place = row;
      for (; place > 0 && column[place - 1] > value; place--) column[place] = column[place - 1];
      column[place] = value;
    }
    let sum = 0;
    for (let row = drop; row < drop + kept; row++) sum += column[row];
    // At most 2^6 · 2^31 · 2^30: larger than a double holds exactly only where bits and shift are both extreme.
    const numerator = sum * scale;
    const exact = Math.abs(numerator) <= Number.MAX_SAFE_INTEGER;
    saturated += step(
      model,
      i,
      exact ? divideHalfEven(numerator, kept) : Number(divideLargeHalfEven(BigInt(sum) * BigInt(scale), BigInt(kept))),
    );
  }
  return saturated;
}

function step(model: Int32Array, i: number, mean: number): 0 | 1 {
  const moved = model[i] + mean;
  model[i] = Math.min(Math.max(moved, LEAST), MOST);
  return moved < LEAST || moved > MOST ? 1 : 0;
}

/** Exact quotient rounded to the nearest integer, ties to even. Both are safe integers, the denominator positive. */
export function divideHalfEven(numerator: number, denominator: number): number {
  let quotient = Math.floor(numerator / denominator);
  let rest = numerator - quotient * denominator;
  if (rest < 0) [quotient, rest] = [quotient - 1, rest + denominator];
  if (rest >= denominator) [quotient, rest] = [quotient + 1, rest - denominator];
  const twice = 2 * rest;
  return twice > denominator || (twice === denominator && quotient % 2 !== 0) ? quotient + 1 : quotient;
}

function divideLargeHalfEven(numerator: bigint, denominator: bigint): bigint {
  let quotient = numerator / denominator;
  let rest = numerator % denominator;
  if (rest < 0n) [quotient, rest] = [quotient - 1n, rest + denominator];
  const twice = 2n * rest;
  return twice > denominator || (twice === denominator && quotient % 2n !== 0n) ? quotient + 1n : quotient;
}
