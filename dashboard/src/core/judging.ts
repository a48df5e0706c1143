/** What each update of a round deserves: by the record and by its bytes, as `protocol/settlement/judging.py`. */
import type { Row } from "./aggregate.ts";
import { Malformed } from "./canonical.ts";
import { BlobMissing, finding, leftOut, missing, type Read, type RoundInput } from "./claims.ts";
import { digestOf } from "./digest.ts";
import type { Address } from "./events.ts";
import { type Check, check, type Finding } from "./findings.ts";
import { maskOf, scoresOf, seatsOf } from "./rewards.ts";
import type { RootOf } from "./roots.ts";
import { type JudgedUpdate, type Report, type Spec, updateBytes } from "./spec.ts";
import type { Contribution } from "./job.ts";
import { changesNothing, fitsNorm, parseUpdate, type Update } from "./vectors.ts";

/** What screening says of an update, from distances, or evaluations, that are not made here. */
const BY_SCREENING = ["near copy", "colluding", "noise", "scaled", "sign flipped", "label flipped", "harmful"];

export const MOST_SEALING = 1 << 12; // bytes that an update is longer when it is sealed

export interface Judgement {
  verdicts: Map<number, string>; // by seat
  rows: Map<number, Row>; // of who is accepted
  vectors: Map<number, Update>; // of all whose updates can be read
  weights: Map<number, number>;
  copies: Map<number, Address>;
  believed: number; // verdicts that are taken from the report
  incomplete: string | null; // what could not be had
  readable: boolean; // whether the updates themselves are
  checks: Check[];
}

/** The verdict on each update: by the record and by the bytes; what screening or evaluations say is taken as claimed. */
export async function judge(
  input: RoundInput,
  spec: Spec,
  report: Report | null,
  read: Read,
  rootOf: RootOf,
): Promise<Judgement> {
  const { over } = input;
  const claims = new Map(report?.updates.map((each) => [each.participant, each.verdict]) ?? []);
  const found: Judgement = {
    verdicts: new Map(),
    rows: new Map(),
    vectors: new Map(),
    weights: new Map(),
    copies: new Map(),
    believed: 0,
    incomplete: null,
    readable: spec.privacy === "open",
    checks: [],
  };
  const contested: Finding[] = [];
  // Zeros, which are nobody's work, are no copy of anybody's.
  const zeros = over.contributions.some((each) => each.copyOf) ? digestOf(new Uint8Array(updateBytes(spec))) : null;
  let had = 0;
  for (const each of over.contributions) {
    const claim = claims.get(each.participant);
    found.weights.set(each.seat, Math.min(each.samples, spec.maxSamples));
    if (each.copyOf && each.digest !== zeros) {
      found.verdicts.set(each.seat, "copy");
      found.copies.set(each.seat, each.copyOf);
      continue;
    }
    if (each.reputation < spec.removeBelow) {
      found.verdicts.set(each.seat, "removed");
      continue;
    }
    let verdict: string;
    try {
      const blob = await read(each.digest, updateBytes(spec) + (found.readable ? 0 : MOST_SEALING));
      had += 1;
      verdict = await inspect(blob, each, spec, found, rootOf);
      if (claim === "unavailable" && verdict !== "unavailable") {
        const what = `the update of ${each.participant} was dropped as unavailable, but the store serves it: the coordinator dropped it, or the participant published it late; the chain cannot tell which`;
        contested.push(finding(over, { what, claimed: "unavailable", derived: verdict }));
        verdict = "unavailable"; // taken as given, so that the rest of the round is judged by itself
      }
    } catch (error) {
      if (!(error instanceof BlobMissing)) throw error;
      if (claim !== "unavailable")
        found.incomplete ??= `the update of ${each.participant} cannot be had: ${error.message}`;
      verdict = "unavailable";
    }
    if (
      verdict === "accepted" &&
      claim &&
      ((spec.screens && BY_SCREENING.includes(claim)) || claim === "diverged" || !found.readable)
    ) {
      verdict = claim;
      found.believed += 1;
    }
    found.verdicts.set(each.seat, verdict);
    if (verdict !== "accepted") found.rows.delete(each.seat);
  }
  for (const [seat, author] of found.copies) {
    const first = over.contributions.find((each) => each.participant === author);
    const same = first && over.contributions.find((each) => each.seat === seat)!.digest === first.digest;
    const vector = same && found.vectors.get(first.seat);
    if (vector) found.vectors.set(seat, vector);
  }
  if (!found.incomplete)
    found.checks.push(check("updates", `${had} blobs have the digests that were revealed`, contested));
  else found.checks.push(contested.length ? check("updates", "", contested) : missing("updates", found.incomplete));
  return found;
}

