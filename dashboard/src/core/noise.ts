/**
 * What noise keeps private, as (ε, δ), of what a job asks for and participants state: nobody sees what noise was drawn.
 *
 * Of participants as `protocol/privacy/skellam.py`: Rényi divergences of Skellam noise (Agarwal, Kairouz and Liu 2021,
 * theorem 3.5). Of samples those of the Gaussian mechanism on a lot drawn by Poisson (Mironov, Talwar and Zhang 2019, section
 * 3.3, whole orders): an upper bound, above what `deepledger status` tells of privacy loss distributions. Both become ε by
 * Canonne, Kamath and Steinke 2020, proposition 12.
 */
import { Fields, parseCanonical } from "./canonical.ts";
import { ceil, floor, type Ratio, over, ratioOf, times } from "./ratio.ts";

const MOST_SEATS = 64;
const DRAWN = 2 ** -90;
const MISFIT = 2 ** -80;
const LEAST_DEVIATION = 16n;
const MOST_EPSILON = 700; // e^ε is a double up to there
const REPEATS = 100;
const ORDERS = [
  ...Array.from({ length: 126 }, (_, i) => i + 2),
  ...Array.from({ length: 64 }, (_, i) => 2 ** (7 + (i >> 3)) * (1 + (i & 7) / 8)),
];
const ORDERS_OF_STEPS = ORDERS.filter((order) => order <= 256); // the sum below has a term for each number up to it

/** What everybody learns of one participant in a round: an integer vector with Skellam noise. */
export interface Release {
  variance: number;
  squares: number;
  coordinates: number;
}

/** Steps of a training that were alike. */
export interface Steps {
  rate: number; // with which each sample was in a lot
  noiseMultiplier: number;
  count: number;
}

/** What a job asks of noise on each participant. */
export interface Clip {
  clipNorm: number;
  multiplier: number;
  bit: number | null; // of an adaptive clip
}

export const MAX_STATEMENT_BYTES = 1 << 20;

/** What a participant states of the private steps of its training, under its salt. Throws `Malformed`. */
export interface Statement {
  steps: Steps[] | null; // null: nothing was made private, or what was is past
  clipNorm: number;
}

export function readStatement(data: Uint8Array): Statement {
  const fields = new Fields(parseCanonical(data), "statement");
  if (!fields.has("run")) return { steps: null, clipNorm: 0 };
  const run = fields.table("run");
  const steps = run.tables("steps").map((each) => ({
    rate: each.number("rate"),
    noiseMultiplier: each.number("noise_multiplier"),
    count: each.whole("count"),
  }));
  const possible = steps.every((each) => each.rate > 0 && each.rate <= 1 && each.noiseMultiplier > 0);
  return { steps: run.has("past") || !possible ? null : steps, clipNorm: run.number("clip_norm") };
}

/** As `ParticipantPrivacy.release`, exactly. With an adaptive clip, what bounds every round. */
export function releaseOf(asked: Clip, fractionBits: number, coordinates: number): Release {
  const noise = ratioOf(asked.multiplier);
  const unit = 1n << BigInt(fractionBits);
  const variance = (clip: Ratio) => {
    const deviation = times(times(noise, clip), [unit, 1n]);
    return ceil(times(deviation, deviation));
  };
  if (asked.bit === null) {
    const longest = times(ratioOf(asked.clipNorm), [unit, 1n]);
    const squares = 4n * floor(times(longest, longest));
    return { variance: Number(variance(ratioOf(asked.clipNorm))), squares: Number(squares), coordinates };
  }
  const least = over(most(over([LEAST_DEVIATION, 1n], noise), [1n, 1n]), [unit, 1n]);
  const spread = variance(roundedUp(least, ratioOf(asked.clipNorm)));
  const bit = ratioOf(asked.bit);
  const [above, below] = times(bit, bit);
  const apart = over([4n * below + above, below], times(noise, noise));
  return {
    variance: Number(spread),
    squares: Number(ceil(times(apart, [spread, 1n]))),
    coordinates: coordinates + 1,
  };
}

/** As `ParticipantPrivacy.at` of a clip norm of 0. */
function roundedUp(least: Ratio, greatest: Ratio): Ratio {
  const held = greatest[0] * least[1] < least[0] * greatest[1] ? greatest : least;
  const bits = 40 - bitLength(held[0]) + bitLength(held[1]);
  const scale: Ratio = bits >= 0 ? [1n << BigInt(bits), 1n] : [1n, 1n << BigInt(-bits)];
  return most(over([floor(times(held, scale)), 1n], scale), over([ceil(times(least, scale)), 1n], scale));
}

function most(a: Ratio, b: Ratio): Ratio {
  return a[0] * b[1] >= b[0] * a[1] ? a : b;
}

function bitLength(value: bigint): number {
  return value ? value.toString(2).length : 0;
}

/** What so many alike releases cost a participant; infinite where δ is too small for how noise is drawn. */
export function epsilonOfRounds(release: Release, rounds: number, delta: number): number {
  if (!rounds) return 0;
  const { variance, squares, coordinates } = release;
  const length = Math.min(Math.sqrt(coordinates * squares), squares);
  const divergences = ORDERS.map((order) => {
    const further = ((2 * order - 1) * squares + 6 * length) / (4 * variance * variance);
    return rounds * ((order * squares) / (2 * variance) + Math.min(further, (3 * length) / (2 * variance)));
  });
  const distance = rounds * MOST_SEATS * (coordinates * DRAWN + MISFIT);
  let found = 0;
  for (let turn = 0; turn < REPEATS; turn++) {
    const left = delta - distance * (1 + Math.exp(Math.min(found, MOST_EPSILON)));
    if (left <= 0) return Infinity;
    const last = found;
    found = converted(ORDERS, divergences, left);
    if (found <= last * (1 + 1e-12)) return found;
  }
  return Infinity;
}

/** An upper bound of what private steps cost a sample together. */
export function epsilonOfSteps(steps: Steps[], delta: number): number {
  if (!steps.length) return 0;
  const divergences = ORDERS_OF_STEPS.map((order) =>
    steps.reduce((sum, each) => sum + each.count * divergenceOf(each.rate, each.noiseMultiplier, order), 0),
  );
  return converted(ORDERS_OF_STEPS, divergences, delta);
}

const knownSteps = new Map<string, number>();

/** log of sum_k C(α, k) (1 − q)^(α − k) q^k exp(k(k − 1) / 2σ²), over α − 1. */
function divergenceOf(rate: number, noise: number, order: number): number {
  const key = `${rate}/${noise}/${order}`;
  const known = knownSteps.get(key);
  if (known !== undefined) return known;
  let found: number;
  if (rate === 1) found = order / (2 * noise * noise);
  else {
    const terms: number[] = [];
    let choose = 0; // log C(α, k)
    for (let k = 0; k <= order; k++) {
      terms.push(
        choose + (order - k) * Math.log1p(-rate) + k * Math.log(rate) + (k * (k - 1)) / (2 * noise * noise),
      );
      choose += Math.log(order - k) - Math.log(k + 1);
    }
    const largest = Math.max(...terms);
    if (largest === Infinity) return Infinity;
    const sum = terms.reduce((total, term) => total + Math.exp(term - largest), 0);
    found = Math.max(0, (largest + Math.log(sum)) / (order - 1));
  }
  knownSteps.set(key, found);
  return found;
}

function converted(orders: number[], divergences: number[], delta: number): number {
  const found = orders.map(
    (order, i) => divergences[i] + Math.log1p(-1 / order) - (Math.log(delta) + Math.log(order)) / (order - 1),
  );
  return Math.max(Math.min(...found), 0);
}
