/**
 * A job as its events tell it, as `protocol/job/trail.py`: an event that the contract could not have emitted is refused,
 * whoever served it. Phases follow from counters and time.
 */
import type { Hex } from "viem";
import { type Address, type Event, type EventOf, NOBODY } from "./events.ts";
import { type Attempt, type Contribution, FULL, type Job, type Participant } from "./job.ts";
import { committedSeats, hasCommitted, hasRevealed, revealedSeats, withholds } from "./phases.ts";
import { seatsOf } from "./rewards.ts";

/** An event that cannot follow: somebody alters the trail or leaves something out. */
export class Nonsense extends Error {
  readonly event: Event;

  constructor(event: Event, why: string) {
    super(`the trail of job ${event.job} cannot be: ${event.kind} in block ${event.at.block}; ${why}`);
    this.event = event;
  }
}
export function begin(event: Event): Job {
  if (event.kind !== "JobCreated") throw new Nonsense(event, "it does not begin with the job's creation");
  if (!event.coordinators.length) throw new Nonsense(event, "the job has no coordinator");
  return {
    id: event.job,
    created: event,
    modelDigest: event.terms.modelDigest,
    modelRoot: event.terms.modelRoot,
    serving: 0,
    bonded: new Map(),
    participants: new Map(),
    everybody: new Map(),
    reputations: new Map(),
    attempt: null,
    abandoned: [],
    history: [],
    firstRevealed: new Map(),
    disclosureEnd: null,
    validationKey: null,
    outcome: null,
    events: [event],
  };
}

/** Takes one more event into the job. Throws `Nonsense`. */
export function apply(job: Job, event: Event): void {
  const last = job.events[job.events.length - 1].at;
  const follows = event.at.block > last.block || (event.at.block === last.block && event.at.index > last.index);
  if (event.job !== job.id || !follows) throw new Nonsense(event, "it is out of order");
  take(job, event);
  job.events.push(event);
}

