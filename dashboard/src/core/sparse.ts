/**
 * Updates of which few coordinates travel, as `protocol/formats/sparse.py`: places in the code of Elias and Fano, their low
 * parts, values, and all statistics. One update has one byte string; every other one is refused.
 */
import { Malformed } from "./canonical.ts";
import type { Update } from "./vectors.ts";

/** What all sparse updates of a job have in common. */
export interface SparseFormat {
  trained: number; // coordinates, of which few travel
  statistics: number; // coordinates, which all do
  most: number; // of the trained ones that travel
  bits: 4 | 8 | 16 | 32; // of each value
  lowBits: number;
  lowsAt: number; // bytes before each part
  valuesAt: number;
  statisticsAt: number;
  bytes: number;
}

export function sparseFormat(
  trained: number,
  statistics: number,
  share: number,
  bits: SparseFormat["bits"],
): SparseFormat {
  const most = mostOf(trained, share);
  const lowBits = 31 - Math.clz32(Math.floor(trained / most));
  const lowsAt = Math.ceil((most + Math.floor((trained - 1) / 2 ** lowBits) + 1) / 8);
  const valuesAt = lowsAt + Math.ceil((most * lowBits) / 8);
  const statisticsAt = valuesAt + Math.ceil((most * bits) / 8);
  const bytes = statisticsAt + (statistics * Math.max(bits, 8)) / 8;
  return { trained, statistics, most, bits, lowBits, lowsAt, valuesAt, statisticsAt, bytes };
}

/** How many coordinates are that share of them, rounded up: of the decimal as which it is written. */
function mostOf(trained: number, share: number): number {
  const [digits, exponent = "0"] = String(share).split("e");
  const [whole, fraction = ""] = digits.split(".");
  const denominator = 10n ** BigInt(fraction.length - Number(exponent));
  return Number((BigInt(whole + fraction) * BigInt(trained) + denominator - 1n) / denominator);
}

/** All coordinates, most of them 0. Throws `Malformed`. */
export function parseSparse(data: Uint8Array, form: SparseFormat): Update {
  if (data.length !== form.bytes) throw new Malformed(`a sparse update of this job has ${form.bytes} bytes`);
  const length = form.trained + form.statistics;
  const found =
    form.bits <= 8 ? new Int8Array(length) : form.bits === 16 ? new Int16Array(length) : new Int32Array(length);
  let count = 0;
  let last = -1;
  for (let bit = 0; bit < 8 * form.lowsAt; bit++) {
    if (!data[bit >> 3]) bit |= 7; // nothing in this byte
    if (!((data[bit >> 3] >> (bit & 7)) & 1)) continue;
    if (count === form.most) throw new Malformed("a sparse update has more coordinates than its share");
    const place = (bit - count) * 2 ** form.lowBits + bitsAt(data, form.lowsAt, count * form.lowBits, form.lowBits);
    if (place <= last || place >= form.trained) throw new Malformed("the coordinates of a sparse update do not ascend");
    const value = bitsAt(data, form.valuesAt, count * form.bits, form.bits);
    if (!value) throw new Malformed("a sparse update names a coordinate that does not move");
    found[place] = value >= 2 ** (form.bits - 1) ? value - 2 ** form.bits : value;
    last = place;
    count += 1;
  }
  if (
    !isBlank(data.subarray(form.lowsAt, form.valuesAt), count * form.lowBits) ||
    !isBlank(data.subarray(form.valuesAt, form.statisticsAt), count * form.bits)
  ) {
    throw new Malformed("a sparse update has something where nothing belongs");
  }
  const rest = data.slice(form.statisticsAt);
  new Uint8Array(found.buffer).set(rest, found.byteLength - rest.length);
  return found;
}

/** So many bits, at most 32, from the lowest on. */
function bitsAt(data: Uint8Array, base: number, at: number, bits: number): number {
  let value = 0;
  for (let read = 0; read < bits;) {
    const shift = (at + read) % 8;
    const taken = Math.min(8 - shift, bits - read);
    value += ((data[base + Math.floor((at + read) / 8)] >> shift) & ((1 << taken) - 1)) * 2 ** read;
    read += taken;
  }
  return value;
}

/** Whether all is zero from a bit on. */
function isBlank(part: Uint8Array, bit: number): boolean {
  const whole = Math.floor(bit / 8);
  return !(part[whole] >> (bit % 8)) && part.subarray(whole + 1).every((byte) => byte === 0);
}
