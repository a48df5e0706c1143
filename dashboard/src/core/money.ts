/**
 * Every wei of a job, from its events: escrow, stakes, bonds and credits, as `auditor/accounting.py`. Amounts that do not
 * follow from the terms and from what came before are found.
 */
import { exactly } from "./amounts.ts";
import { type Address, type Event, type EventOf, NOBODY } from "./events.ts";
import type { Finding } from "./findings.ts";
import { seatsOf, shares } from "./rewards.ts";
import type { Job } from "./job.ts";

export interface Money {
  escrow: bigint;
  stakes: Map<Address, bigint>;
  bonds: Map<Address, bigint>;
  credits: Map<Address, bigint>; // what the contract owes
  paid: Map<Address, bigint>; // what each ever earned in rounds and shares
  penalties: bigint; // all that were taken
  refund: bigint;
  withdrawn: bigint;
  deposited: bigint;
  findings: Finding[];
}

const known = new WeakMap<Job, { events: number; money: Money }>();

/** Of a job whose trail was folded; followed again once there are more events. */
export function moneyOf(job: Job): Money {
  const before = known.get(job);
  if (before?.events === job.events.length) return before.money;
  const money = followed(job);
  known.set(job, { events: job.events.length, money });
  return money;
}

function followed(job: Job): Money {
  const { terms, sponsor } = job.created;
  const money: Money = {
    escrow: 0n,
    stakes: new Map(),
    bonds: new Map(),
    credits: new Map(),
    paid: new Map(),
    penalties: 0n,
    refund: 0n,
    withdrawn: 0n,
    deposited: 0n,
    findings: [],
  };
  const seats = new Map<number, Address>();
  let pending = 0n; // penalties of the round that is being settled
  let owed = 0n; // what is to be shared besides
  let disclosing = false;

  const credit = (account: Address, amount: bigint) => add(money.credits, account, amount);
  const pay = (seat: number, amount: bigint) => {
    const account = seats.get(seat);
    if (!account) return;
    money.escrow -= amount;
    credit(account, amount);
    add(money.paid, account, amount);
  };
  const hold = (event: Event, what: string, claimed: bigint, derived: bigint, who: Address | null) => {
    if (claimed === derived) return;
    money.findings.push({
      what,
      claimed: exactly(claimed),
      derived: exactly(derived),
      at: event.at,
      round: roundOf(event),
      who,
    });
  };

  for (const event of job.events) {
    switch (event.kind) {
      case "JobCreated":
        money.escrow = money.deposited = BigInt(terms.rounds) * terms.reward;
        break;
      case "BondPosted":
        hold(event, "a bond is what the terms say", event.amount, terms.bond, event.coordinator);
        money.bonds.set(event.coordinator, event.amount);
        money.deposited += event.amount;
        break;
      case "BondReleased":
        // After `CoordinatorReplaced` what is left of it; what was taken is in escrow already.
        hold(
          event,
          "a bond that comes back is what was left in deposit",
          event.amount,
          money.bonds.get(event.coordinator) ?? 0n,
          event.coordinator,
        );
        money.bonds.delete(event.coordinator);
        credit(event.coordinator, event.amount);
        break;
      case "CoordinatorReplaced":
        add(money.bonds, event.coordinator, -event.penalty);
        owed = event.penalty + (event.successor === NOBODY && !disclosing ? terms.reward : 0n);
        money.escrow += event.penalty;
        money.penalties += event.penalty;
        break;
      case "Joined":
        seats.set(event.seat, event.participant);
        money.stakes.set(event.participant, terms.stake);
        money.deposited += terms.stake;
        break;
      case "Left":
        hold(
          event,
          "a stake that comes back is what was left of it",
          event.stake,
          money.stakes.get(event.participant) ?? 0n,
          event.participant,
        );
        seats.delete(event.seat);
        money.stakes.delete(event.participant);
        credit(event.participant, event.stake);
        break;
      case "PenaltyTaken":
        hold(event, "a penalty is what the terms say", event.amount, terms.revealPenalty, event.participant);
        add(money.stakes, event.participant, -event.amount);
        money.escrow += event.amount;
        money.penalties += event.amount;
        pending += event.amount;
        break;
      case "Settled":
        hold(
          event,
          "a round's pot is the reward and its penalties",
          event.pot,
          terms.reward + pending,
          event.coordinator,
        );
        owed = event.scores.some(Boolean) ? 0n : pending;
        pending = 0n;
        payScores(event, pay);
        break;
      case "Shared": {
        const sharing = seatsOf(event.seats);
        hold(
          event,
          "what is shared is divided alike",
          event.share,
          (owed + pending) / BigInt(sharing.length || 1),
          null,
        );
        owed = pending = 0n;
        for (const seat of sharing) pay(seat, event.share);
        break;
      }
      case "DisclosureDue":
        disclosing = true;
        break;
      case "JobEnded":
        hold(event, "the sponsor gets back what is left in escrow", event.refund, money.escrow, sponsor);
        money.refund = event.refund;
        money.escrow = 0n;
        credit(sponsor, event.refund);
        break;
      case "Withdrawn":
        hold(
          event,
          "what is withdrawn is all that was credited",
          event.amount,
          money.credits.get(event.account) ?? 0n,
          event.account,
        );
        money.credits.delete(event.account);
        money.withdrawn += event.amount;
        break;
    }
  }
  return money;
}

function payScores(event: EventOf<"Settled">, pay: (seat: number, amount: bigint) => void): void {
  const amounts = shares(event.pot, event.scores);
  seatsOf(event.accepted).forEach((seat, index) => pay(seat, amounts[index]));
}

function add(amounts: Map<Address, bigint>, account: Address, amount: bigint): void {
  amounts.set(account, (amounts.get(account) ?? 0n) + amount);
}

function roundOf(event: Event): number | null {
  return "round" in event ? event.round : null;
}
