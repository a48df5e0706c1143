/**
 * What a job's spec and reports say, as far as the page needs it. `protocol/formats/spec.py` refuses more; a spec that it
 * refuses and this reads is still the one whose digest stands on chain.
 */
import type { Hex } from "viem";
import { Fields, Malformed, parseCanonical, Unknown } from "./canonical.ts";
import { type Release, releaseOf } from "./noise.ts";
import { type SparseFormat, sparseFormat } from "./sparse.ts";

export const MAX_SPEC_BYTES = 1 << 20;
export const MAX_REPORT_BYTES = 1 << 22;
const MAX_COORDINATES = 1 << 30;

/** A sum of a masked job, or one that only its readers can open, is not derived here. */
export type Privacy = "open" | "sealed" | "masked" | "encrypted";

export interface Metric {
  better: string;
  scale: number;
}

export interface Noise {
  multiplier: number; // its standard deviation, in clip norms
  clipNorm: number;
  where: string; // what has that noise
  delta: number;
}

export interface Spec {
  name: string;
  task: string;
  coordinates: number;
  trained: number; // coordinates: the first ones; the rest are statistics
  variancesFrom: number;
  leastVariance: number;
  modelFraction: number; // bits
  updateFraction: number;
  updateBits: SparseFormat["bits"]; // 4 of sparse updates only
  sparse: SparseFormat | null; // null: all coordinates travel
  plain: boolean; // it says nothing that the page does not know
  normBound: number;
  rule: string;
  trimPercent: number;
  bucketSize: number;
  rewards: string;
  removeBelow: number; // reputation, parts per million; 0: nobody is removed
  screens: boolean;
  privacy: Privacy;
  privateSamples: Noise | null;
  privateParticipants: Noise | null;
  release: Release | null; // what a round shows of each participant behind that noise
  maxSamples: number;
  metrics: Map<string, Metric>;
}

const KNOWN = [
  ..."version name task model update training aggregation rewards screening privacy masks".split(" "),
  ..."differential_privacy participant_privacy readers validation max_samples admitted".split(" "),
];
const KNOWN_OF_UPDATES = ["bits", "fraction_bits", "norm_bound", "share"];

export function updateBytes(spec: Spec): number {
  return spec.sparse?.bytes ?? (spec.coordinates * spec.updateBits) / 8;
}

/** What was proved of these bytes is their digest. Throws `Malformed`, or `Unknown` for specs of another kind. */
export function readSpec(data: Uint8Array): Spec {
  const spec = new Fields(parseCanonical(data), "spec");
  try {
    return specOf(spec);
  } catch (error) {
    throw error instanceof Malformed ? new Unknown(error.message) : error;
  }
}

function specOf(spec: Fields): Spec {
  const model = spec.table("model");
  const update = spec.table("update");
  const sizes = { trainable: 0, statistic: 0, variance: 0 };
  for (const entry of model.tables("layout")) {
    const kind = entry.text("kind");
    if (!(kind in sizes)) throw new Malformed(`the spec's layout has an entry of the kind ${JSON.stringify(kind)}`);
    const size = entry
      .list("shape")
      .reduce((product: number, side) => product * Number(side), entry.flag("is_complex") ? 2 : 1);
    sizes[kind as keyof typeof sizes] += size;
  }
  const coordinates = sizes.trainable + sizes.statistic + sizes.variance;
  if (!Number.isSafeInteger(coordinates) || coordinates < 1 || coordinates > MAX_COORDINATES) {
    throw new Malformed("the spec's layout has no possible size");
  }
  const bits = update.whole("bits");
  const share = update.has("share") ? update.number("share") : 1;
  if (bits !== 8 && bits !== 16 && bits !== 32 && (bits !== 4 || share === 1))
    throw new Malformed("update.bits cannot be");
  if (!(share > 0 && share <= 1)) throw new Malformed("update.share is no share");
  const privacy = spec.text("privacy");
  if (privacy !== "open" && privacy !== "sealed" && privacy !== "masked" && privacy !== "encrypted")
    throw new Malformed("privacy is none that is known");
  const modelFraction = model.whole("fraction_bits", 30);
  const updateFraction = update.whole("fraction_bits", modelFraction);
  const aggregation = spec.table("aggregation");
  const metrics = spec.table("validation").table("metrics");
  return {
    name: spec.text("name"),
    task: spec.table("task").text("name"),
    coordinates,
    trained: sizes.trainable,
    variancesFrom: sizes.trainable + sizes.statistic,
    leastVariance: model.whole("least_variance", 2 ** 31 - 1),
    modelFraction,
    updateFraction,
    updateBits: bits,
    sparse: share === 1 ? null : sparseFormat(sizes.trainable, coordinates - sizes.trainable, share, bits),
    plain: saysNoMoreThan(KNOWN, spec) && saysNoMoreThan(KNOWN_OF_UPDATES, update),
    normBound: update.number("norm_bound"),
    rule: aggregation.text("rule"),
    trimPercent: aggregation.has("trim_percent") ? aggregation.whole("trim_percent", 49) : 0,
    bucketSize: aggregation.whole("bucket_size", 8),
    rewards: spec.table("rewards").text("policy"),
    removeBelow: spec.has("screening") ? spec.table("screening").whole("remove_percent", 99) * 10_000 : 0,
    screens: spec.has("screening"),
    privacy,
    privateSamples: noiseOf(spec, "differential_privacy"),
    privateParticipants: noiseOf(spec, "participant_privacy"),
    release: releaseAsked(spec, updateFraction, coordinates),
    maxSamples: spec.whole("max_samples", 2 ** 32 - 1),
    metrics: new Map(
      metrics.keys.map((name) => [
        name,
        { better: metrics.table(name).text("better"), scale: metrics.table(name).number("scale") },
      ]),
    ),
  };
}

