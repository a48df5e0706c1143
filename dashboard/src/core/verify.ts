/**
 * One settled round, derived again from its public inputs and held against what was settled, as `auditor/rounds.py`.
 *
 * A tick means that it was recomputed here. What follows from evaluations, from screening, or from what only readers of a
 * sealed job can open is never ticked: `deepledger audit` does that.
 */
import type { Hex } from "viem";
import { advance, isDerivable, type Row } from "./aggregate.ts";
import { Malformed, Unknown } from "./canonical.ts";
import { commitmentFor } from "./commitment.ts";
import { cidOf, digestOf, digestSoon } from "./digest.ts";
import type { Address, JobTerms, Position } from "./events.ts";
import { type Check, check, type Finding } from "./findings.ts";
import { maskOf, scoresOf, seatsOf, shares } from "./rewards.ts";
import { chunkRoot } from "./roots.ts";
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
import type { Contribution, SettledRound } from "./trail.ts";
import { asModel, asUpdate, changesNothing, fitsNorm } from "./vectors.ts";

/** Where a job is: commitments are good for no other. */
export interface Place {
  chainId: number;
  contract: Address;
  job: bigint;
}

export interface RoundInput {
  place: Place;
  terms: JobTerms;
  sponsored: Position; // where the job was created
  over: SettledRound;
}

/** A blob that nobody serves, or of which other bytes are served. */
export class BlobMissing extends Error {}

/** The bytes that have this digest. Rejects with `BlobMissing`; what is served is hashed before anybody sees it. */
export type Read = (digest: Hex, limit: number) => Promise<Uint8Array>;

export interface CheckedRound {
  checks: Check[];
  updates: JudgedUpdate[]; // as the report has them, verdicts and signs
  results: Map<string, number | null>; // of the settled model, as the report tells them
}

/** What screening says of an update, from distances, or evaluations, that are not made here. */
const BY_SCREENING = ["near copy", "colluding", "noise", "scaled", "sign flipped", "label flipped", "harmful"];

const MOST_AT_ONCE = 1 << 27; // bytes
const MOST_SEALING = 1 << 12; // bytes that an update is longer when it is sealed

export async function verifyRound(input: RoundInput, read: Read): Promise<CheckedRound> {
  const { over, place } = input;
  const checks: Check[] = [];
  const found: CheckedRound = { checks, updates: [], results: new Map() };
  if (!input.terms.masked) checks.push(checkCommitments(over, place));
  const payouts = checkPayouts(input);
  const spec = await specOf(input, read, checks);
  if (!spec) return { ...found, checks: [...checks, payouts] };
  askAhead(over, spec, read);
  const report = await reportOf(input, read, checks);
  if (report) {
    found.updates = report.updates;
    found.results = values(report.evaluation, spec.metrics);
  }
  if (spec.privacy === "masked" || !spec.plain) {
    const [what, pay] = spec.plain
      ? ["the sum of masked updates, and who is in it", "what a masked round pays"]
      : ["what is made of updates of this format", "what updates of this format are paid"];
    checks.push(leftOut("model", what), leftOut("scores", pay));
  } else {
    const judged = await judge(input, spec, report, read);
    checks.push(...judged.checks, checkVerdicts(input, spec, judged, report));
    checks.push(await checkModel(input, spec, judged, read), checkScores(input, spec, judged));
  }
  checks.push(payouts);
  checks.push(leftOut("evaluation", "results of models, which take torch and the job's task"));
  return found;
}

/** Small blobs are asked for all at once, and waited for one by one. */
function askAhead(over: SettledRound, spec: Spec, read: Read): void {
  const size = updateBytes(spec) + (spec.privacy === "open" ? 0 : MOST_SEALING);
  const wanted: [Hex, number][] = [[over.settled.reportDigest, MAX_REPORT_BYTES]];
  if (isDerivable(spec) && spec.privacy === "open") wanted.push([over.modelDigest, spec.coordinates * 4]);
  wanted.push(...over.contributions.map(({ digest }): [Hex, number] => [digest, size]));
  if (wanted.reduce((sum, [, most]) => sum + most, 0) > MOST_AT_ONCE) return;
  for (const [digest, most] of wanted) read(digest, most).catch(() => undefined); // whoever waits for it hears
}

/** What is not recomputed here, and where it is. */
function leftOut(name: string, what: string): Check {
  return check(name, `${what}: not checked here`, [], "unchecked");
}

function missing(name: string, says: string): Check {
  return check(name, says, [], "missing");
}

type Claim = Pick<Finding, "what" | "claimed" | "derived">;

