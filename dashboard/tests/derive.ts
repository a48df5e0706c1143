/**
 * Derives what it is asked for on standard input, a JSON list of questions, and writes the answers: for
 * tests/unit/test_dashboard_derivations.py, which holds them against those of the Python. Bytes are hexadecimal.
 */
import { readFileSync } from "node:fs";
import { concatBytes, hexToBytes } from "@noble/hashes/utils";
import type { Hex } from "viem";
import { advance } from "../src/core/aggregate.ts";
import { parseCanonical } from "../src/core/canonical.ts";
import { commitmentFor, type Slot } from "../src/core/commitment.ts";
import { cidOf, digestOf, digestSoon } from "../src/core/digest.ts";
import type { Event, Opening } from "../src/core/events.ts";
import { moneyOf } from "../src/core/money.ts";
import { epsilonOfRounds, epsilonOfSteps, type Steps } from "../src/core/noise.ts";
import { scoresOf, shares } from "../src/core/rewards.ts";
import { chunkRoot } from "../src/core/roots.ts";
import { readReport, readSpec } from "../src/core/spec.ts";
import { similarityOf } from "../src/core/similarity.ts";
import { served } from "../src/gateway.ts";
import { apply, begin } from "../src/core/trail.ts";
import { phaseAt } from "../src/core/phases.ts";
import { asModel, fitsNorm, parseUpdate, squareLimit, sumOfSquares } from "../src/core/vectors.ts";

type Update = { hex: string; weight: number };

const ANSWERS: Record<string, (question: never) => unknown> = {
  digest: async ({ data, times = 1, more = "" }: { data: string; times?: number; more?: string }) => {
    const part = hexToBytes(data);
    const whole = concatBytes(...Array<Uint8Array>(times).fill(part), hexToBytes(more));
    return [digestOf(whole), await digestSoon(whole)];
  },
  served: async ({ base, digest, limit }: { base: string; digest: Hex; limit: number }) => {
    const data = await served(base, digest, limit);
    return [data.length, digestOf(data)];
  },
  together: async ({ base, blobs }: { base: string; blobs: { digest: Hex; seconds: number }[] }) => {
    const found = await Promise.allSettled(blobs.map((each) => served(base, each.digest, 1 << 20, each.seconds)));
    return found.map((each) => (each.status === "fulfilled" ? each.value.length : String(each.reason)));
  },
  cid: ({ digest }: { digest: Hex }) => cidOf(digest),
  root: ({ data, bits }: { data: string; bits: number }) => chunkRoot(hexToBytes(data), bits),
  commitment: ({ slot, opening }: { slot: Slot; opening: Opening }) =>
    commitmentFor({ ...slot, job: BigInt(slot.job) }, opening),
  canonical: ({ data }: { data: string }) => parseCanonical(hexToBytes(data)) !== undefined,
  spec: ({ data }: { data: string }) => readSpec(hexToBytes(data)),
  report: ({ data }: { data: string }) => readReport(hexToBytes(data)),
  squares: ({ data, job }: { data: string; job: string }) => {
    const spec = readSpec(hexToBytes(job));
    const update = parseUpdate(hexToBytes(data), spec);
    return { sum: sumOfSquares(update), limit: squareLimit(spec), fits: fitsNorm(update, spec) };
  },
  update: ({ data, job }: { data: string; job: string }) => [
    ...parseUpdate(hexToBytes(data), readSpec(hexToBytes(job))),
  ],
  advance: ({ model, updates, job }: { model: string; updates: Update[]; job: string }) => {
    const spec = readSpec(hexToBytes(job));
    const after = asModel(hexToBytes(model));
    const rows = updates.map(({ hex, weight }) => ({ weight, vector: parseUpdate(hexToBytes(hex), spec) }));
    return { saturated: advance(after, rows, spec), model: [...after] };
  },
  shares: ({ pot, scores }: { pot: string; scores: number[] }) => shares(BigInt(pot), scores),
  scores: ({ policy, weights }: { policy: string; weights: [number, number][] }) => scoresOf(policy, new Map(weights)),
  release: ({ job, rounds, delta }: { job: string; rounds: number; delta: number }) => {
    const { release } = readSpec(hexToBytes(job));
    return { ...release, epsilon: release && epsilonOfRounds(release, rounds, delta) };
  },
  steps: ({ steps, delta }: { steps: Steps[]; delta: number }) => epsilonOfSteps(steps, delta),
  similarity: ({ updates, job }: { updates: [number, string][]; job: string }) => {
    const spec = readSpec(hexToBytes(job));
    return similarityOf(new Map(updates.map(([seat, data]) => [seat, parseUpdate(hexToBytes(data), spec)])), spec.trained);
  },
  trail: ({ events, times }: { events: Event[]; times: number[] }) => {
    const [first, ...rest] = events.map(revived);
    const job = begin(first);
    const phases = [[phaseAt(job, times[0])]];
    rest.forEach((event, index) => {
      apply(job, event);
      phases.push([0, 59, 61, 10_000].map((later) => phaseAt(job, times[index + 1] + later)));
    });
    const { escrow, credits, stakes, bonds, findings } = moneyOf(job);
    return {
      phases,
      reputations: job.reputations,
      seats: new Map([...job.participants].map(([address, { seat }]) => [address, seat])),
      copies: job.history.map((over) => over.contributions.map(({ copyOf }) => copyOf)),
      escrow,
      credits,
      stakes,
      bonds,
      findings: findings.length,
    };
  },
};

/** Amounts and bit masks come as texts like "12n". */
function revived(event: Event): Event {
  return JSON.parse(JSON.stringify(event), (_, value) =>
    typeof value === "string" && /^\d+n$/.test(value) ? BigInt(value.slice(0, -1)) : value,
  );
}

function plain(_: string, value: unknown): unknown {
  if (typeof value === "bigint") return value.toString();
  return value instanceof Map ? Object.fromEntries(value) : value;
}

const questions: ({ ask: string } & Record<string, unknown>)[] = JSON.parse(readFileSync(0, "utf8"));
const answers: unknown[] = [];
for (const question of questions) {
  try {
    answers.push({ is: await ANSWERS[question.ask](question as never) });
  } catch (error) {
    answers.push({ refused: String(error) });
  }
}
process.stdout.write(JSON.stringify(answers, plain));