function saysNoMoreThan(known: string[], fields: Fields): boolean {
  return fields.keys.every((key) => known.includes(key) || !fields.has(key));
}

/** What a job asks of noise, inside training or in what is released. */
function noiseOf(spec: Fields, key: string): Noise | null {
  if (!spec.has(key)) return null;
  const noise = spec.table(key);
  const [multiplier, clipNorm] = [noise.number("noise_multiplier"), noise.number("clip_norm")];
  return { multiplier, clipNorm, where: placeOf(noise), delta: noise.number("delta") };
}

function releaseAsked(spec: Fields, fractionBits: number, coordinates: number): Release | null {
  if (!spec.has("participant_privacy")) return null;
  const noise = spec.table("participant_privacy");
  const asked = { clipNorm: noise.number("clip_norm"), multiplier: noise.number("noise_multiplier") };
  if (!(asked.clipNorm > 0) || !(asked.multiplier > 0)) throw new Malformed("participant_privacy asks for no noise");
  const bit = noise.has("adaptive") ? noise.table("adaptive").number("bit") : null;
  return releaseOf({ ...asked, bit }, fractionBits, coordinates);
}

/** What has the noise: a sum hides nobody from as many as leave fewer honest participants in it. */
function placeOf(noise: Fields): string {
  if (!noise.has("mechanism")) return "every step";
  const adapts = noise.has("adaptive") ? ", and less where the clip norm adapts" : "";
  if (noise.text("mechanism") === "local") return `every update${adapts}`;
  return `the sum of every ${noise.whole("honest", 64)} honest participants${adapts}`;
}

export interface JudgedUpdate {
  participant: string;
  seat: number;
  digest: Hex;
  root: Hex;
  weight: number;
  reputation: number;
  verdict: string;
  copyOf: string | null;
  signs: Record<string, number | string | null>;
  score: number;
}

export interface Evaluation {
  samples: number;
  correct: number | null;
  millionths: Map<string, number>; // of each metric's scale
}

/** What the coordinator says it did. */
export interface Report {
  chainId: number;
  contract: string;
  job: number;
  round: number;
  attempt: number;
  spec: Hex;
  modelBefore: { digest: Hex; root: Hex };
  modelAfter: { digest: Hex; root: Hex };
  updates: JudgedUpdate[];
  saturated: number;
  release: Release | null; // what the round cost of each participant's privacy
  evaluation: Evaluation;
}

/** Throws `Malformed`, or `Unknown` for reports of another version. */
export function readReport(data: Uint8Array): Report {
  const report = new Fields(parseCanonical(data), "report");
  const pin = (key: string) => ({ digest: hex(report.table(key), "digest"), root: hex(report.table(key), "root") });
  if (report.whole("version") !== 3) throw new Unknown("the report is of another version");
  return {
    chainId: report.whole("chain_id"),
    contract: report.text("contract"),
    job: report.whole("job"),
    round: report.whole("round"),
    attempt: report.whole("attempt"),
    spec: hex(report, "spec"),
    modelBefore: pin("model_before"),
    modelAfter: pin("model_after"),
    updates: report.tables("updates").map((update) => ({
      participant: update.text("participant"),
      seat: update.whole("seat", 63),
      digest: hex(update, "digest"),
      root: hex(update, "root"),
      weight: update.whole("weight"),
      reputation: update.whole("reputation"),
      verdict: update.text("verdict"),
      copyOf: update.has("copy_of") ? update.text("copy_of") : null,
      signs: readSigns(update.table("signs")),
      score: update.whole("score"),
    })),
    saturated: report.whole("saturated"),
    release: report.has("release") ? readRelease(report.table("release")) : null,
    evaluation: readEvaluation(report.table("evaluation")),
  };
}

function readRelease(release: Fields): Release {
  const [variance, squares] = [release.whole("variance"), release.whole("squares")];
  return { variance, squares, coordinates: release.whole("coordinates") };
}

function readSigns(signs: Fields): Record<string, number | string | null> {
  return Object.fromEntries(
    signs.keys.map((key) => [key, !signs.has(key) ? null : key === "like" ? signs.text(key) : signs.integer(key)]),
  );
}

function readEvaluation(evaluation: Fields): Evaluation {
  const millionths = evaluation.table("millionths");
  return {
    samples: evaluation.whole("samples"),
    correct: evaluation.has("correct") ? evaluation.whole("correct") : null,
    millionths: new Map(millionths.keys.map((key) => [key, millionths.integer(key)])),
  };
}

/** By name, in the task's units; accuracy, where it is counted, is one. Null: not finite. */
export function values(evaluation: Evaluation, metrics: Map<string, Metric>): Map<string, number | null> {
  const found = new Map<string, number | null>();
  if (evaluation.correct !== null) found.set("accuracy", evaluation.correct / Math.max(evaluation.samples, 1));
  for (const [name, count] of evaluation.millionths) {
    found.set(name, Math.abs(count) >= 1e15 ? null : (count / 1e6) * (metrics.get(name)?.scale ?? 1));
  }
  return found;
}

function hex(fields: Fields, key: string): Hex {
  const text = fields.text(key);
  if (!/^[0-9a-f]{64}$/.test(text)) throw new Malformed(`${key} is not 32 bytes in hexadecimal`);
  return `0x${text}`;
}