function finding(over: SettledRound, claim: Claim, who: Address | null = over.settled.coordinator): Finding {
  return { ...claim, at: over.settled.at, round: over.opened.round, who };
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
    pot === settled.pot ? [] : [finding(over, { what, claimed: `${settled.pot} wei`, derived: `${pot} wei` })];
  const paid = shares(settled.pot, settled.scores).reduce((sum, amount) => sum + amount, 0n);
  return check("payouts", `${paid} of ${pot} wei, divided again by score among ${settled.scores.length}`, wrong);
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
async function reportOf(input: RoundInput, read: Read, checks: Check[]): Promise<Report | null> {
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
      ["root of the model after", report.modelAfter.root, settled.modelRoot],
    ];
    const wrong = pairs
      .filter(([, claimed, derived]) => claimed !== derived)
      .map(([name, claimed, derived]) =>
        finding(over, {
          what: `the report's ${name} is not the chain's`,
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

interface Judgement {
  verdicts: Map<number, string>; // by seat
  rows: Map<number, Row>; // of who is accepted
  weights: Map<number, number>;
  copies: Map<number, Address>;
  believed: number; // verdicts that are taken from the report
  incomplete: string | null; // what could not be had
  readable: boolean; // whether the updates themselves are
  checks: Check[];
}

/** The verdict on each update: by the record and by the bytes; what screening or evaluations say is taken as claimed. */
async function judge(input: RoundInput, spec: Spec, report: Report | null, read: Read): Promise<Judgement> {
  const { over } = input;
  const claims = new Map(report?.updates.map((each) => [each.participant, each.verdict]) ?? []);
  const found: Judgement = {
    verdicts: new Map(),
    rows: new Map(),
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
      verdict = inspect(blob, each, spec, found);
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
  if (!found.incomplete)
    found.checks.push(check("updates", `${had} blobs have the digests that were revealed`, contested));
  else found.checks.push(contested.length ? check("updates", "", contested) : missing("updates", found.incomplete));
  return found;
}

function inspect(blob: Uint8Array, each: Contribution, spec: Spec, found: Judgement): string {
  if (found.readable && blob.length !== updateBytes(spec)) return "unavailable"; // nobody's update: it has no such length
  if (chunkRoot(blob, spec.updateBits) !== each.root) return "wrong root";
  if (!found.readable) return "accepted"; // as far as can be seen
  const vector = asUpdate(blob, spec.updateBits);
  if (!fitsNorm(vector, spec)) return "norm exceeded";
  if (changesNothing(vector, spec)) return "unchanged";
  found.rows.set(each.seat, {
    weight: spec.rule === "weighted_mean" ? Math.min(each.samples, spec.maxSamples) : 1,
    vector,
  });
  return "accepted";
}

function checkVerdicts({ over }: RoundInput, spec: Spec, judged: Judgement, report: Report | null): Check {
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

function checkScores({ over }: RoundInput, spec: Spec, judged: Judgement): Check {
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

async function checkModel(input: RoundInput, spec: Spec, judged: Judgement, read: Read): Promise<Check> {
  const { over } = input;
  const { settled } = over;
  if (!judged.readable) return leftOut("model", "the aggregate of sealed updates, which the job's readers can open");
  if (!isDerivable(spec))
    return leftOut("model", `the aggregate by ${spec.rule}${spec.bucketSize > 1 ? " over buckets" : ""}`);
  if (judged.incomplete) return missing("model", judged.incomplete);
  const size = spec.coordinates * 4;
  let before: Uint8Array;
  try {
    before = await read(over.modelDigest, size);
  } catch (error) {
    if (error instanceof BlobMissing) return missing("model", `the model before cannot be had: ${error.message}`);
    throw error;
  }
  if (before.length !== size)
    return missing(
      "model",
      `the model before has ${before.length} bytes and not ${size}, so that nothing follows from it`,
    );
  const after = asModel(before.slice());
  const saturated = advance(after, [...judged.rows.values()], spec);
  const bytes = new Uint8Array(after.buffer);
  const findings: Finding[] = [];
  if ((await digestSoon(bytes)) !== settled.modelDigest) findings.push(await compared(input, after, read));
  else {
    const root = chunkRoot(bytes, 32);
    const what = "the settled chunk root is not that of the settled model";
    if (root !== settled.modelRoot) findings.push(finding(over, { what, claimed: settled.modelRoot, derived: root }));
  }
  const held = saturated ? `, ${saturated} of them held at the ends of int32` : "";
  const aside = judged.believed ? `, ${judged.believed} of which were put aside as the report says` : "";
  return check(
    "model",
    `${after.length.toLocaleString("en")} coordinates${held} by ${spec.rule} from ${over.contributions.length} updates${aside}`,
    findings,
  );
}

/** Where the settled model is another one. */
async function compared({ over }: RoundInput, derived: Int32Array, read: Read): Promise<Finding> {
  const claim = {
    what: "the settled model is not the aggregate of the accepted updates",
    claimed: cidOf(over.settled.modelDigest),
  };
  try {
    const served = await read(over.settled.modelDigest, derived.byteLength);
    if (served.length !== derived.byteLength) {
      const what = "what was settled cannot be a model of this job";
      return finding(over, {
        ...claim,
        what,
        derived: `it has ${served.length} bytes, and a model ${derived.byteLength}`,
      });
    }
    const claimed = asModel(served);
    const first = claimed.findIndex((value, i) => value !== derived[i]);
    const count = claimed.reduce((sum, value, i) => sum + Number(value !== derived[i]), 0);
    const what = `${claim.what}: ${count} of ${derived.length} coordinates differ, the first is coordinate ${first}`;
    return finding(over, { what, claimed: String(claimed[first]), derived: String(derived[first]) });
  } catch (error) {
    if (!(error instanceof BlobMissing)) throw error;
    return finding(over, { ...claim, derived: cidOf(digestOf(new Uint8Array(derived.buffer as ArrayBuffer))) });
  }
}
