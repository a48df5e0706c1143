/** What the contract says happened, as `protocol/chain/events.py`: one shape per Solidity event. Amounts in wei. */
import type { Hex } from "viem";

export type Address = Hex; // in its checksummed form

/** Where on the chain an event stands. */
export interface Position {
  block: number;
  index: number; // of the log in its block
  blockHash: Hex;
  transaction: Hex;
  timestamp: number; // of the block, in Unix seconds
}

export interface JobTerms {
  specDigest: Hex;
  modelDigest: Hex;
  modelRoot: Hex;
  rounds: number;
  minParticipants: number;
  maxParticipants: number;
  missLimit: number;
  commitWindow: number; // windows in seconds
  revealWindow: number;
  settleWindow: number;
  masked: boolean;
  reward: bigint;
  stake: bigint;
  revealPenalty: bigint;
  bond: bigint;
  settlePenalty: bigint;
  validationLock: Hex; // zero: the validation set is public
  admission: Hex; // zero: anyone may join
}

export const OUTCOMES = ["completed", "withdrawn", "abandoned"] as const;
export const DEPARTURES = ["voluntary", "missing", "exhausted"] as const;
export const NOBODY: Address = `0x${"0".repeat(40)}`;

/** What a reveal shows of a commitment. */
export interface Opening {
  digest: Hex;
  root: Hex;
  salt: Hex;
}

interface Kinds {
  JobCreated: { sponsor: Address; terms: JobTerms; coordinators: Address[] };
  BondPosted: { coordinator: Address; amount: bigint };
  BondReleased: { coordinator: Address; amount: bigint };
  Joined: { participant: Address; seat: number; samples: number; key: Hex };
  Left: { participant: Address; seat: number; departure: number; stake: bigint };
  RoundOpened: { round: number; attempt: number; commitEnd: number; revealEnd: number };
  RoundStarved: { round: number; attempt: number };
  Committed: { round: number; participant: Address; commitment: Hex };
  Revealed: { round: number; participant: Address } & Opening;
  CommittedMasked: { round: number; attempt: number; participant: Address; digest: Hex };
  Counted: { round: number; attempt: number; coordinator: Address; counted: bigint; revealEnd: number };
  Unmasked: { round: number; participant: Address; digest: Hex };
  PenaltyTaken: { round: number; participant: Address; amount: bigint };
  Settled: {
    round: number;
    coordinator: Address;
    modelDigest: Hex;
    modelRoot: Hex;
    reportDigest: Hex;
    accepted: bigint;
    scores: number[];
    pot: bigint;
  };
  Shared: { seats: bigint; share: bigint };
  CoordinatorReplaced: { round: number; coordinator: Address; successor: Address; penalty: bigint; deadline: number };
  DisclosureDue: { outcome: number; disclosureEnd: number };
  ValidationDisclosed: { key: Hex };
  JobEnded: { outcome: number; refund: bigint };
  Withdrawn: { account: Address; amount: bigint };
}

export type Kind = keyof Kinds;
export type EventOf<K extends Kind> = { [k in K]: { kind: k; job: bigint; at: Position } & Kinds[k] }[K];
export type Event = EventOf<Kind>;

/** What an event says besides where it stands, by name. */
export function argumentsOf(event: Event): [string, unknown][] {
  return Object.entries(event).filter(([name]) => name !== "kind" && name !== "at" && name !== "job");
}