function take(job: Job, event: Event): void {
  const terms = job.created.terms;
  switch (event.kind) {
    case "JobCreated":
      throw new Nonsense(event, "the job exists");
    case "BondPosted":
      job.bonded.set(event.coordinator, event.at.timestamp);
      return;
    case "BondReleased":
      job.bonded.delete(event.coordinator);
      return;
    case "Joined": {
      const taken = [...job.participants.values()].some((each) => each.seat === event.seat);
      if (taken || job.participants.has(event.participant))
        throw new Nonsense(event, "the seat or the participant is seated already");
      if (/[1-9a-f]/i.test(event.key.slice(2)) !== terms.masked)
        throw new Nonsense(event, "a key belongs to a masked job, and to no other");
      seat(job, { address: event.participant, seat: event.seat, samples: event.samples, stake: terms.stake });
      return;
    }
    case "Left": {
      if (!job.participants.has(event.participant)) throw new Nonsense(event, "it had no seat");
      if (job.attempt && isHeld(job, job.attempt, event))
        throw new Nonsense(event, "it committed, or revealed, in the open round");
      job.participants.delete(event.participant);
      if (!job.attempt) return;
      job.attempt.gone.add(event.participant);
      // No deadline comes sooner because somebody leaves: revealing ends as announced.
      if (isComplete(job, job.attempt, event.at.timestamp)) job.attempt.commitEnd = event.at.timestamp;
      return;
    }
    case "PenaltyTaken": {
      const fined = job.participants.get(event.participant);
      if (!fined || fined.stake < event.amount) throw new Nonsense(event, "it had no seat, or a smaller stake");
      seat(job, { ...fined, stake: fined.stake - event.amount });
      job.attempt?.penalties.push(event);
      return;
    }
    case "RoundOpened":
      if (job.attempt || isEnding(job) || event.round !== job.history.length)
        throw new Nonsense(event, "no such round can be opened");
      job.attempt = openedBy(job, event);
      return;
    case "RoundStarved":
      if (open(job, event).reveals.length)
        throw new Nonsense(event, "somebody revealed in it, and is owed a settlement");
      job.abandoned.push(open(job, event));
      job.attempt = null;
      return;
    case "Committed": {
      const attempt = open(job, event);
      if (terms.masked) throw new Nonsense(event, "in a masked round only masked updates are committed to");
      const twice = hasCommitted(attempt, event.participant);
      if (twice || !job.participants.has(event.participant))
        throw new Nonsense(event, "the participant has no seat, or committed before");
      attempt.commits.push(event);
      if (!isComplete(job, attempt, event.at.timestamp)) return;
      attempt.commitEnd = event.at.timestamp;
      attempt.revealEnd = event.at.timestamp + terms.revealWindow;
      return;
    }
    case "CommittedMasked": {
      const attempt = masked(job, event);
      if (attempt.counted || hasCommitted(attempt, event.participant))
        throw new Nonsense(event, "the attempt is counted, or the participant committed before");
      if (!awaited(attempt).has(event.participant))
        throw new Nonsense(event, "the participant was not seated when the attempt opened");
      attempt.commits.push(event);
      if (isComplete(job, attempt, event.at.timestamp)) attempt.commitEnd = attempt.revealEnd = event.at.timestamp;
      return;
    }
    case "Counted": {
      const attempt = masked(job, event);
      if (attempt.counted) throw new Nonsense(event, "the attempt is counted already");
      if (event.counted & ~committedSeats(job, attempt))
        throw new Nonsense(event, "it counts seats that did not commit");
      const enough = seatsOf(event.counted).length >= attempt.least;
      if (enough !== Boolean(event.revealEnd))
        throw new Nonsense(event, "an attempt is void where too few are counted, and only there");
      attempt.counted = event;
      attempt.revealEnd = event.revealEnd;
      return;
    }
    case "Unmasked": {
      const attempt = masked(job, event);
      const participant = job.participants.get(event.participant);
      if (!attempt.counted?.revealEnd || !participant)
        throw new Nonsense(event, "the attempt is not counted, or the participant has no seat");
      if (!((attempt.counted.counted >> BigInt(participant.seat)) & 1n))
        throw new Nonsense(event, "the participant is not counted");
      if (hasRevealed(attempt, event.participant)) throw new Nonsense(event, "the participant unmasked before");
      attempt.reveals.push(event);
      if (attempt.reveals.length === seatsOf(attempt.counted.counted).length) attempt.revealEnd = event.at.timestamp;
      return;
    }
    case "Revealed": {
      const attempt = open(job, event);
      if (terms.masked) throw new Nonsense(event, "nothing is revealed in a masked round");
      if (!hasCommitted(attempt, event.participant) || hasRevealed(attempt, event.participant)) {
        throw new Nonsense(event, "the participant did not commit, or revealed before");
      }
      if (!job.participants.has(event.participant)) throw new Nonsense(event, "the participant has no seat any more");
      attempt.reveals.push(event);
      if (attempt.reveals.length === attempt.commits.length) attempt.revealEnd = event.at.timestamp;
      return;
    }
    case "CoordinatorReplaced": {
      if (event.successor === NOBODY) return;
      const place = job.created.coordinators.indexOf(event.successor);
      if (place <= job.serving) throw new Nonsense(event, "the successor does not come later on the job's list");
      job.serving = place;
      const now = event.at.timestamp;
      if (job.disclosureEnd !== null) job.disclosureEnd = now + terms.settleWindow;
      // A round that waited for a bond opens now: nothing is due from the successor yet.
      else if (event.deadline || job.attempt || job.outcome !== null || event.round !== job.history.length)
        open(job, event).revealEnd = now;
      return;
    }
    case "Settled":
      settle(job, open(job, event), event);
      return;
    case "DisclosureDue":
      if (isEnding(job)) throw new Nonsense(event, "the job waits for the key already, or is over");
      if (!withholds(job)) throw new Nonsense(event, "no key is missing");
      job.attempt = null;
      job.disclosureEnd = event.disclosureEnd;
      return;
    case "ValidationDisclosed":
      if (job.validationKey) throw new Nonsense(event, "the key is known already");
      job.validationKey = event.key;
      return;
    case "JobEnded":
      job.attempt = null;
      job.disclosureEnd = null;
      job.outcome = event.outcome;
      return;
    case "Shared":
    case "Withdrawn": // money only, see `money.ts`
      return;
  }
}

function settle(job: Job, attempt: Attempt, event: EventOf<"Settled">): void {
  if (event.accepted & ~revealedSeats(job, attempt)) throw new Nonsense(event, "it accepts seats that did not reveal");
  if (event.scores.length !== seatsOf(event.accepted).length)
    throw new Nonsense(event, "it has not one score per accepted seat");
  const contributions = contributionsOf(job, attempt);
  job.history.push({
    opened: attempt,
    participants: new Map(job.participants),
    contributions,
    modelDigest: job.modelDigest,
    modelRoot: job.modelRoot,
    settled: event,
  });
  for (const reveal of attempt.reveals) {
    if (reveal.kind === "Revealed" && !job.firstRevealed.has(reveal.digest))
      job.firstRevealed.set(reveal.digest, reveal.participant);
  }
  moveReputations(job, attempt, event.accepted);
  job.attempt = null;
  job.modelDigest = event.modelDigest;
  job.modelRoot = event.modelRoot;
}

