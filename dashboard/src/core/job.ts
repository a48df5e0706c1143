/** The state of a job, as its events tell it: what `trail.ts` folds them into. */
import type { Hex } from "viem";
import type { Address, Event, EventOf, Position } from "./events.ts";

export interface Participant {
  address: Address;
  seat: number;
  samples: number; // as declared
  stake: bigint; // what is left of it
}

/** An open round. Commitments and reveals are in chain order. */
export interface Attempt {
  round: number;
  attempt: number;
  opened: Position;
  commitEnd: number;
  revealEnd: number; // 0 once a count has made it void
  least: number; // so many must commit, and in a masked attempt be counted
  cohort: Participant[]; // who was seated when a masked attempt opened
  gone: Set<Address>;
  commits: (EventOf<"Committed"> | EventOf<"CommittedMasked">)[];
  counted: EventOf<"Counted"> | null;
  reveals: (EventOf<"Revealed"> | EventOf<"Unmasked">)[];
  penalties: EventOf<"PenaltyTaken">[];
}

/** A revealed update, before anybody looked at its bytes. */
export interface Contribution {
  participant: Address;
  seat: number;
  samples: number;
  digest: Hex;
  root: Hex;
  salt: Hex;
  copyOf: Address | null; // who committed to the same bytes before
  reputation: number; // parts per million, before this round
  commitment: Hex;
  revealed: Position;
}

export interface SettledRound {
  opened: Attempt;
  participants: Map<Address, Participant>; // seated when it was settled
  contributions: Contribution[]; // by seat; none of a masked round
  modelDigest: Hex; // before
  modelRoot: Hex;
  settled: EventOf<"Settled">;
}

export interface Job {
  id: bigint;
  created: EventOf<"JobCreated">;
  modelDigest: Hex;
  modelRoot: Hex;
  serving: number;
  bonded: Map<Address, number>; // and since when
  participants: Map<Address, Participant>; // seated now
  everybody: Map<Address, Participant>; // who ever had a seat, as last seen
  reputations: Map<Address, number>;
  attempt: Attempt | null; // null: waiting, disclosing, or over
  abandoned: Attempt[];
  history: SettledRound[];
  firstRevealed: Map<Hex, Address>; // of digests in settled rounds
  disclosureEnd: number | null;
  validationKey: Hex | null;
  outcome: number | null;
  events: Event[];
}

export const FULL = 1_000_000;