async function inspect(
  blob: Uint8Array,
  each: Contribution,
  spec: Spec,
  found: Judgement,
  rootOf: RootOf,
): Promise<string> {
  if (found.readable && blob.length !== updateBytes(spec)) return "unavailable"; // nobody's update: it has no such length
  if ((await rootOf(blob, spec.updateBits)) !== each.root) return "wrong root";
  if (!found.readable) return "accepted"; // as far as can be seen
  let vector: Update;
  try {
    vector = parseUpdate(blob, spec);
  } catch (error) {
    if (error instanceof Malformed) return "malformed";
    throw error;
  }
  found.vectors.set(each.seat, vector);
  if (!fitsNorm(vector, spec)) return "norm exceeded";
  if (changesNothing(vector, spec)) return "unchanged";
  found.rows.set(each.seat, {
    weight: spec.rule === "weighted_mean" ? Math.min(each.samples, spec.maxSamples) : 1,
    vector,
  });
  return "accepted";
}

export function checkVerdicts({ over }: RoundInput, spec: Spec, judged: Judgement, report: Report | null): Check {
  if (judged.incomplete) return missing("verdicts", judged.incomplete);
  if (!report) return missing("verdicts", "the report, which says why, cannot be had");
  const claims = new Map(report.updates.map((each) => [each.seat, each]));
  const findings: Finding[] = [];
  for (const each of over.contributions) {
    const claim = claims.get(each.seat);
    const truth: Record<string, unknown> = {
      participant: each.participant,
      digest: each.digest,
      root: each.root,
      weight: judged.weights.get(each.seat),
      reputation: each.reputation,
      verdict: judged.verdicts.get(each.seat),
      copyOf: judged.copies.get(each.seat) ?? null,
    };
    const names = Object.keys(truth).filter((name) => !claim || claim[name as keyof JudgedUpdate] !== truth[name]);
    if (!names.length) continue;
    findings.push(
      finding(over, {
        what: `the report judges the update of ${each.participant} otherwise than its bytes deserve`,
        claimed: claim ? names.map((name) => `${name} ${claim[name as keyof JudgedUpdate]}`).join(", ") : "no entry",
        derived: names.map((name) => `${name} ${truth[name]}`).join(", "),
      }),
    );
    claims.delete(each.seat);
  }
  const inOrder = report.updates.map((each) => each.seat).join();
  const expected = over.contributions.map((each) => each.seat).join();
  if (!findings.length && inOrder !== expected) {
    findings.push(
      finding(over, {
        what: "the report does not have one entry per reveal, by ascending seat",
        claimed: inOrder,
        derived: expected,
      }),
    );
  }
  const told = `${over.contributions.length - judged.believed} verdicts follow from record and bytes`;
  if (!spec.screens && !judged.believed) return check("verdicts", told, findings);
  return check(
    "verdicts",
    `${told}; what contents, screening or evaluations say of them is not checked here`,
    findings,
    "partly",
  );
}

export function checkScores({ over }: RoundInput, spec: Spec, judged: Judgement): Check {
  const { settled } = over;
  if (judged.incomplete) return missing("scores", judged.incomplete);
  const accepted = over.contributions.filter((each) => judged.verdicts.get(each.seat) === "accepted");
  const derived = scoresOf(spec.rewards, new Map(accepted.map((each) => [each.seat, judged.weights.get(each.seat)!])));
  const claimed = new Map(seatsOf(settled.accepted).map((seat, index) => [seat, settled.scores[index]]));
  const findings: Finding[] = [];
  const names = new Map(over.contributions.map((each) => [each.seat, each.participant]));
  for (const seat of seatsOf(settled.accepted | maskOf(accepted.map((each) => each.seat)))) {
    const truth = accepted.some((each) => each.seat === seat)
      ? (derived?.get(seat) ?? claimed.get(seat) ?? "accepted")
      : "not accepted";
    if (claimed.get(seat) === truth) continue;
    const what = `${names.get(seat) ?? `seat ${seat}`} was paid for another score than its update has`;
    findings.push(
      finding(over, { what, claimed: String(claimed.get(seat) ?? "not accepted"), derived: String(truth) }),
    );
  }
  if (derived || findings.length)
    return check("scores", `${claimed.size} scores by the rule "${spec.rewards}"`, findings);
  return leftOut("scores", "scores by contribution, which follow from evaluations");
}
