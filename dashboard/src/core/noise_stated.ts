/** What participants state of private steps, under the salts of their commitments: never whether it is true. */
import { Malformed } from "./canonical.ts";
import { BlobMissing, type Read, type RoundInput } from "./claims.ts";
import type { Address } from "./events.ts";
import { type Check, check } from "./findings.ts";
import { MAX_STATEMENT_BYTES, readStatement, type Steps } from "./noise.ts";
import type { Noise } from "./spec.ts";

/** Puts into `stated` what reaches what the job asks for. */
export async function checkNoise(
  { over, terms }: RoundInput,
  asked: Noise,
  read: Read,
  stated: Map<Address, Steps[]>,
): Promise<Check> {
  const nobodySees = "nobody can look at noise inside training";
  if (terms.masked) return check("noise", `${nobodySees}, and masked updates bind no statement of it`, [], "unchecked");
  for (const { participant, salt } of over.contributions) {
    try {
      const { steps, clipNorm } = readStatement(await read(salt, MAX_STATEMENT_BYTES));
      const least = steps && Math.min(...steps.map((each) => each.noiseMultiplier));
      if (steps?.length && least! >= asked.multiplier && clipNorm <= asked.clipNorm) stated.set(participant, steps);
    } catch (error) {
      if (!(error instanceof BlobMissing) && !(error instanceof Malformed)) throw error;
    }
  }
  const count = `${stated.size} of ${over.contributions.length} updates bind a statement that it is as the job asks`;
  return check("noise", `${count}; ${nobodySees}`, [], "unchecked");
}
