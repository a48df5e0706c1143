/**
 * One settled round, derived again from its public inputs and held against what was settled, as `auditor/rounds.py`.
 *
 * A tick means that it was recomputed here. What follows from evaluations, from screening, or from what only readers of a
 * sealed job can open is never ticked: `deepledger audit` does that.
 */
import type { Hex } from "viem";
import { isDerivable } from "./aggregate.ts";
import { exactly } from "./amounts.ts";
import { Malformed, Unknown } from "./canonical.ts";
import { BlobMissing, finding, leftOut, missing, type Place, type Read, type RoundInput } from "./claims.ts";
import { commitmentFor } from "./commitment.ts";
import { type Check, check, type Finding } from "./findings.ts";
import { checkNoise } from "./noise_stated.ts";
import { MAX_STATEMENT_BYTES, type Steps } from "./noise.ts";
import { checkScores, checkVerdicts, judge, MOST_SEALING } from "./judging.ts";
import { shares } from "./rewards.ts";
import type { RootOf } from "./roots.ts";
import { similarityOf, type Similarity } from "./similarity.ts";
import { checkModel } from "./settled_model.ts";
import {
  type JudgedUpdate,
  MAX_REPORT_BYTES,
  MAX_SPEC_BYTES,
  readReport,
  readSpec,
  type Report,
  type Spec,
  updateBytes,
  values,
} from "./spec.ts";
import type { Address } from "./events.ts";
import type { SettledRound } from "./job.ts";

export interface CheckedRound {
  checks: Check[];
  updates: JudgedUpdate[]; // as the report has them, verdicts and signs
  results: Map<string, number | null>; // of the settled model, as the report tells them
  similarity: Similarity | null;
  stated: Map<Address, Steps[]>; // private steps, by who states that it took them
}
const MOST_AT_ONCE = 1 << 27; // bytes

export async function verifyRound(input: RoundInput, read: Read, rootOf: RootOf): Promise<CheckedRound> {
  const { over, place } = input;
  const checks: Check[] = [];
  const found: CheckedRound = { checks, updates: [], results: new Map(), similarity: null, stated: new Map() };
  if (!input.terms.masked) checks.push(checkCommitments(over, place));
  const payouts = checkPayouts(input);
  const spec = await specOf(input, read, checks);
  if (!spec) return { ...found, checks: [...checks, payouts] };
  if (spec.plain) askAhead(over, spec, read);
  const report = await reportOf(input, spec, read, checks);
  if (report) {
    found.updates = report.updates;
    found.results = values(report.evaluation, spec.metrics);
  }
  if (input.terms.masked || !spec.plain) {
    const [what, pay] = spec.plain
      ? [`the sum of ${spec.privacy} updates, and who is in it`, `what a round of ${spec.privacy} updates pays`]
      : ["what is made of updates of this format", "what updates of this format are paid"];
    checks.push(leftOut("model", what), leftOut("scores", pay));
  } else {
    const judged = await judge(input, spec, report, read, rootOf);
    checks.push(...judged.checks, checkVerdicts(input, spec, judged, report));
    found.similarity = similarityOf(judged.vectors, spec.trained);
    checks.push(await checkModel(input, spec, judged, read, rootOf), checkScores(input, spec, judged));
  }
  checks.push(payouts);
  if (spec.privateSamples) checks.push(await checkNoise(input, spec.privateSamples, read, found.stated));
  checks.push(leftOut("evaluation", "results of models, which take torch and the job's task"));
  return found;
}

