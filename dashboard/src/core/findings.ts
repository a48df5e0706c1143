/** What a check says: recomputed here, wrong, not had, or not checked here, which is never a tick. */
import type { Address, Position } from "./events.ts";

export type Mark = "recomputed" | "wrong" | "missing" | "unchecked";

/** A claim that does not hold: what was claimed, what was derived here, and in which transaction it was claimed. */
export interface Finding {
  what: string;
  claimed: string;
  derived: string;
  at: Position;
  round: number | null;
  who: Address | null;
}

export interface Check {
  name: string;
  mark: Mark;
  says: string;
  findings: Finding[];
}

/** A cross where something was found; else as it is given. */
export function check(name: string, says: string, findings: Finding[] = [], otherwise: Mark = "recomputed"): Check {
  return { name, mark: findings.length ? "wrong" : otherwise, says, findings };
}

const BY_WEIGHT: Mark[] = ["wrong", "missing", "recomputed"];

/** The mark of several: a cross if there is one; a tick if all that could be checked holds. */
export function together(checks: Check[]): Mark {
  return BY_WEIGHT.find((mark) => checks.some((each) => each.mark === mark)) ?? "unchecked";
}
