/** Models and updates as integer vectors, as `protocol/formats/vectors.py`: exact, and so the same everywhere. */
import { parseSparse } from "./sparse.ts";
import type { Spec } from "./spec.ts";

export type Update = Int8Array | Int16Array | Int32Array;

const BLOCK = 1 << 16;

/** Bytes as a model. What is served need not be aligned, so they are copied where they are not. */
export function asModel(data: Uint8Array): Int32Array {
  return new Int32Array(aligned(data), 0, data.length / 4);
}

/** Throws `Malformed` for a sparse update that is none. */
export function parseUpdate(data: Uint8Array, spec: Spec): Update {
  if (spec.sparse) return parseSparse(data, spec.sparse);
  const bits = spec.updateBits;
  if (bits === 8) return new Int8Array(data.buffer, data.byteOffset, data.length);
  return bits === 16 ? new Int16Array(aligned(data)) : new Int32Array(aligned(data));
}

function aligned(data: Uint8Array): ArrayBuffer {
  const whole = data.byteOffset === 0 && data.byteLength === data.buffer.byteLength;
  return whole ? (data.buffer as ArrayBuffer) : (data.slice().buffer as ArrayBuffer);
}

/** Exact. |q| ≤ 2^31 splits into high·2^16 + low, so that no sum over a block reaches 2^53. */
export function sumOfSquares(update: Update): bigint {
  let total = 0n;
  for (let start = 0; start < update.length; start += BLOCK) {
    let [highs, mixed, lows] = [0, 0, 0];
    const stop = Math.min(start + BLOCK, update.length);
    for (let i = start; i < stop; i++) {
      const high = update[i] >> 16;
      const low = update[i] & 0xffff;
      highs += high * high;
      mixed += high * low;
      lows += low * low;
    }
    total += (BigInt(highs) << 32n) + (BigInt(mixed) << 17n) + BigInt(lows);
  }
  return total;
}

/** The largest allowed sum of squared update integers: floor((norm_bound · 2^fraction_bits)^2), of the exact double. */
export function squareLimit(spec: Pick<Spec, "normBound" | "updateFraction">): bigint {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, spec.normBound);
  const bits = view.getBigUint64(0);
  const exponent = Number((bits >> 52n) & 0x7ffn);
  const mantissa = (bits & 0xfffffffffffffn) | (exponent ? 1n << 52n : 0n);
  const shift = 2 * (Math.max(exponent, 1) - 1075 + spec.updateFraction);
  const square = mantissa * mantissa;
  return shift >= 0 ? square << BigInt(shift) : square >> BigInt(-shift);
}

/** Whether the norm of what an update trains, and that of its statistics, are within the job's bound. */
export function fitsNorm(update: Update, spec: Spec): boolean {
  const limit = squareLimit(spec);
  return (
    sumOfSquares(update.subarray(0, spec.trained)) <= limit && sumOfSquares(update.subarray(spec.trained)) <= limit
  );
}

export function changesNothing(update: Update, spec: Spec): boolean {
  return update.subarray(0, spec.trained).every((value) => value === 0);
}
