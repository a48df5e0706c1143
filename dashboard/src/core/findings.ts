/** What a check says: recomputed here, or in part; wrong; not had; or not checked here, which is never a tick. */
import type { Address, Position } from "./events.ts";

export type Mark = "recomputed" | "partly" | "wrong" | "missing" | "unchecked";

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

/** Never made here, and what nobody can look at: noise inside training. */
const BESIDES = ["evaluation", "noise"];

/** The mark of a round: a tick only where everything besides was recomputed. */
export function together(checks: Check[]): Mark {
  const marks = checks.filter((each) => !BESIDES.includes(each.name)).map((each) => each.mark);
  const worst = (["wrong", "missing"] as const).find((mark) => marks.includes(mark));
  return worst ?? (marks.every((mark) => mark === "recomputed") ? "recomputed" : "partly");
}
