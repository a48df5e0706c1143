/** What a round's checks are made from, and what they say. */
import type { Hex } from "viem";
import type { Address, JobTerms, Position } from "./events.ts";
import { type Check, check, type Finding } from "./findings.ts";
import type { SettledRound } from "./job.ts";

/** Where a job is: commitments are good for no other. */
export interface Place {
  chainId: number;
  contract: Address;
  job: bigint;
}

export interface RoundInput {
  place: Place;
  terms: JobTerms;
  sponsored: Position; // where the job was created
  over: SettledRound;
}

/** A blob that nobody serves, or of which other bytes are served. */
export class BlobMissing extends Error {}

/** The bytes that have this digest. Rejects with `BlobMissing`; what is served is hashed before anybody sees it. */
export type Read = (digest: Hex, limit: number) => Promise<Uint8Array>;

/** What is not recomputed here, and where it is. */
export function leftOut(name: string, what: string): Check {
  return check(name, `${what}: not checked here`, [], "unchecked");
}

export function missing(name: string, says: string): Check {
  return check(name, says, [], "missing");
}

type Claim = Pick<Finding, "what" | "claimed" | "derived">;

export function finding(over: SettledRound, claim: Claim, who: Address | null = over.settled.coordinator): Finding {
  return { ...claim, at: over.settled.at, round: over.opened.round, who };
}
