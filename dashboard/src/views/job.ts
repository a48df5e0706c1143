/** One job: how good its model gets, who is in which phase, and where the money went. */
import { html, nothing, type TemplateResult } from "lit-html";
import { type Address, OUTCOMES } from "../core/events.ts";
import { type Money, moneyOf } from "../core/money.ts";
import { epsilonOfSteps } from "../core/noise.ts";
import type { Spec } from "../core/spec.ts";
import { seatsOf } from "../core/rewards.ts";
import { FULL, type Job, type SettledRound } from "../core/job.ts";
import { hasCommitted, hasRevealed } from "../core/phases.ts";
import { markOf, type Verified } from "../verifier.ts";
import type { Page } from "../page.ts";
import { href } from "../place.ts";
import { chart } from "./chart.ts";
import { flow } from "./flow.ts";
import { count, eth, figure, moment, percent, short } from "./format.ts";
import { phaseText } from "./jobs.ts";
import { invitation } from "./node.ts";
import { epsilon, termsView } from "./terms.ts";
import { gasView } from "./gas.ts";
import { checkList, mark } from "./marks.ts";

export function jobView(page: Page, job: Job): TemplateResult {
  const { terms, coordinators } = job.created;
  const broken = page.ledger.jobs.get(job.id)?.broken;
  const money = moneyOf(job);
  const rounds = job.history.map((over, index) => ({ over, found: page.verified(job, index) }));
  const metric = headline(rounds.map(({ found }) => found));
  const outcome = job.outcome === null ? "" : ` (${OUTCOMES[job.outcome]})`;
  const spec = page.spec(job);
  return html`<h1>Job ${job.id}${spec ? `: ${spec.name}` : nothing}</h1>
    ${broken ? html`<p role="alert" class="wrong">${mark("wrong")} ${broken.message}. Transaction <span class="hash">${broken.event.at.transaction}</span>. What follows is as of before; use another RPC node.</p>` : nothing}
    <dl class="facts">
      <dt>phase</dt><dd>${phaseText(page, job.id)}${outcome}</dd>
      <dt>rounds</dt><dd>${job.history.length} of ${terms.rounds} settled</dd>
      <dt>coordinator</dt><dd class="hash">${coordinators[job.serving]}</dd>
      <dt>in escrow</dt><dd>${eth(money.escrow)}</dd>
    </dl>
    <p><a href=${href({ view: "trail", job: job.id, query: "" })}>The trail: ${job.events.length} events</a></p>
    ${termsView(job, spec)}
    ${invitation(job)}
    <h2>The chain</h2>
    ${checkList(page.state(job, money), job)}
    <h2 id="rounds">Rounds</h2>
    ${rounds.length ? summary(rounds.map(({ found }) => found)) : nothing}
    ${metric && rounds.length > 1 ? chart({ name: metric, values: rounds.map(({ found }) => result(found, metric)) }) : nothing}
    ${
      rounds.length
        ? html`<div class="scroll"><table>
      <thead><tr><th scope="col">Round</th><th scope="col">Checked</th><th scope="col">Accepted</th><th scope="col">Pot</th><th scope="col">${metric ? `${metric}, reported` : "Result"}</th><th scope="col">Settled</th></tr></thead>
      <tbody>${[...rounds].reverse().map(({ over, found }) => roundRow(job, over, found, metric))}</tbody>
    </table></div>`
        : html`<p>No round is settled yet.</p>`
    }
    <h2>Participants</h2>
    ${participants(job, money, statedBy(rounds.map(({ found }) => found), spec))}
    ${flow(job, money)}
    <h2>Gas</h2>
    ${gasView(page, job)}`;
}

/** What tells most of the model: accuracy where it is counted. */
function headline(found: Verified[]): string | null {
  const first = found.find((each) => each !== "waiting" && "results" in each && each.results.size);
  return first && first !== "waiting" && "results" in first ? [...first.results.keys()][0] : null;
}

