/** Who gets what share of a round's pot, as `protocol/settlement/rewards.py`, in integers as the contract's. */

/** Seats whose bit is set, ascending. */
export function seatsOf(mask: bigint): number[] {
  const seats: number[] = [];
  for (let seat = 0; mask >> BigInt(seat); seat++) if ((mask >> BigInt(seat)) & 1n) seats.push(seat);
  return seats;
}

export function maskOf(seats: Iterable<number>): bigint {
  let mask = 0n;
  for (const seat of seats) mask |= 1n << BigInt(seat);
  return mask;
}

/** floor(pot · score / sum of scores) each; nothing if all scores are 0. */
export function shares(pot: bigint, scores: number[]): bigint[] {
  const total = scores.reduce((sum, score) => sum + BigInt(score), 0n);
  return scores.map((score) => (total ? (pot * BigInt(score)) / total : 0n));
}

/** By seat, of accepted updates with these weights; null where scores follow from evaluations, which are not made here. */
export function scoresOf(policy: string, weights: Map<number, number>): Map<number, number> | null {
  if (policy === "equal") return new Map([...weights.keys()].map((seat) => [seat, 1]));
  return policy === "samples" ? new Map(weights) : null;
}
