/** What the views see: the ledger as it is known now, and what was recomputed of it. */
import type { Hex } from "viem";
import type { Ledger } from "./chain.ts";
import type { Check } from "./core/findings.ts";
import type { Money } from "./core/money.ts";
import type { Spec } from "./core/spec.ts";
import type { Job } from "./core/job.ts";
import type { Cost } from "./gas.ts";
import type { Place } from "./place.ts";
import type { Verified } from "./verifier.ts";

export interface Page {
  ledger: Ledger;
  now: number; // the chain's time, in Unix seconds
  verified(job: Job, round: number, first?: boolean): Verified;
  state(job: Job, money: Money): Check[];
  spec(job: Job): Spec | null;
  cost(transaction: Hex): Cost | null | undefined; // undefined: not known yet
  costs(transactions: Iterable<Hex>): void; // asks for them
  lookAgain(): void;
  go(place: Place): void;
}