function result(found: Verified, metric: string): number | null {
  return found !== "waiting" && "results" in found ? (found.results.get(metric) ?? null) : null;
}

function summary(found: Verified[]): TemplateResult {
  const marks = found.map(markOf);
  const of = (kind: string) => marks.filter((each) => each === kind).length;
  const parts = [
    `${of("recomputed")} of ${marks.length} recomputed here`,
    ...(of("partly") ? [`${of("partly")} in part`] : []),
    ...(of("wrong") ? [`${of("wrong")} with claims that do not hold`] : []),
    ...(of("missing") ? [`${of("missing")} of which blobs cannot be had`] : []),
    ...(of("waiting") ? [`${of("waiting")} to come`] : []),
  ];
  return html`<p role="status" class="summary">${parts.join(", ")}.</p>`;
}

function roundRow(job: Job, over: SettledRound, found: Verified, metric: string | null): TemplateResult {
  const { round } = over.opened;
  const value = metric ? result(found, metric) : null;
  return html`<tr>
    <th scope="row"><a href=${href({ view: "round", job: job.id, round })}>Round ${round}</a></th>
    <td>${mark(markOf(found), { words: true })}</td>
    <td>${seatsOf(over.settled.accepted).length} of ${over.opened.counted ? seatsOf(over.opened.counted.counted).length : over.opened.reveals.length}</td>
    <td>${eth(over.settled.pot)}</td>
    <td>${metric && value !== null ? figure(metric, value) : ""}</td>
    <td>${moment(over.settled.at.timestamp)}</td>
  </tr>`;
}

function participants(job: Job, money: Money, stated: ((who: Address) => string) | null): TemplateResult {
  const everybody = [...job.everybody.values()].sort(
    (a, b) => Number(job.participants.has(b.address)) - Number(job.participants.has(a.address)) || a.seat - b.seat,
  );
  if (!everybody.length) return html`<p>Nobody has joined yet.</p>`;
  return html`<div class="scroll"><table>
    <thead><tr><th scope="col">Participant</th><th scope="col">Seat</th><th scope="col">Samples</th><th scope="col">This round</th><th scope="col">Reputation</th><th scope="col">Earned</th><th scope="col">Stake</th>${stated ? html`<th scope="col">Samples' privacy, stated</th>` : nothing}</tr></thead>
    <tbody>${everybody.map(
      (each) => html`<tr>
      <th scope="row"><a class="hash" href=${href({ view: "participant", job: job.id, who: each.address })}>${short(each.address)}</a></th>
      <td>${job.participants.has(each.address) ? each.seat : "left"}</td>
      <td>${each.samples.toLocaleString("en")}</td>
      <td>${!job.attempt ? "" : hasRevealed(job.attempt, each.address) ? "revealed" : hasCommitted(job.attempt, each.address) ? "committed" : ""}</td>
      <td>${percent(job.reputations.get(each.address) ?? FULL)}</td>
      <td>${eth(money.paid.get(each.address) ?? 0n)}</td>
      <td>${eth(money.stakes.get(each.address) ?? 0n)}</td>${stated ? html`<td>${stated(each.address)}</td>` : nothing}
    </tr>`,
    )}</tbody>
  </table></div>`;
}

/** What each states of its samples' privacy, in the rounds that were derived here; null where no noise is asked for. */
function statedBy(found: Verified[], spec: Spec | null): ((who: Address) => string) | null {
  const asked = spec?.privateSamples;
  if (!asked) return null;
  const derived = found.flatMap((each) => (each !== "waiting" && "stated" in each ? [each] : []));
  return (who) => {
    const rounds = derived.flatMap(({ stated }) => (stated.has(who) ? [stated.get(who)!] : []));
    const spent = epsilonOfSteps(rounds.flat(), asked.delta);
    return rounds.length ? `${epsilon(spent)} or less, in ${count(rounds.length, "round")}` : "nothing";
  };
}
