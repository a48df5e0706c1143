/** What a job is and what its contract holds everybody to, in the words of `deepledger job show`. */
import { html, nothing, type TemplateResult } from "lit-html";
import { epsilonOfRounds } from "../core/noise.ts";
import type { Job } from "../core/job.ts";
import type { Noise, Spec } from "../core/spec.ts";
import { count, duration, eth } from "./format.ts";
import { mark } from "./marks.ts";

const READERS = {
  open: "open: everybody can read every update, for ever",
  sealed: "sealed: only the job's readers can read an update; everybody sees what is made of all",
  masked: "masked: nobody can read a single update; everybody sees the sum of all, and can check it",
  encrypted: "encrypted: nobody can read a single update; enough participants together decrypt the sum of all",
};
const SHARED: Record<string, string> = {
  equal: "alike among accepted updates",
  samples: "by declared samples among accepted updates",
  contribution: "by contribution, measured on the validation set",
};

export function termsView(job: Job, spec: Spec | null): TemplateResult {
  const { terms } = job.created;
  const penalty = terms.masked ? "is counted and does not unmask" : "commits and does not reveal";
  const show = terms.masked
    ? `${duration(terms.settleWindow)} to count, ${duration(terms.revealWindow)} to unmask`
    : `${duration(terms.revealWindow)} to reveal`;
  const listed = /[1-9a-f]/i.test(terms.admission.slice(2)) ? ", of those on the job's list" : "";
  return html`<h2>Terms</h2>
    <dl class="facts" data-terms>
      ${
        spec
          ? html`<dt>task</dt><dd>${spec.task}: ${count(spec.coordinates, "weight")}, by ${spec.rule.replaceAll("_", " ")}</dd>
      <dt>privacy</dt><dd>${READERS[spec.privacy]}</dd>
      ${noiseOf("samples", spec.privateSamples)}
      ${noiseOf("participants", spec.privateParticipants, spent(job, spec))}`
          : html`<dt>spec</dt><dd>${mark("missing", { words: true })}: what is trained, and who reads updates, stands in it</dd>`
      }
      <dt>reward</dt><dd>${eth(terms.reward)} a round${spec ? `, divided ${SHARED[spec.rewards] ?? spec.rewards}` : ""}; ${eth(terms.reward * BigInt(terms.rounds))} in all</dd>
      <dt>stake</dt><dd>${eth(terms.stake)}, given back to who leaves; ${eth(terms.revealPenalty)} of it are lost each time somebody ${penalty}</dd>
      <dt>coordinator</dt><dd>deposits ${eth(terms.bond)} and loses ${eth(terms.settlePenalty)} if it settles too late</dd>
      <dt>participants</dt><dd>${terms.minParticipants} to ${terms.maxParticipants}${listed}; ${count(terms.missLimit, "missed attempt")} in a row cost the seat</dd>
      <dt>deadlines</dt><dd>${duration(terms.commitWindow)} to train and commit, ${show}, ${duration(terms.settleWindow)} to settle; each ends early when all have acted</dd>
    </dl>`;
}

/** What the spec asks of noise; what was spent besides, only nodes can tell. */
function noiseOf(whose: string, noise: Noise | null, told: TemplateResult | typeof nothing = nothing) {
  if (!noise) return nothing;
  return html`<dt>privacy of ${whose}</dt><dd>the job asks for noise of ${noise.multiplier} clip norms of ${noise.clipNorm} in ${noise.where}, and tells ε at
    δ = ${noise.delta}.${told} ${mark("unchecked", { words: true })}: nobody sees what noise was drawn; a node's own ε tells <code>deepledger status</code></dd>`;
}

function spent(job: Job, { release, privateParticipants }: Spec): TemplateResult | typeof nothing {
  if (!release || !privateParticipants) return nothing;
  const of = (rounds: number) => epsilon(epsilonOfRounds(release, rounds, privateParticipants.delta));
  const { rounds } = job.created.terms;
  return html` With that noise, who took part in all of ${count(job.history.length, "settled round")} has shown <b data-epsilon>${of(job.history.length)}</b>, and in all ${rounds} will have shown ${of(rounds)}.`;
}

export function epsilon(value: number): string {
  return Number.isFinite(value) ? `ε = ${value.toPrecision(3)}` : "no finite ε";
}
