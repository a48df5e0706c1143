/** Phases, which follow from counters and time, as `protocol/job/phases.py`. */
import type { Address, JobTerms } from "./events.ts";
import type { Attempt, Job } from "./job.ts";
import { maskOf, seatsOf } from "./rewards.ts";

/** Whether a round was settled with a validation set whose key is not on chain. */
export function withholds(job: Job): boolean {
  return job.history.length > 0 && /[1-9a-f]/i.test(job.created.terms.validationLock.slice(2)) && !job.validationKey;
}

export function hasCommitted(attempt: Attempt, participant: Address): boolean {
  return attempt.commits.some((commit) => commit.participant === participant);
}

export function hasRevealed(attempt: Attempt, participant: Address): boolean {
  return attempt.reveals.some((reveal) => reveal.participant === participant);
}

/** Who has committed in the attempt, or is counted in it: a bit per seat. */
export function committedSeats(job: Job, attempt: Attempt): bigint {
  if (attempt.counted) return attempt.counted.counted;
  return maskOf(attempt.commits.flatMap((commit) => job.participants.get(commit.participant)?.seat ?? []));
}

export function revealedSeats(job: Job, attempt: Attempt): bigint {
  return maskOf(attempt.reveals.flatMap((reveal) => job.participants.get(reveal.participant)?.seat ?? []));
}

export type Phase =
  "waiting" | "committing" | "counting" | "revealing" | "settling" | "starved" | "overdue" | "disclosing" | "over";

/** The phase in a block with this timestamp, as TrainingLedger.phaseAt. */
export function phaseAt(job: Job, now: number): Phase {
  const { attempt } = job;
  const terms: JobTerms = job.created.terms;
  if (job.outcome !== null) return "over";
  if (job.disclosureEnd !== null) return now < job.disclosureEnd ? "disclosing" : "overdue";
  if (!attempt) return "waiting";
  if (now < attempt.commitEnd) return "committing";
  const taking = attempt.counted ? seatsOf(attempt.counted.counted).length : attempt.commits.length;
  if (taking < attempt.least) return "starved";
  const settleEnd = attempt.revealEnd + terms.settleWindow;
  if (terms.masked && !attempt.counted) return now < settleEnd ? "counting" : "overdue";
  if (now < attempt.revealEnd) return "revealing";
  if (!attempt.reveals.length) return "starved";
  return now < settleEnd ? "settling" : "overdue";
}

/** When the present phase ends by itself; null if it does not. */
export function deadline(job: Job, now: number): number | null {
  const { attempt } = job;
  const phase = phaseAt(job, now);
  if (phase === "disclosing") return job.disclosureEnd;
  if (!attempt) return null;
  if (phase === "committing") return attempt.commitEnd;
  if (phase === "revealing") return attempt.revealEnd;
  return phase === "counting" || phase === "settling" ? attempt.revealEnd + job.created.terms.settleWindow : null;
}