/**
 * What was revealed, by seat, with copies marked: of bytes that somebody committed to earlier in this attempt, or that
 * anybody revealed in an earlier round. Zeros, which are no copy, are told apart where the spec is known.
 */
function contributionsOf(job: Job, attempt: Attempt): Contribution[] {
  const reveals = new Map(
    attempt.reveals.flatMap((reveal) => (reveal.kind === "Revealed" ? [[reveal.participant, reveal] as const] : [])),
  );
  const own = new Map<Hex, Address>();
  const found: Contribution[] = [];
  for (const commit of attempt.commits) {
    const reveal = reveals.get(commit.participant);
    const participant = job.participants.get(commit.participant);
    if (commit.kind !== "Committed" || !reveal || !participant) continue;
    const earlier = job.firstRevealed.get(reveal.digest) ?? own.get(reveal.digest) ?? null;
    if (!own.has(reveal.digest)) own.set(reveal.digest, reveal.participant);
    found.push({
      participant: reveal.participant,
      seat: participant.seat,
      samples: participant.samples,
      digest: reveal.digest,
      root: reveal.root,
      salt: reveal.salt,
      copyOf: earlier,
      reputation: job.reputations.get(reveal.participant) ?? FULL,
      commitment: commit.commitment,
      revealed: reveal.at,
    });
  }
  return found.sort((a, b) => a.seat - b.seat);
}

/** As `protocol/job/reputation.py`. Where nobody was accepted, or nobody of a masked round's group, it says nothing. */
function moveReputations(job: Job, attempt: Attempt, accepted: bigint): void {
  if (!accepted) return;
  for (const { participant } of attempt.reveals) {
    const place = BigInt(job.participants.get(participant)!.seat);
    const was = Boolean((accepted >> place) & 1n);
    const value = job.reputations.get(participant) ?? FULL;
    if (was || !attempt.counted) job.reputations.set(participant, value + Math.floor(((was ? FULL : 0) - value) / 4));
  }
}

function openedBy(job: Job, event: EventOf<"RoundOpened">): Attempt {
  const terms = job.created.terms;
  const cohort = terms.masked ? [...job.participants.values()].sort((a, b) => a.seat - b.seat) : [];
  return {
    round: event.round,
    attempt: event.attempt,
    opened: event.at,
    commitEnd: event.commitEnd,
    revealEnd: event.revealEnd,
    least: Math.max(terms.minParticipants, Math.floor((2 * cohort.length + 2) / 3)),
    cohort,
    gone: new Set(),
    commits: [],
    counted: null,
    reveals: [],
    penalties: [],
  };
}

function seat(job: Job, participant: Participant): void {
  job.participants.set(participant.address, participant);
  job.everybody.set(participant.address, participant);
}

/** Whether what it did in the open attempt keeps the participant seated: a reveal always, a commitment unless it is fined. */
function isHeld(job: Job, attempt: Attempt, event: EventOf<"Left">): boolean {
  const place = BigInt(job.participants.get(event.participant)!.seat);
  const committed = Boolean((committedSeats(job, attempt) >> place) & 1n);
  return hasRevealed(attempt, event.participant) || (event.departure === 0 && committed);
}

function masked(job: Job, event: EventOf<"CommittedMasked"> | EventOf<"Counted"> | EventOf<"Unmasked">): Attempt {
  const attempt = open(job, event);
  if (!job.created.terms.masked) throw new Nonsense(event, "the job is not masked");
  if (event.kind !== "Unmasked" && event.attempt !== attempt.attempt)
    throw new Nonsense(event, `attempt ${attempt.attempt} is open, not ${event.attempt}`);
  return attempt;
}

function open(job: Job, event: Event & { round: number }): Attempt {
  if (!job.attempt) throw new Nonsense(event, "no round is open");
  if (event.round !== job.attempt.round)
    throw new Nonsense(event, `round ${job.attempt.round} is open, not ${event.round}`);
  return job.attempt;
}

function isComplete(job: Job, attempt: Attempt, now: number): boolean {
  const wanted = job.created.terms.masked ? awaited(attempt).size : job.participants.size;
  return now < attempt.commitEnd && attempt.commits.length >= Math.max(wanted, attempt.least);
}

function awaited(attempt: Attempt): Set<Address> {
  return new Set(attempt.cohort.map((member) => member.address).filter((address) => !attempt.gone.has(address)));
}

function isEnding(job: Job): boolean {
  return job.disclosureEnd !== null || job.outcome !== null;
}