/** Small blobs are asked for all at once, and waited for one by one. */
function askAhead(over: SettledRound, spec: Spec, read: Read): void {
  const size = updateBytes(spec) + (spec.privacy === "open" ? 0 : MOST_SEALING);
  const wanted: [Hex, number][] = [[over.settled.reportDigest, MAX_REPORT_BYTES]];
  if (isDerivable(spec) && spec.privacy === "open") wanted.push([over.modelDigest, spec.coordinates * 4]);
  wanted.push(...over.contributions.map(({ digest }): [Hex, number] => [digest, size]));
  if (spec.privateSamples && !over.opened.counted)
    wanted.push(...over.contributions.map(({ salt }): [Hex, number] => [salt, MAX_STATEMENT_BYTES]));
  if (wanted.reduce((sum, [, most]) => sum + most, 0) > MOST_AT_ONCE) return;
  for (const [digest, most] of wanted) read(digest, most).catch(() => undefined); // whoever waits for it hears
}
function checkCommitments(over: SettledRound, place: Place): Check {
  const findings: Finding[] = [];
  for (const each of over.contributions) {
    const derived = commitmentFor({ ...place, round: over.opened.round, participant: each.participant }, each);
    if (derived === each.commitment) continue;
    const what = `what ${each.participant} revealed does not open its commitment: the RPC node altered one of them`;
    findings.push({
      what,
      claimed: each.commitment,
      derived,
      at: each.revealed,
      round: over.opened.round,
      who: each.participant,
    });
  }
  return check(
    "commitments",
    `${over.contributions.length} updates open what was committed to before they were shown`,
    findings,
  );
}

/** That the pot is what it must be, of which shares follow; that the scores follow from the updates is another check. */
function checkPayouts({ over, terms }: RoundInput): Check {
  const { settled, opened } = over;
  const pot = opened.penalties.reduce((sum, each) => sum + each.amount, terms.reward);
  const what = "the pot is not the reward and the penalties of the round";
  const wrong =
    pot === settled.pot ? [] : [finding(over, { what, claimed: exactly(settled.pot), derived: exactly(pot) })];
  const paid = shares(settled.pot, settled.scores).reduce((sum, amount) => sum + amount, 0n);
  return check("payouts", `${exactly(paid)} of ${exactly(pot)}, divided again by score among ${settled.scores.length}`, wrong);
}

async function specOf(input: RoundInput, read: Read, checks: Check[]): Promise<Spec | null> {
  try {
    return readSpec(await read(input.terms.specDigest, MAX_SPEC_BYTES));
  } catch (error) {
    if (error instanceof BlobMissing) checks.push(missing("spec", error.message));
    else if (error instanceof Unknown) checks.push(leftOut("spec", error.message));
    else if (error instanceof Malformed) {
      const claim = { what: "the spec cannot be read", claimed: input.terms.specDigest, derived: error.message };
      checks.push(check("spec", "", [{ ...claim, at: input.sponsored, round: null, who: null }]));
    } else throw error;
    return null;
  }
}

/** The report, whose fields that do not follow from updates must be the chain's. */
async function reportOf(input: RoundInput, spec: Spec, read: Read, checks: Check[]): Promise<Report | null> {
  const { over, place, terms } = input;
  const { settled, opened } = over;
  try {
    const report = readReport(await read(settled.reportDigest, MAX_REPORT_BYTES));
    const pairs: [string, unknown, unknown][] = [
      ["chain", report.chainId, place.chainId],
      ["contract", report.contract.toLowerCase(), place.contract.toLowerCase()],
      ["job", report.job, Number(place.job)],
      ["round", report.round, opened.round],
      ["attempt", report.attempt, opened.attempt],
      ["spec", report.spec, terms.specDigest],
      ["model before", report.modelBefore.digest, over.modelDigest],
      ["root of the model before", report.modelBefore.root, over.modelRoot],
      ["model after", report.modelAfter.digest, settled.modelDigest],
      ["cost of privacy", JSON.stringify(report.release), JSON.stringify(spec.release)],
      ["root of the model after", report.modelAfter.root, settled.modelRoot],
    ];
    const wrong = pairs
      .filter(([, claimed, derived]) => claimed !== derived)
      .map(([name, claimed, derived]) =>
        finding(over, {
          what: `the report's ${name} is not ${name === "cost of privacy" ? "what the spec makes it" : "the chain's"}`,
          claimed: String(claimed),
          derived: String(derived),
        }),
      );
    checks.push(
      check("report", "has the digest that stands on chain, and says of the chain what the chain says", wrong),
    );
    return report;
  } catch (error) {
    if (error instanceof BlobMissing) checks.push(missing("report", error.message));
    else if (error instanceof Unknown) checks.push(leftOut("report", error.message));
    else if (error instanceof Malformed) {
      checks.push(
        check("report", "", [
          finding(over, { what: "the report cannot be read", claimed: settled.reportDigest, derived: error.message }),
        ]),
      );
    } else throw error;
    return null;
  }
}
